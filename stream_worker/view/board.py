"""A ward with its recent past: what each stay was, what was forecast for it, and every revision of its alerts.

Pure: records go in, nothing else. All of it is bounded.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from bisect import insort
from collections.abc import Mapping, Set
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from schemas.alert import Alert, Heartbeat
from schemas.dead_letter import DeadLetter
from schemas.forecast import Forecast
from schemas.reading import LimitRange, Reading, StayEvent
from schemas.signals import VITALS_BY_NAME
from stream_worker.limits import AlertLimits, SignalLimits, can_add, limits_of
from stream_worker.ward import (
    HEARTBEAT,
    SHOWN_HORIZON_S,
    Message,
    OfStay,
    Record,
    Ward,
    nearest,
    usable_values,
)

MINUTE_S: Final = 60
HISTORY_MIN: Final = 240  # a nursing shift's half: what still fits a chart at one point a minute
ALERTS_KEPT: Final = 60  # of each stay, cleared ones included
REVISIONS_KEPT: Final = 30  # of each alert
MESSAGES_KEPT: Final = 12  # of each stay
SIGNALS_KEPT: Final = 40  # of each stay: a guard against models or senders that invent names


class Due(NamedTuple):
    """What was forecast for one minute, `horizon_s` before: quantiles along `levels`, and the value at that time."""

    levels: tuple[float, ...]
    quantiles: tuple[float, ...]
    last: float
    horizon_s: int


class Track:
    """One signal of one stay, by minutes since the epoch."""

    def __init__(self) -> None:
        self.values: dict[int, float] = {}  # the minute's mean
        self.due: dict[int, Due] = {}  # by the minute that was forecast
        self.anomalies: dict[int, float] = {}  # flagged minutes, with the value then
        self.doubted: dict[int, bool] = {}
        self._counts: dict[int, int] = {}

    def add(self, minute: int, value: float, *, is_doubted: bool = False) -> None:
        """Take one more value into the minute's mean; one that is doubted is not what a forecast is scored by."""
        if is_doubted:
            self.doubted[minute] = True
            _trim(self.doubted, HISTORY_MIN)
        count = self._counts.get(minute, 0) + 1
        mean = self.values.get(minute, 0.0)
        self._counts[minute], self.values[minute] = count, mean + (value - mean) / count
        _trim(self.values, HISTORY_MIN)
        _trim(self._counts, HISTORY_MIN)

    def keep(self, minutes: Set[int]) -> None:
        """Let go of all but what was told, or forecast, in these minutes."""
        for told in (self.values, self._counts, self.anomalies, self.doubted):
            for minute in told.keys() - minutes:
                del told[minute]
        self.due = {at: due for at, due in self.due.items() if at - due.horizon_s // MINUTE_S in minutes}


class Past:
    """The recent past of one stay."""

    def __init__(self) -> None:
        self.tracks: dict[str, Track] = {}
        self.alerts: dict[str, list[Alert]] = {}  # revisions by alert_id, in order
        self.messages: list[Message] = []  # by Kafka timestamp
        self.limits: dict[str, tuple[int, LimitRange]] = {}  # the stay's own, and the offset they came at
        self.changed_ms = 0  # Kafka timestamp of the newest reading
        self._came: dict[int, int] = {}  # by minute: the newest offset of what was told in it

    def note(self, minute: int, offset: int) -> None:
        """Something was told in the minute, by the reading at `offset`."""
        self._came[minute] = max(offset, self._came.get(minute, offset))
        _trim(self._came, HISTORY_MIN)

    def forget_before(self, end: int, end_ms: int) -> None:
        """Let go of what was before the stay's end, which is read later than what came after it.

        end, end_ms : where and when the end came, by Kafka.
        """
        since = {minute for minute, offset in self._came.items() if offset >= end}
        for track in self.tracks.values():
            track.keep(since)
        self.tracks = {name: track for name, track in self.tracks.items() if track.values or track.due}
        self.alerts = {name: known for name, known in self.alerts.items() if known[0].source.offset >= end}
        self.limits = {signal: own for signal, own in self.limits.items() if own[0] > end}
        self.messages = [message for message in self.messages if message.timestamp_ms >= end_ms]

    def track(self, signal: str) -> Track:
        """The signal's track; one that is kept nowhere beyond `SIGNALS_KEPT`."""
        known = self.tracks.get(signal)
        if known is None:
            known = Track()
            if len(self.tracks) < SIGNALS_KEPT:
                self.tracks[signal] = known
        return known


class Board(Ward):
    """A ward that remembers the last hours, and names stays by handles that reveal nothing outside of this process."""

    def __init__(
        self,
        limits: Mapping[str, AlertLimits],
        stale_after: timedelta,
        forget_after: timedelta,
        heartbeat: timedelta = HEARTBEAT,
        signals: Set[str] | None = None,
    ) -> None:
        """`limits`: those of the care units; `signals`: those that the worker knows; the times are a Ward's."""
        super().__init__(stale_after, forget_after, heartbeat)
        self.lock = threading.Lock()  # held while a record is taken in; readers in other threads hold it too
        self._limits = limits
        self._signals = signals
        self._pasts: dict[str, Past] = {}
        self._key = secrets.token_bytes(32)
        self._handles: dict[str, str] = {}
        self._stay_ids: dict[str, str] = {}

    def apply(self, record: Record, message: Message) -> None:
        """Take in one record. Repeats, as after reading back once more, change nothing but the minute's mean."""
        with self.lock:
            super().apply(record, message)
            self._keep(record, message)

    def clear(self) -> None:
        """Begin anew; beds that come again have the addresses that they had."""
        with self.lock:
            super().clear()
            self._pasts.clear()

    def _forget(self) -> None:
        super()._forget()
        alerting = self.alerting
        for past in self._pasts.values():
            past.alerts = {
                name: told for name, told in past.alerts.items() if name in self._alerts or told[-1].state == "cleared"
            }
        for stay_id in self._pasts.keys() - self.beds.keys() - alerting:
            del self._pasts[stay_id]
        for stay_id in self._handles.keys() - self.beds.keys() - alerting:
            del self._stay_ids[self._handles.pop(stay_id)]

    def _keep(self, record: Record, message: Message) -> None:
        match record:
            case Heartbeat() | DeadLetter():
                return
            case StayEvent(event="ended"):
                self._end(record, message)
                return
            case _ if self._is_of_before(record, message):
                return
            case Reading():
                self._keep_reading(record, message)
            case StayEvent():
                self._keep_limits(record, message)
            case Forecast():
                self._keep_forecast(record)
            case Alert():
                self._keep_alert(record)
        past = self._pasts.get(record.stay_id)
        if past is not None and message not in past.messages:
            insort(past.messages, message, key=lambda known: known.timestamp_ms)
            del past.messages[:-MESSAGES_KEPT]

    def _is_of_before(self, record: OfStay, message: Message) -> bool:
        if isinstance(record, Alert) and record.state == "cleared":  # by the stay's end at the latest
            return record.alert_id not in self.past(record.stay_id).alerts  # its beginning is not known then
        return super()._is_of_before(record, message)

    def past(self, stay_id: str) -> Past:
        """What is remembered of the stay; an empty past for an unknown one."""
        return self._pasts.get(stay_id) or Past()

    def limits(self, stay_id: str) -> dict[str, SignalLimits]:
        """The alert limits that hold for the stay, by the settings of this viewer and the stay's own events."""
        return limits_of(self._limits, *self._own_limits(stay_id))

    def _own_limits(self, stay_id: str) -> tuple[str | None, dict[str, LimitRange]]:
        """The stay's care unit, and what its own events say."""
        bed = self.beds.get(stay_id)
        overrides = {signal: override for signal, (_, override) in self.past(stay_id).limits.items()}
        return bed.care_unit if bed else None, overrides

    def handle(self, stay_id: str) -> str:
        """An opaque name of the stay for addresses: a keyed hash, the key being this process's own."""
        known = self._handles.get(stay_id)
        if known is None:
            known = hmac.new(self._key, stay_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:20]
            self._handles[stay_id], self._stay_ids[known] = known, stay_id
        return known

    def stay_of(self, handle: str) -> str | None:
        """The stay of a handle that was given out; None for any other text."""
        return self._stay_ids.get(handle)

    def _remember(self, stay_id: str) -> Past:
        return self._pasts.setdefault(stay_id, Past())

    def _keep_reading(self, reading: Reading, message: Message) -> None:
        if reading.stay_id not in self.beds:
            return
        past = self._remember(reading.stay_id)
        minute, quality = minute_of(reading.observed_at), reading.quality or {}
        past.note(minute, message.offset)
        for signal, value in usable_values(reading).items():
            past.track(signal).add(minute, value, is_doubted=quality.get(signal) == "questionable")
        past.changed_ms = max(past.changed_ms, message.timestamp_ms)

    def _end(self, event: StayEvent, message: Message) -> None:
        past = self._pasts.get(event.stay_id)
        if past is not None:
            past.forget_before(message.offset, message.timestamp_ms)
            if event.stay_id not in self.beds and not past.alerts:
                del self._pasts[event.stay_id]

    def _keep_limits(self, event: StayEvent, message: Message) -> None:
        limits = event.limits or {}
        if self._signals is not None and not limits.keys() <= self._signals:
            return  # the worker refuses all of it
        if limits and can_add(self._limits, *self._own_limits(event.stay_id), limits):
            known = self._remember(event.stay_id).limits
            for signal, override in limits.items():
                if signal not in known or known[signal][0] <= message.offset:
                    known[signal] = message.offset, override

    def _keep_forecast(self, forecast: Forecast) -> None:
        if forecast.stay_id not in self.beds or not forecast.horizons_s or not forecast.quantile_levels:
            return
        past = self._remember(forecast.stay_id)
        horizons = forecast.horizons_s
        index = nearest(horizons, SHOWN_HORIZON_S)
        minute = minute_of(forecast.issued_at)
        past.note(minute, forecast.source.offset)
        due_minute = minute + horizons[index] // MINUTE_S
        for signal, state in forecast.signals.items():
            track = past.track(signal)
            if signal not in VITALS_BY_NAME:  # what only the model's manifest declares is known from forecasts alone
                track.add(minute_of(state.last_at), state.last)
            if index < len(state.quantiles) and len(state.quantiles[index]) == len(forecast.quantile_levels):
                # The first of each minute: as far ahead as its horizon says, and not replaced by repeats.
                row = tuple(state.quantiles[index])
                track.due.setdefault(due_minute, Due(tuple(forecast.quantile_levels), row, state.last, horizons[index]))
                _trim(track.due, HISTORY_MIN)
            anomaly = forecast.anomalies.get(signal)
            if anomaly is not None and anomaly.flag:
                track.anomalies[minute] = state.last
                _trim(track.anomalies, HISTORY_MIN)

    def _keep_alert(self, alert: Alert) -> None:
        alerts = self._remember(alert.stay_id).alerts
        revisions = alerts.setdefault(alert.alert_id, [])
        if not revisions or revisions[-1].revision < alert.revision:
            revisions.append(alert)
            del revisions[1:-REVISIONS_KEPT]  # the first says how it began
        while len(alerts) > ALERTS_KEPT:
            cleared = (name for name, known in alerts.items() if known[-1].state == "cleared")
            del alerts[next(cleared, next(iter(alerts)))]


def minute_of(at: datetime) -> int:
    """Whole minutes since the epoch."""
    return int(at.timestamp()) // MINUTE_S


def _trim(by_minute: dict[int, Any], size: int) -> None:
    """Forget the oldest beyond `size`."""
    while len(by_minute) > size:
        del by_minute[min(by_minute)]
