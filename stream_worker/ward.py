"""What a viewer knows about a ward, built from the topics alone: beds, values, forecasts, open alerts.

Pure: records go in, nothing else. The terminal table and any other view read the same object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from schemas.alert import Alert, Heartbeat, Priority
from schemas.dead_letter import DeadLetter
from schemas.forecast import Forecast
from schemas.reading import Reading, StayEvent
from schemas.signals import VITALS_BY_NAME, canonical, plausible
from stream_worker.alerts.entries import TOLD_EVERY_S
from stream_worker.times import to_time
from stream_worker.ward_words import plural

RANK: Final[Mapping[Priority, int]] = {"high": 0, "medium": 1, "low": 2, "info": 3}
FAR_BEHIND: Final = timedelta(minutes=5)  # beyond it, readings are not live, and a view must say so
UNFED_AFTER: Final = timedelta(minutes=6)  # longer than between the sparsest regular readings, one in five minutes
HEARTBEAT: Final = timedelta(seconds=10)  # how often a worker's come, unless its settings say otherwise
BEATS_MISSED: Final = 3  # in a row, and the worker is silent
FORGET_EVERY_MS: Final = 3_600_000
TOLD_EVERY_MS: Final = int(TOLD_EVERY_S * 1000)

Trend = Literal["up", "down", "steady"]
OfStay = Reading | StayEvent | Forecast | Alert
Record = OfStay | Heartbeat | DeadLetter


class Band(NamedTuple):
    """A forecast of one signal at one horizon: the median, and the outermost quantiles around it."""

    median: float
    low: float
    high: float
    horizon_s: int


class Message(NamedTuple):
    """A record as it came from Kafka."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    value: bytes


SHOWN_HORIZON_S: Final = 900  # of the forecast that stands beside a value, and whose past is kept
NONE_YET: Final = -1  # before any offset


class Observed(NamedTuple):
    """The newest value of a signal, in its canonical unit, and the offset of its reading."""

    value: float
    at: datetime
    offset: int


def offset_of(record: OfStay, message: Message) -> int:
    """The offset of the reading or event that the record is, or comes from."""
    return record.source.offset if isinstance(record, Forecast | Alert) else message.offset


def nearest(numbers: Sequence[float], wanted: float) -> int:
    """Where in `numbers` the one nearest to `wanted` is, the first of equals."""
    return min(range(len(numbers)), key=lambda index: abs(numbers[index] - wanted))


class Bed:
    """One stay as its newest records describe it."""

    def __init__(self, stay_id: str) -> None:
        self.stay_id = stay_id
        self.care_unit: str | None = None
        self.unit_told: tuple[int, datetime] | None = None  # offset and time of the reading that did
        self.values: dict[str, Observed] = {}
        self.forecast: Forecast | None = None
        self.offset = NONE_YET  # of its newest reading, known by its forecast perhaps
        self.read_until = NONE_YET  # likewise, of those that were read

    def take(self, signal: str, observed: Observed) -> None:
        """Show a value, unless a newer one is shown."""
        known = self.values.get(signal)
        if known is None or (known.at, known.offset) <= (observed.at, observed.offset):
            self.values[signal] = observed

    def see_unit(self, reading: Reading, offset: int) -> None:
        """Note where the stay is, as the worker does: an older reading that comes late does not take it back.

        One that is read after what came behind it may be the newest to say so: most readings of some senders do not.
        """
        if not reading.care_unit:
            return
        told = self.unit_told
        newest = told[1] if told is not None and offset < self.read_until else self.newest
        if told is None or newest is None or newest <= reading.observed_at:
            self.care_unit, self.unit_told = reading.care_unit, (offset, reading.observed_at)

    def forget_before(self, end: int) -> None:
        """Let go of what was before the stay's end, at that offset, which is read later than what came after it."""
        self.values = {name: seen for name, seen in self.values.items() if seen.offset >= end}
        if self.unit_told is not None and self.unit_told[0] < end:
            self.care_unit = self.unit_told = None
        if self.forecast is not None and self.forecast.source.offset < end:
            self.forecast = None

    @property
    def newest(self) -> datetime | None:
        """When the stay was last observed."""
        return max((observed.at for observed in self.values.values()), default=None)

    def band(self, signal: str, horizon_s: int = SHOWN_HORIZON_S) -> Band | None:
        """The newest forecast of the signal at the horizon nearest to `horizon_s`; None without one."""
        if self.forecast is None or signal not in self.forecast.signals:
            return None
        horizons, levels = self.forecast.horizons_s, self.forecast.quantile_levels
        rows = self.forecast.signals[signal].quantiles
        if not levels or not rows or len(rows) != len(horizons) or {len(row) for row in rows} != {len(levels)}:
            return None  # not as the contract has it: shown as no forecast
        h = nearest(horizons, horizon_s)
        row = rows[h]
        return Band(row[nearest(levels, 0.5)], row[0], row[-1], horizons[h])


class Ward:
    """All beds and all open alerts. The alerts are exact if every record of the alerts topic was applied in order.

    Other records may come in any order, so that the past can be read after the present.
    """

    def __init__(self, stale_after: timedelta, forget_after: timedelta, heartbeat: timedelta = HEARTBEAT) -> None:
        """A stay unobserved for longer than `stale_after` is stale; `heartbeat`: how often the worker's come.

        One that nothing has come of for longer than `forget_after` is forgotten, unless it has an open alert: by when
        records came, as the worker does, since recordings of many years may be replayed side by side.
        """
        self._stale_after = stale_after
        self._silent_after = BEATS_MISSED * heartbeat
        self._forget_after_ms = forget_after // timedelta(milliseconds=1)
        self._heard_ms: dict[str, int] = {}  # when the newest record of each stay came
        self._newest_ms = self._forgot_ms = self._read_ms = 0
        self.beds: dict[str, Bed] = {}
        self.newest: datetime | None = None  # event time
        self._alerts: dict[str, Alert] = {}
        self._told_ms: dict[str, int] = {}  # when each was told last
        self._heartbeats: dict[int, Heartbeat] = {}
        self._ended: dict[str, int] = {}  # the offset of each stay's last end

    def apply(self, record: Record, message: Message) -> None:
        """Take in one record of any topic, and how it came. Topics may be interleaved in any way."""
        match record:
            case Reading() | Forecast() if self._is_of_before(record, message):
                pass
            case Reading():
                self._place_reading(record, message.offset)
            case StayEvent():
                self._place_event(record, message.offset)
            case Forecast():
                self._place_forecast(record)
            case Alert():
                self._place_alert(record)
            case Heartbeat():
                self._heartbeats[record.partition] = record
            case DeadLetter():
                pass
        if isinstance(record, Reading):
            self._read_ms = max(self._read_ms, message.timestamp_ms)
        if isinstance(record, Reading | StayEvent | Forecast):
            heard_ms = self._heard_ms.get(record.stay_id, message.timestamp_ms)
            self._heard_ms[record.stay_id] = max(heard_ms, message.timestamp_ms)
        if isinstance(record, Alert):
            self._told_ms[record.alert_id] = message.timestamp_ms
        self._newest_ms = max(self._newest_ms, message.timestamp_ms)
        if self._newest_ms - self._forgot_ms >= FORGET_EVERY_MS:
            self._forgot_ms = self._newest_ms
            self._forget()

    def clear(self) -> None:
        """Begin anew, as if nothing had come yet."""
        known: dict[Any, Any]
        for known in (self.beds, self._alerts, self._told_ms, self._heartbeats, self._heard_ms, self._ended):
            known.clear()
        self.newest = None
        self._read_ms = 0

    def _forget(self) -> None:
        """Let go of the stays that have been silent for too long, and of alerts that were not told for longer yet.

        The end of these has not come and never will, as after the state was lost: what is open is told once a day, and
        cleared when its stay has been silent for too long.
        """
        told_since_ms = self._newest_ms - self._forget_after_ms - TOLD_EVERY_MS
        self._alerts = {name: alert for name, alert in self._alerts.items() if self._told_ms[name] >= told_since_ms}
        self._told_ms = {name: self._told_ms[name] for name in self._alerts}
        alerting = self.alerting
        for stay_id, heard_ms in [*self._heard_ms.items()]:
            if self._newest_ms - heard_ms > self._forget_after_ms and stay_id not in alerting:
                for known in (self._heard_ms, self._ended, self.beds):
                    known.pop(stay_id, None)

    @property
    def alerting(self) -> set[str]:
        """The stays with an open alert."""
        return {alert.stay_id for alert in self._alerts.values()}

    @property
    def stays(self) -> set[str]:
        """The stays that have a bed, or an open alert alone."""
        return self.beds.keys() | self.alerting

    @property
    def open_alerts(self) -> list[Alert]:
        """Most urgent first, then the newest."""
        return sorted(self._alerts.values(), key=lambda alert: (RANK[alert.priority], -alert.since.timestamp()))

    def by_need(self) -> list[tuple[Bed, list[Alert]]]:
        """Every bed with its open alerts, those in need first; of some stays only an open alert is known.

        Need: by the most urgent alert, then by how probable it is, then by the number of alerts, then by name.
        """
        alerts: dict[str, list[Alert]] = {stay_id: [] for stay_id in self.beds}
        for alert in self.open_alerts:
            alerts.setdefault(alert.stay_id, []).append(alert)

        def need(stay_id: str) -> tuple[int, float, int, str]:
            urgent = alerts[stay_id]
            rank = RANK[urgent[0].priority] if urgent else len(RANK)
            return (rank, -_probability(urgent, rank), -len(urgent), stay_id)

        return [(self.beds.get(stay_id) or Bed(stay_id), alerts[stay_id]) for stay_id in sorted(alerts, key=need)]

    def age(self, at: datetime) -> timedelta:
        """How old something is against the newest event time: recordings are not old for being made long ago."""
        return timedelta(0) if self.newest is None else max(self.newest - at, timedelta(0))

    def is_stale(self, bed: Bed) -> bool:
        """Whether the bed was observed once, but not lately."""
        return bed.newest is not None and self.age(bed.newest) > self._stale_after

    def band(self, bed: Bed, signal: str, horizon_s: int) -> Band | None:
        """The bed's forecast of the signal; None without one, and once the time that it is for has come."""
        band = bed.band(signal, horizon_s)
        if band is None or bed.forecast is None or self.age(bed.forecast.issued_at).total_seconds() >= band.horizon_s:
            return None
        return band

    def shown(self, bed: Bed, names: Sequence[str]) -> str | None:
        """Of signals that stand in for each other, the first that was observed lately, or at all; None if none was."""
        known = [name for name in names if name in bed.values]
        fresh = [name for name in known if self.age(bed.values[name].at) <= self._stale_after]
        return next(iter([*fresh, *known]), None)

    def behind(self, now: datetime) -> timedelta | None:
        """How far the newest event time is behind the clock, if far enough to matter."""
        if self.newest is None or now - self.newest < FAR_BEHIND:
            return None
        return now - self.newest

    def unfed(self, now: datetime) -> timedelta | None:
        """For how long no reading of any stay has come, if for so long that what was live is so no more.

        Then no bed looks stale, since each is as old as the newest. A replay of old readings does come. Where none was
        read, as when only forecasts are kept for long, nobody knows.
        """
        if not self._read_ms:
            return None
        silent = now - to_time(self._read_ms * 1000)
        return silent if self.behind(now) is not None and silent > UNFED_AFTER else None

    def worker(self, now: datetime) -> str:
        """What the heartbeats say: silence on the alerts topic is calm only while they come."""
        alive, known = self._alive(now), len(self._heartbeats)
        if not known:
            return "not heard from"
        if alive == known:
            return f"running, {alive} partition{plural(alive)}"
        if all(beat.state != "running" for beat in self._heartbeats.values()):
            return "stopped"
        return f"silent on {known - alive} of {known} partitions"

    def is_running(self, now: datetime) -> bool:
        """Whether the worker of every partition is: of one that was never heard from, nobody knows."""
        return 0 < self._alive(now) == len(self._heartbeats)

    def is_unwatched(self, now: datetime, since: datetime) -> bool:
        """Whether to cry that no alert would come, to one who listens `since`.

        A worker never heard from may be about to start, as the listener is: it has the time of three heartbeats.
        """
        return not self.is_running(now) and (bool(self._heartbeats) or now - since > self._silent_after)

    def _alive(self, now: datetime) -> int:
        """Of how many partitions the worker runs."""
        return sum(
            beat.state == "running" and now - beat.produced_at < self._silent_after
            for beat in self._heartbeats.values()
        )

    def _place_reading(self, reading: Reading, offset: int) -> None:
        bed = self._bed(reading.stay_id)
        bed.see_unit(reading, offset)
        bed.read_until = max(bed.read_until, offset)
        bed.offset = max(bed.offset, offset)
        for signal, value in usable_values(reading).items():
            bed.take(signal, Observed(value, reading.observed_at, offset))
        self._see(reading.observed_at)

    def _place_event(self, event: StayEvent, end: int) -> None:
        if event.event != "ended":
            return
        self._ended[event.stay_id] = max(end, self._ended.get(event.stay_id, end))
        bed = self.beds.get(event.stay_id)
        if bed is None:
            return
        if bed.offset < end:
            del self.beds[event.stay_id]
        else:
            bed.forget_before(end)

    def _place_forecast(self, forecast: Forecast) -> None:
        bed = self._bed(forecast.stay_id)
        bed.offset = max(bed.offset, forecast.source.offset)
        if bed.forecast is None or _order(bed.forecast) <= _order(forecast):
            bed.forecast = forecast
        for signal, state in forecast.signals.items():
            if signal not in VITALS_BY_NAME:  # what only the model's manifest declares is shown as the worker took it
                bed.take(signal, Observed(state.last, state.last_at, forecast.source.offset))
        self._see(forecast.issued_at)

    def _place_alert(self, alert: Alert) -> None:
        known = self._alerts.get(alert.alert_id)
        if alert.state == "cleared":
            self._alerts.pop(alert.alert_id, None)
        elif known is None or known.revision <= alert.revision:
            self._alerts[alert.alert_id] = alert

    def _bed(self, stay_id: str) -> Bed:
        return self.beds.setdefault(stay_id, Bed(stay_id))

    def _is_of_before(self, record: OfStay, message: Message) -> bool:
        """Whether it belongs to a stay that has ended, though its id may be another one's by now.

        A stay's last forecasts arrive after the event.
        """
        end = self._ended.get(record.stay_id)
        return end is not None and offset_of(record, message) < end

    def _see(self, at: datetime) -> None:
        self.newest = at if self.newest is None else max(self.newest, at)


def _order(forecast: Forecast) -> tuple[datetime, int]:
    """Which of a stay's forecasts is the newer one: a reading that comes late leaves one of the same time."""
    return forecast.issued_at, forecast.source.offset


def _probability(alerts: list[Alert], rank: int) -> float:
    """The highest probability among the alerts of that rank: 1 for what has happened already, 0 without alerts."""
    values = [alert.evidence.get("probability") for alert in alerts if RANK[alert.priority] == rank]
    return max((value if isinstance(value, int | float) else 1.0 for value in values), default=0.0)


def trend(observed: Observed | None, band: Band | None) -> Trend | None:
    """Where the forecast goes: up or down if its median leaves the newest value by a quarter of its band, else steady.

    So a change that is small beside the forecast's own doubt is no trend.
    """
    if observed is None or band is None:
        return None
    change, doubt = band.median - observed.value, (band.high - band.low) / 4
    if abs(change) <= doubt or change == 0:
        return "steady"
    return "up" if change > 0 else "down"


def usable_values(reading: Reading) -> dict[str, float]:
    """The known, plausible values of a reading in canonical units, as the worker takes them."""
    units, quality, found = reading.units or {}, reading.quality or {}, dict[str, float]()
    for name, value in reading.vitals.items():
        signal = VITALS_BY_NAME.get(name)
        if signal is not None and value is not None:
            usable = canonical(signal, value, units.get(name), quality.get(name))
            if not isinstance(usable, str):
                found[name] = usable
    return {name: round(value, VITALS_BY_NAME[name].decimals) for name, value in plausible(found).items()}
