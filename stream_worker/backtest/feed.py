"""Recordings through the pure pipeline, as they would go through Kafka, and the alerts that leave it.

Stays go to partitions as a topic's producer would send them, so that what the stays of a partition share is the same
as live. Each partition is a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import torch
from rich.console import Console
from rich.progress import Progress

from model.predictor import Predictor
from schemas.alert import Alert
from schemas.recordings import extent_of, stay_id_of
from stream_worker.backtest.threats import Threats, ThreatScreen
from stream_worker.pipeline import ChunkResult, Pipeline
from stream_worker.replay import encode_row, merge, tracks_of
from stream_worker.sender import partition_index
from stream_worker.settings import Settings
from stream_worker.times import SECOND_US, to_ms

# Records taken at once. The k-th of each stay go together, so a chunk is as many rounds as it holds minutes.
CHUNK_RECORDS: Final = 4096
PARTITIONS: Final = 4  # of the readings topic, as `topics create` makes it
FAR_FUTURE_US: Final = 4_000_000_000 * SECOND_US  # no recorded time is ahead of this clock

_decode_alert = msgspec.json.Decoder(Alert).decode


@dataclass(slots=True)
class RecordedReading:
    """A row of a recording as the record that `replay` would send."""

    offset: int
    value: bytes | None
    timestamp: int
    key: bytes | None = None
    timestamp_type: int = 0


class PipelineRun(NamedTuple):
    """What the pipeline left of recordings.

    alerts : every revision of every alert, in order. threats : by stay, what the rule for hypotension saw.
    """

    alerts: list[Alert]
    threats: dict[str, Threats]


def partitions_of(recordings: Sequence[Path]) -> dict[int, list[Path]]:
    """The recordings by the partition that Java's default partitioner gives their stays."""
    found: dict[int, list[Path]] = {}
    for path in recordings:
        found.setdefault(partition_index(stay_id_of(path), PARTITIONS), []).append(path)
    return found


def results_of(
    pipeline: Pipeline,
    recordings: Sequence[Path],
    partition: int = 0,
    report: Callable[[int], None] = lambda rows: None,
) -> Iterator[ChunkResult]:
    """What the chunks of `recordings` leave in one partition; all stays side by side.

    report : told after each chunk how many rows it had.
    """
    rows = merge(tracks_of(recordings))
    offset = 0
    while chunk := list(islice(rows, CHUNK_RECORDS)):
        records = [
            RecordedReading(offset + i, encode_row(due.stay_id, due.row), to_ms(due.row.time))
            for i, due in enumerate(due for due in chunk if due.row.values)
        ]
        offset += len(records)
        yield from pipeline.process({partition: records}, FAR_FUTURE_US).values()
        report(len(chunk))


def alerts_of(results: Iterable[ChunkResult]) -> Iterator[Alert]:
    """Every revision of every alert, in order."""
    for result in results:
        yield from (_decode_alert(value) for _, value in result.alerts)


def new_pipeline(settings: Settings) -> Pipeline:
    """The worker's pipeline, without any stay."""
    torch.set_num_threads(1)  # batches are small: a second thread costs more than it brings
    predictor = Predictor.load(settings.model, settings.device)
    return Pipeline(settings, predictor)


def run_all(settings: Settings, recordings: Sequence[Path], console: Console) -> PipelineRun:
    """All recordings, partition by partition, on all cores, with a progress bar."""
    parts = partitions_of(recordings)
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    done = context.Value("q", 0)
    with (
        _bar(console, sum(extent_of(path).rows for path in recordings)) as show,
        ProcessPoolExecutor(os.cpu_count(), context, initializer=_share, initargs=(done,)) as pool,
    ):
        futures = [pool.submit(_run_part, settings, paths, partition) for partition, paths in sorted(parts.items())]
        while wait(futures, timeout=0.2).not_done:
            show(done.value)
        runs = [future.result() for future in futures]
    return PipelineRun(
        [alert for run in runs for alert in run.alerts],
        {stay_id: threats for run in runs for stay_id, threats in run.threats.items()},
    )


_done: Synchronized[int]  # rows, counted by all processes of the pool


def _share(done: Synchronized[int]) -> None:
    global _done  # noqa: PLW0603 - how a pool's initializer hands over what cannot be pickled
    _done = done


def _run_part(settings: Settings, recordings: Sequence[Path], partition: int) -> PipelineRun:
    pipeline = new_pipeline(settings)
    pipeline.screen = screen = ThreatScreen(settings, pipeline.stays)

    def report(rows: int) -> None:
        with _done.get_lock():
            _done.value += rows

    alerts = list(alerts_of(results_of(pipeline, recordings, partition, report)))
    return PipelineRun(alerts, screen.threats())


@contextmanager
def _bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    with Progress(console=console) as bar:
        task = bar.add_task("Backtest", total=total)
        yield lambda done: bar.update(task, completed=done)
        bar.update(task, completed=total)
