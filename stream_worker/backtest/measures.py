"""How good alerts are: against the episodes of the recordings, by the clock a ward lives by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from model.arrays import Floats
from schemas.alert import Alert
from stream_worker.backtest.episodes import (
    EPISODE_TYPES,
    HYPOTENSION,
    SEVERE_TYPES,
    EpisodeType,
    Recording,
    episodes_of,
)

LATEST_MIN: Final = 2.0  # after an episode's confirmation, for its limit alert
LATEST_HIGH_MIN: Final = 1.0  # after the first minute of a severe one, for its alert of high priority
# An early warning comes so long before the episode begins: later it is no warning, earlier it is about something else.
WARNING_MIN: Final = (5.0, 60.0)


@dataclass(slots=True)
class Span:
    """One alert from raised to cleared, in minutes from its recording's start."""

    stay_id: str
    kind: str
    signal: str | None
    side: str | None
    cause: str | None
    raised: float
    cleared: float = np.inf
    high_from: float = np.inf
    probability: float | None = None
    horizon_min: float = 0.0
    clear_reason: str | None = None
    priority: str = "medium"  # the highest it had
    lead_time_min: float | None = None  # of a forecast alert that came true

    @property
    def about(self) -> str:
        """What it is about, as one word for tables."""
        return " ".join(part for part in (self.kind, self.signal, self.side or self.cause) if part)

    @property
    def is_announcement(self) -> bool:
        """Whether it announces hypotension."""
        return (self.kind, self.signal, self.side) == ("forecast_limit", HYPOTENSION.signal, HYPOTENSION.side)


def spans_of(alerts: Iterable[Alert], recordings: Mapping[str, Recording]) -> list[Span]:
    """The revisions joined to alerts, in the order in which they were raised."""
    spans: dict[str, Span] = {}
    for alert in alerts:
        at = alert.event_at.timestamp() / 60 - recordings[alert.stay_id].start
        span = spans.get(alert.alert_id)
        if span is None:
            evidence: dict[str, Any] = alert.evidence
            span = spans[alert.alert_id] = Span(alert.stay_id, alert.kind, alert.signal, alert.side, alert.cause, at)
            span.probability = evidence.get("probability")
            span.horizon_min = evidence.get("horizon_s", 0) / 60
            span.priority = alert.priority
        if alert.priority == "high":
            span.high_from, span.priority = min(span.high_from, at), "high"
        if alert.state == "cleared":
            span.cleared, span.clear_reason = at, alert.clear_reason
            span.lead_time_min = None if alert.lead_time_s is None else alert.lead_time_s / 60
    return list(spans.values())


class EpisodesFound(msgspec.Struct, frozen=True):
    """Episodes of one type, and how many of them had their alert in time.

    alerted : it was open or raised in time. newly : of them by an alert of the episode's own, not raised before it.
    """

    episode: str
    episodes: int
    stays: int
    alerted: int
    newly: int

    @property
    def share(self) -> float | None:
        """Alerted / episodes; None where there were none."""
        return self.alerted / self.episodes if self.episodes else None


class Warned(msgspec.Struct, frozen=True):
    """Early warning of hypotension by alerts, or by a plain rule.

    strict : share of episodes with an alert raised 5 to 60 min before they begin. loose : or raised earlier and still
    open 5 min before. precision : share of alerts followed by an episode's beginning within 60 min. open : share of
    all time with an alert open.
    """

    by: str
    episodes: int
    strict: float
    loose: float
    alerts_per_day: float
    precision: float
    open: float


class Bin(msgspec.Struct, frozen=True):
    """Forecast alerts by the probability they were raised with, and how many came true within their horizon."""

    low: float
    high: float
    alerts: int
    true: int


class Measures(msgspec.Struct, frozen=True):
    """What was found on a group of stays.

    days : from each stay's first row to its last; whatever is told a day is of these. monitored_days : of them the
    minutes with any plausible value. raised_per_monitored_day : None without such a minute.
    """

    name: str
    stays: int
    days: float
    monitored_days: float
    raised_per_day: float
    raised_per_monitored_day: float | None
    by_kind: Mapping[str, float]
    by_about: Mapping[str, float]
    by_priority: Mapping[str, Mapping[str, float]]
    found: tuple[EpisodesFound, ...]
    severe: tuple[EpisodesFound, ...]
    warned: tuple[Warned, ...]
    calibration: tuple[Bin, ...]
    calibration_by_episode: Mapping[str, tuple[Bin, ...]]
    lead_times_min: tuple[float, ...]


def measure(name: str, recordings: Sequence[Recording], spans: Sequence[Span]) -> Measures:
    """All measures over the stays of `recordings`."""
    of_stay: dict[str, list[Span]] = {recording.stay_id: [] for recording in recordings}
    for span in spans:
        if span.stay_id in of_stay:
            of_stay[span.stay_id].append(span)
    kept = [span for of_one in of_stay.values() for span in of_one]
    days = sum(recording.days for recording in recordings)
    monitored = sum(recording.monitored_days for recording in recordings)
    return Measures(
        name=name,
        stays=len(recordings),
        days=round(days, 2),
        monitored_days=round(monitored, 2),
        raised_per_day=round(len(kept) / days, 2),
        raised_per_monitored_day=round(len(kept) / monitored, 2) if monitored else None,
        by_kind=_per_day(Counter(span.kind for span in kept), days),
        by_about=_per_day(Counter(span.about for span in kept), days),
        by_priority={
            priority: _per_day(Counter(span.kind for span in kept if span.priority == priority), days)
            for priority in ("high", "medium", "low", "info")
        },
        found=tuple(found(kind, recordings, of_stay) for kind in EPISODE_TYPES),
        severe=tuple(found(kind, recordings, of_stay, is_severe=True) for kind in SEVERE_TYPES),
        warned=(
            warned("forecast_limit", recordings, {stay: announcements(of_one) for stay, of_one in of_stay.items()}),
            *plain_rules(recordings),
        ),
        calibration=calibration(recordings, of_stay),
        calibration_by_episode={str(kind): calibration(recordings, of_stay, (kind,)) for kind in MILDEST},
        lead_times_min=tuple(round(s.lead_time_min, 1) for s in kept if s.lead_time_min is not None),
    )


def _per_day(counts: Counter[str], days: float) -> dict[str, float]:
    return {name: round(count / days, 3) for name, count in counts.most_common()}


def found(
    kind: EpisodeType,
    recordings: Sequence[Recording],
    of_stay: Mapping[str, Sequence[Span]],
    *,
    is_severe: bool = False,
) -> EpisodesFound:
    """How many episodes had a limit alert open or raised in time (of high priority, where the episode is severe).

    In time: between the episode's beginning and 2 min after its confirmation; severe: 1 min after its first minute.
    Newly: raised (of high priority) in that time, not before.
    """
    episodes = alerted = newly = stays = 0
    for recording in recordings:
        own = [s for s in of_stay[recording.stay_id] if (s.kind, s.signal, s.side) == ("limit", kind.signal, kind.side)]
        happened = episodes_of(recording, kind)
        latest = LATEST_HIGH_MIN if is_severe else kind.minutes - 1 + LATEST_MIN
        for episode in happened:
            begun = [span.high_from if is_severe else span.raised for span in own if span.cleared > episode.start]
            in_time = [at for at in begun if at <= episode.start + latest]
            alerted += bool(in_time)
            newly += any(at >= episode.start for at in in_time)
        episodes += len(happened)
        stays += bool(happened)
    return EpisodesFound(str(kind), episodes, stays, alerted, newly)


Times = Sequence[tuple[float, float]]  # raised, cleared


def announcements(spans: Iterable[Span]) -> Times:
    """When the alerts that announce hypotension were open."""
    return [(span.raised, span.cleared) for span in spans if span.is_announcement]


class Warnings(NamedTuple):
    """Early warning in numbers, of one stay or the sum of several: episodes, alerts, and how they met."""

    episodes: float = 0.0
    strict: float = 0.0
    loose: float = 0.0
    alerts: float = 0.0
    followed: float = 0.0
    open_min: float = 0.0
    days: float = 0.0


def warnings_of(recording: Recording, times: Times) -> Warnings:
    """How the alerts at `times` met one stay's episodes of hypotension."""
    shortest, longest = WARNING_MIN
    begins = np.array([e.start for e in episodes_of(recording)], np.float64)
    raised, cleared = np.array(times, np.float64).reshape(-1, 2).T
    ahead = begins[:, None] - raised  # (episodes, alerts)
    is_strict = ((ahead >= shortest) & (ahead <= longest)).any(axis=1)
    is_open = ((ahead >= shortest) & (cleared > begins[:, None] - shortest)).any(axis=1)
    return Warnings(
        episodes=len(begins),
        strict=int(is_strict.sum()),
        loose=int((is_strict | is_open).sum()),
        alerts=len(raised),
        followed=int(((ahead > 0) & (ahead <= longest)).any(axis=0).sum()),
        open_min=float((np.minimum(cleared, recording.minutes) - raised).sum()),
        days=recording.days,
    )


def warned_by(by: str, warnings: Iterable[Warnings]) -> Warned:
    """The measures over several stays."""
    total = Warnings(*np.array([Warnings(), *warnings]).sum(axis=0).tolist())
    return Warned(
        by=by,
        episodes=int(total.episodes),
        strict=_share(total.strict, total.episodes),
        loose=_share(total.loose, total.episodes),
        alerts_per_day=round(total.alerts / total.days, 2) if total.days else 0.0,
        precision=_share(total.followed, total.alerts),
        open=_share(total.open_min, total.days * 1440),
    )


def warned(by: str, recordings: Sequence[Recording], times: Mapping[str, Times]) -> Warned:
    """The early-warning measures of alerts at `times`."""
    return warned_by(by, (warnings_of(recording, times[recording.stay_id]) for recording in recordings))


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


# (on, off, minutes between two raises): the plain rules to beat, mmHg of mean pressure.
PLAIN_RULES: Final = ((70, 72, 0), (70, 72, 30), (70, 72, 60), (68, 70, 60), (67, 69, 0))


def plain_rules(recordings: Sequence[Recording]) -> list[Warned]:
    """The same measures of alerts that need no forecast: raised below `on`, cleared at `off`."""
    return [
        warned(
            f"below {on}, off {off}" + (f", rearm {rearm}" if rearm else ""),
            recordings,
            {r.stay_id: plain_alerts(r.values[HYPOTENSION.signal], on, off, rearm) for r in recordings},
        )
        for on, off, rearm in PLAIN_RULES
    ]


def plain_alerts(values: Floats, on: float, off: float, rearm: float) -> Times:
    """Raised where a value is below `on`, at least `rearm` min after the last raise; cleared where it reaches `off`."""
    times: list[tuple[float, float]] = []
    raised: float | None = None
    for minute in np.flatnonzero(~np.isnan(values)).tolist():
        if raised is None and values[minute] < on and (not times or minute - times[-1][0] >= rearm):
            raised = minute
        elif raised is not None and values[minute] >= off:
            times.append((raised, minute))
            raised = None
    return times if raised is None else [*times, (raised, float(len(values)))]


# What a forecast alert announces: the mildest episode type of each signal and side.
MILDEST: Final = tuple({(kind.signal, kind.side): kind for kind in reversed(EPISODE_TYPES)}.values())


def calibration(
    recordings: Sequence[Recording], of_stay: Mapping[str, Sequence[Span]], types: Sequence[EpisodeType] = MILDEST
) -> tuple[Bin, ...]:
    """Of forecast alerts raised with a probability in each tenth, how many came true.

    True: an alert's episode type begins within its horizon. Signals without an episode type are left out.
    """
    said: list[tuple[float, bool]] = []
    for recording in recordings:
        begins: dict[tuple[str | None, str | None], list[int]] = {
            (kind.signal, kind.side): [e.start for e in episodes_of(recording, kind)] for kind in types
        }
        for span in of_stay[recording.stay_id]:
            about = (span.signal, span.side)
            if span.probability is not None and about in begins:
                said.append((span.probability, any(0 < at - span.raised <= span.horizon_min for at in begins[about])))
    return bins_of(said)


def bins_of(said: Iterable[tuple[float, bool]]) -> tuple[Bin, ...]:
    """By tenths: with what probability something was said, and whether it came true."""
    alerts, true = Counter[int](), Counter[int]()
    for probability, is_true in said:
        tenth = min(int(probability * 10 + 1e-9), 9)
        alerts[tenth] += 1
        true[tenth] += is_true
    return tuple(Bin(t / 10, (t + 1) / 10, alerts[t], true[t]) for t in sorted(alerts))
