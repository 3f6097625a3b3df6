"""Recordings through the pure pipeline, as they would go through Kafka, and the alerts that leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import Progress

from schemas.alert import Alert
from stream_worker.columns import MICROSECONDS, to_us
from stream_worker.pipeline import Pipeline
from stream_worker.replay import encode_row, merge, tracks_of

# Records taken at once. The k-th of each stay go together, so a chunk is as many rounds as it holds minutes.
CHUNK_RECORDS: Final = 4096
# All rows of all stays go through one partition, as on a ward of that size.
PARTITION: Final = 0
_FAR_FUTURE_US: Final = 4_000_000_000 * MICROSECONDS  # no recorded time is ahead of this clock

_decode_alert = msgspec.json.Decoder(Alert).decode


@dataclass(slots=True)
class RecordedReading:
    """A row of a recording as the record that `replay` would send."""

    offset: int
    value: bytes | None
    timestamp: int
    key: bytes | None = None


def alerts_of(
    pipeline: Pipeline, recordings: Sequence[Path], report: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Alert]:
    """Every revision of every alert that `recordings` cause, in order; all stays side by side, each at its own times.

    report : told how many of how many rows are done.
    """
    tracks = tracks_of(recordings)
    total = sum(track.rows for track in tracks)
    rows = ((due.stay_id, due.row) for due in merge(tracks))
    offset = done = 0
    while chunk := list(islice(rows, CHUNK_RECORDS)):
        records = [
            RecordedReading(offset + i, encode_row(stay_id, row), to_us(row.time) // 1000)
            for i, (stay_id, row) in enumerate((stay_id, row) for stay_id, row in chunk if row.values)
        ]
        offset, done = offset + len(records), done + len(chunk)
        results = pipeline.process({PARTITION: records}, _FAR_FUTURE_US)
        for result in results.values():
            yield from (_decode_alert(value) for _, value in result.alerts)
        report(done, total)


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar on the console, and what moves it."""
    with Progress(console=console) as bar:
        task = bar.add_task("Backtest", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
