"""Recordings played to the readings topic, as fast as asked, each stay in order.

The recorded dates of different stays mean nothing to each other (de-identification shifts them), so by default all
stays begin together, as a ward, and keep their recorded times.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, NamedTuple

from schemas.codec import encode
from schemas.reading import READING_V1
from schemas.recordings import RecordingError, Row, extent_of, read_rows, stay_id_of
from stream_worker.outbox import Outbox
from stream_worker.playback import Playback
from stream_worker.ward_words import printable

REPORT_EVERY_S: Final = 0.2  # by the clock: a number of rows is a moment at full speed, and minutes in real time

Alignment = Literal["recorded", "end_now", "begin_together"]


class Track(NamedTuple):
    """One recording and its place in time: `shift` moves its times, `origin` (recorded time) is when playing begins."""

    path: Path
    stay_id: str
    shift: timedelta
    origin: datetime


class Due(NamedTuple):
    """A row of one stay; `after_s` is its time since playing began, `row` has its shifted time."""

    after_s: float
    stay_id: str
    row: Row


class Progress(NamedTuple):
    """How far a replay is: rows sent and skipped (no value in them), and seconds of recorded time."""

    sent: int
    skipped: int
    failed: int
    after_s: float


def with_values(paths: Sequence[Path]) -> list[Path]:
    """The recordings that hold any value; prints which are left out.

    Raises: RecordingError if none is left.
    """
    kept = []
    for path in paths:
        if _first_time(path) is None:
            print(f"{printable(path.name)}: no values, left out")
        else:
            kept.append(path)
    if not kept:
        raise RecordingError("no recording with any value")
    return kept


def tracks_of(paths: Sequence[Path], alignment: Alignment = "recorded", now: datetime | None = None) -> list[Track]:
    """The recordings, placed in time.

    recorded : times as recorded; all begin together. Needs only the first row of each.
    end_now : each recording's newest row is at `now`, so the shorter ones begin later.
    begin_together : all begin together in shifted time too, and the longest one ends at `now`.
    Raises: RecordingError, also if a recording has no values at all.
    """
    firsts = [_begin(path) for path in paths]
    if alignment == "recorded":
        places = [(timedelta(0), first) for first in firsts]
    else:
        now = now or datetime.now(UTC)
        lasts = [extent_of(path).last or first for path, first in zip(paths, firsts, strict=True)]
        longest = max(last - first for first, last in zip(firsts, lasts, strict=True))
        if alignment == "end_now":
            places = [(now - last, last - longest) for last in lasts]
        else:
            places = [(now - longest - first, first) for first in firsts]
    return [Track(path, stay_id_of(path), *place) for path, place in zip(paths, places, strict=True)]


def _first_time(path: Path) -> datetime | None:
    """When the recording has its first value, if it has any: real ones can begin with days of nothing."""
    return next((row.time for row in read_rows(path) if row.values), None)


def _begin(path: Path) -> datetime:
    first = _first_time(path)
    if first is None:
        raise RecordingError(f"{path.name}: no values")
    return first


def merge(tracks: Sequence[Track]) -> Iterator[Due]:
    """All rows by their time since playing began; rows of one stay stay in the order of its file."""
    return heapq.merge(*map(_play, tracks), key=lambda due: due.after_s)


def _play(track: Track) -> Iterator[Due]:
    for row in read_rows(track.path):
        after_s = (row.time - track.origin).total_seconds()
        yield Due(after_s, track.stay_id, Row(row.time + track.shift, row.values))


def encode_row(stay_id: str, row: Row) -> bytes:
    """The reading that a row is."""
    return encode({"schema": READING_V1, "stay_id": stay_id, "observed_at": row.time, "vitals": row.values})


def replay(
    tracks: Sequence[Track],
    sender: Outbox,
    *,
    playback: Playback | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Progress:
    """Send every row that has a value when its time in the playback has come; None = as fast as the broker takes them.

    Returns what was sent once all of it is delivered, or `stop` was set; records that failed are counted, not retried.
    """
    stop = stop or threading.Event()
    queued = skipped = 0
    after_s = 0.0
    report_at = time.monotonic()
    for after_s, stay_id, row in merge(tracks):
        if playback is not None:
            playback.wait_until(after_s, stop)
        if stop.is_set():
            break
        if row.values:
            sender.send(stay_id, encode_row(stay_id, row))
            queued += 1
        else:
            skipped += 1
        if time.monotonic() >= report_at:
            report(Progress(queued, skipped, sender.failed, after_s))
            report_at = time.monotonic() + REPORT_EVERY_S
    sender.flush()
    done = Progress(sender.sent, skipped, sender.failed, after_s)
    report(done)
    if playback is not None:
        playback.end()
    return done
