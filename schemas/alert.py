"""What leaves on `vitals.alerts`: alerts and heartbeats. Consumers select by `schema`."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from schemas.forecast import Source
from schemas.reading import Timestamp

ALERT_V1: Final = "vitals.alert.v1"
HEARTBEAT_V1: Final = "vitals.heartbeat.v1"

AlertState = Literal["raised", "updated", "cleared"]
Kind = Literal["limit", "forecast_limit", "anomaly", "technical", "news2"]
Side = Literal["low", "high"]
Cause = Literal["sensor_off", "flatline", "implausible", "disagreement", "no_data"]
Priority = Literal["high", "medium", "low", "info"]  # PH, PM, PL, PN of IHE PCD-04
ClearReason = Literal["recovered", "data_lost", "stay_ended", "superseded"]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of one alert. Everything but produced_at is a function of the readings."""

    schema: Literal["vitals.alert.v1"] = ALERT_V1
    alert_id: str
    revision: int
    state: AlertState
    stay_id: str
    care_unit: str | None = None
    kind: Kind
    signal: str | None = None
    side: Side | None = None
    cause: Cause | None = None
    priority: Priority
    since: Timestamp
    event_at: Timestamp
    produced_at: Timestamp
    message: str
    message_key: str
    message_params: dict[str, Any] = {}
    evidence: dict[str, Any] = {}
    clear_reason: ClearReason | None = None
    superseded_by: str | None = None
    lead_time_s: float | None = None
    source: Source


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Says that a partition is being worked on, so that a silent topic is not mistaken for a calm ward."""

    schema: Literal["vitals.heartbeat.v1"] = HEARTBEAT_V1
    partition: int
    produced_at: Timestamp
    newest_observed_at: Timestamp | None = None
    state: Literal["running", "stopping"]
