"""What really happened in a recording: its minutes, and the episodes in them that alerts are judged by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Floats
from schemas.recordings import RecordingError, Row, check_span
from schemas.signals import VITALS, plausible

MERGE_MIN: Final = 30  # an episode that begins so soon after an earlier one's end is the same one
MOST: Final = 0.9  # of the observed minutes are beyond the limit
MINUTE_S: Final = 60


class Recording(NamedTuple):
    """One stay, a value a minute: NaN where none was observed, and where it is an artefact.

    start : minutes from the epoch to the first row. values : by signal, (T,).
    """

    stay_id: str
    start: int
    values: dict[str, Floats]

    @property
    def minutes(self) -> int:
        """From the first row to the last, both included."""
        return len(self.values[VITALS[0].name])

    @property
    def days(self) -> float:
        """The same in days."""
        return self.minutes / 1440

    @property
    def monitored_days(self) -> float:
        """Its minutes with any plausible value, in days: the others raise no alert but of their own absence."""
        is_monitored = np.logical_or.reduce([~np.isnan(column) for column in self.values.values()])
        return int(is_monitored.sum()) / 1440


def recording_of(stay_id: str, rows: Iterable[Row]) -> Recording:
    """The rows' last value of each minute; implausible ones left out, as the worker does.

    Raises: RecordingError if there is no row, or a date that must be wrong.
    """
    placed = [(int(row.time.timestamp()) // MINUTE_S, row.values) for row in rows]
    if not placed:
        raise RecordingError(f"{stay_id}: an empty recording")
    start, end = min(minute for minute, _ in placed), max(minute for minute, _ in placed)
    check_span(stay_id, (end - start) * MINUTE_S)
    values = {signal.name: np.full(end - start + 1, np.nan) for signal in VITALS}
    for minute, seen in placed:
        for name, value in plausible(seen).items():
            values[name][minute - start] = value
    return Recording(stay_id, start, values)


class EpisodeType(NamedTuple):
    """A value beyond `limit` for `minutes`: in the first of them, and in most of those that were observed."""

    signal: str
    side: Literal["low", "high"]
    limit: float
    minutes: int

    def __str__(self) -> str:
        sign = "<" if self.side == "low" else ">"
        return f"{self.signal} {sign} {self.limit:g} for {self.minutes} min"


HYPOTENSION: Final = EpisodeType("abp_mean", "low", 65, 5)
EPISODE_TYPES: Final = (
    HYPOTENSION,
    EpisodeType("abp_mean", "low", 60, 30),
    EpisodeType("abp_sys", "low", 90, 5),
    EpisodeType("spo2", "low", 90, 3),
    EpisodeType("hr", "high", 130, 5),
    EpisodeType("hr", "low", 50, 3),
    EpisodeType("resp", "high", 30, 5),
    EpisodeType("resp", "low", 8, 3),
)
# Two minutes in a row: one alone may be a flush of the line or a cough. These ask for an alert of high priority.
SEVERE_TYPES: Final = (
    EpisodeType("abp_mean", "low", 50, 2),
    EpisodeType("spo2", "low", 85, 2),
    EpisodeType("hr", "low", 40, 2),
    EpisodeType("hr", "high", 150, 2),
)


class Episode(NamedTuple):
    """[start, end) in minutes from the recording's start; confirmed once the type's duration has passed."""

    start: int
    end: int


def find_episodes(values: Floats, kind: EpisodeType) -> list[Episode]:
    """The episodes of a signal's minutes (T,), in order; those close together are one.

    An episode lasts until the value is seen inside the limit after its duration has passed.
    """
    observed = ~np.isnan(values)
    beyond = observed & ((values < kind.limit) if kind.side == "low" else (values > kind.limit))
    starts = _starts(beyond, observed, kind.minutes)
    inside = np.r_[np.flatnonzero(observed & ~beyond), len(values)]
    ends = inside[np.searchsorted(inside, starts + kind.minutes)]
    episodes: list[Episode] = []
    over = 0  # where the last one found ends: what begins within it belongs to it
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if start < over:
            continue
        over = end
        if episodes and start - episodes[-1].end <= MERGE_MIN:
            episodes[-1] = Episode(episodes[-1].start, end)
        else:
            episodes.append(Episode(start, end))
    return episodes


def episodes_of(recording: Recording, kind: EpisodeType = HYPOTENSION) -> list[Episode]:
    """The recording's episodes of one type, by default of hypotension."""
    return find_episodes(recording.values[kind.signal], kind)


def _starts(beyond: NDArray[np.bool_], observed: NDArray[np.bool_], minutes: int) -> NDArray[np.intp]:
    """Minutes from which the condition holds for the whole duration, at least half of it and two values observed."""
    total = len(beyond) - minutes + 1
    if total < 1:
        return np.empty(0, np.intp)
    beyond_sum, observed_sum = (np.r_[0, np.cumsum(mask)] for mask in (beyond, observed))
    seen = observed_sum[minutes:] - observed_sum[:-minutes]
    found = beyond_sum[minutes:] - beyond_sum[:-minutes]
    return np.flatnonzero(beyond[:total] & (2 * seen >= minutes) & (seen >= 2) & (found >= MOST * seen))
