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

import msgspec

from schemas.reading import READING_V1
from schemas.recordings import RecordingError, Row, read_rows, stay_id_of
from stream_worker.outbox import Outbox

PROGRESS_EVERY: Final = 500  # records
LONGEST_WAIT_S: Final = 0.2  # so that a stop is noticed soon

Alignment = Literal["recorded", "end_now", "begin_together"]


class Track(NamedTuple):
    """One recording and its place in time: `shift` moves its times, `origin` (recorded time) is when playing begins."""

    path: Path
    stay_id: str
    rows: int
    shift: timedelta
    origin: datetime


class Due(NamedTuple):
    """A row of one stay; `after_s` is its time since playing began, `row` has its shifted time."""

    after_s: float
    stay_id: str
    row: Row


class Progress(NamedTuple):
    """How far a replay is: rows sent and skipped (no value in them), and seconds of recorded time."""

    sent: int = 0
    skipped: int = 0
    failed: int = 0
    after_s: float = 0.0


class _Span(NamedTuple):
    """A recording's rows, and its first and last time with a value: real ones can begin with days of nothing."""

    path: Path
    rows: int
    first: datetime
    last: datetime


def tracks_of(paths: Sequence[Path], alignment: Alignment = "recorded", now: datetime | None = None) -> list[Track]:
    """The recordings, placed in time.

    recorded : times as recorded; all begin together.
    end_now : each recording's newest row is at `now`, so the shorter ones begin later.
    begin_together : all begin together in shifted time too, and the longest one ends at `now`.
    Raises: RecordingError, also if a recording has no values at all.
    """
    spans = [_span(path) for path in paths]
    longest = max(span.last - span.first for span in spans)
    now = now or datetime.now(UTC)

    def track(span: _Span) -> Track:
        shift, origin = timedelta(0), span.first
        if alignment == "end_now":
            shift, origin = now - span.last, span.last - longest
        elif alignment == "begin_together":
            shift = now - longest - span.first
        return Track(span.path, stay_id_of(span.path), span.rows, shift, origin)

    return [track(span) for span in spans]


def _span(path: Path) -> _Span:
    rows = 0
    times = []
    for row in read_rows(path):
        rows += 1
        if row.values:
            times.append(row.time)
    if not times:
        raise RecordingError(f"{path.name}: no values")
    return _Span(path, rows, min(times), max(times))


def merge(tracks: Sequence[Track]) -> Iterator[Due]:
    """All rows by their time since playing began; rows of one stay stay in the order of its file."""
    return heapq.merge(*map(_play, tracks), key=lambda due: due.after_s)


def _play(track: Track) -> Iterator[Due]:
    for row in read_rows(track.path):
        after_s = (row.time - track.origin).total_seconds()
        yield Due(after_s, track.stay_id, Row(row.time + track.shift, row.values))


def encode_row(stay_id: str, row: Row) -> bytes:
    """The reading that a row is."""
    return _encode({"schema": READING_V1, "stay_id": stay_id, "observed_at": row.time, "vitals": row.values})


_encode = msgspec.json.Encoder().encode


def replay(
    tracks: Sequence[Track],
    sender: Outbox,
    *,
    speed: float | None,
    head_start_s: float = 0.0,
    report: Callable[[Progress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Progress:
    """Send every row that has a value; `speed` is times real time, None = as fast as the broker takes them.

    The first `head_start_s` seconds of recorded time are sent at once.

    Returns what was sent once all of it is delivered, or `stop` was set; records that failed are counted, not retried.
    """
    stop = stop or threading.Event()
    started = time.monotonic()
    queued = skipped = 0
    after_s = 0.0
    for queued_or_skipped, (after_s, stay_id, row) in enumerate(merge(tracks)):
        if speed is not None:
            _wait_until(started + (after_s - head_start_s) / speed, stop)
        if stop.is_set():
            break
        if row.values:
            sender.send(stay_id, encode_row(stay_id, row))
            queued += 1
        else:
            skipped += 1
        if queued_or_skipped % PROGRESS_EVERY == 0:
            report(Progress(queued, skipped, sender.failed, after_s))
    sender.flush()
    done = Progress(sender.sent, skipped, sender.failed, after_s)
    report(done)
    return done


def _wait_until(due: float, stop: threading.Event) -> None:
    while (left := due - time.monotonic()) > 0 and not stop.wait(min(left, LONGEST_WAIT_S)):
        pass
