"""Records as a ward receives them, with one line for what a test is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.alert import Alert
from schemas.forecast import Forecast, ModelReference, SignalForecast, Source
from schemas.reading import STAY_EVENT_V1, LimitRange, Reading, StayEvent
from stream_worker.ward import Message, Ward

T0 = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
SOURCE = Source("vitals.readings", 0, 1)
STALE_AFTER = timedelta(minutes=15)


def at(minutes: float) -> datetime:
    """That many minutes after T0."""
    return T0 + timedelta(minutes=minutes)


def reading(stay_id: str = "a", minutes: float = 0, **vitals: float) -> Reading:
    """A reading with these vitals."""
    return Reading(stay_id=stay_id, observed_at=at(minutes), vitals=dict(vitals))


def ended(minutes: float, stay_id: str = "a") -> StayEvent:
    """The end of a stay."""
    return StayEvent(schema=STAY_EVENT_V1, stay_id=stay_id, at=at(minutes), event="ended")


def own_limits(minutes: float, **limits: LimitRange) -> StayEvent:
    """Limits of the stay's own."""
    return StayEvent(schema=STAY_EVENT_V1, stay_id="a", at=at(minutes), event="limits", limits=limits)


def forecast(stay_id: str = "a", minutes: float = 0, median: float = 70.0, signal: str = "abp_mean") -> Forecast:
    """A forecast of one signal at 1 and 15 minutes, its band 1 and 5 to either side."""
    rows = [[median - 1, median, median + 1], [median - 5, median, median + 5]]
    return Forecast(
        forecast_id=f"{stay_id}-{minutes}",
        stay_id=stay_id,
        issued_at=at(minutes),
        produced_at=at(minutes),
        status="ok",
        model=ModelReference("m", "1", "0" * 12),
        step_s=60,
        horizons_s=[60, 900],
        quantile_levels=[0.05, 0.5, 0.95],
        signals={signal: SignalForecast(median, at(minutes), rows)},
        anomalies={},
        source=SOURCE,
    )


def alert(alert_id: str = "x", stay_id: str = "a", minutes: float = 0, **changes: Any) -> Alert:
    """A raised alert of medium priority; `changes` override any field."""
    known: dict[str, Any] = {
        "revision": 0,
        "state": "raised",
        "kind": "limit",
        "signal": "abp_mean",
        "side": "low",
        "priority": "medium",
        "since": at(minutes),
        "event_at": at(minutes),
        "produced_at": at(minutes),
        "message": "Mean arterial pressure below 65 mmHg",
        "message_key": "limit.low",
        "source": SOURCE,
    }
    return Alert(alert_id=alert_id, stay_id=stay_id, **{**known, **changes})


def came(offset: int = 1, timestamp_ms: int = 0) -> Message:
    """How a record came."""
    return Message(SOURCE.topic, 0, offset, timestamp_ms, b"{}")


def ward_of(*records: Any) -> Ward:
    """A ward that has seen these records, at offsets from that of SOURCE on."""
    ward = Ward(STALE_AFTER, timedelta(days=1))
    for offset, record in enumerate(records, SOURCE.offset):
        ward.apply(record, came(offset))
    return ward
