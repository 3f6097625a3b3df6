"""Where a reading's time goes in the pipeline, without Kafka: CPU time by stage, each without the stages inside it."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest

from model.predictor import Predictor
from stream_worker import anomaly, pipeline, window
from stream_worker.alerts.screen import AlertScreen
from stream_worker.app import collect_rarely
from stream_worker.backtest.feed import RecordedReading, new_pipeline
from stream_worker.chain import Chain
from stream_worker.columns import ReadingDecoder
from stream_worker.outputs import OutputEncoder
from stream_worker.settings import Settings
from stream_worker.stays import Stays
from tests.bench.bench_worker import START, backlog

READINGS = int(os.environ.get("VITALCAST_BENCH_READINGS", "60000"))
PARTITIONS = 4
STAGES = (
    (ReadingDecoder, "decode", "decode and check"),
    (window, "classify", "late, duplicate"),
    (window, "place", "place in windows"),
    (anomaly, "score_readings", "anomaly scores"),
    (Chain, "close_until", "close steps, score"),
    (Chain, "provisional", "around the model"),
    (Predictor, "step", "model"),
    (Chain, "await_truth", "keep to be scored"),
    (AlertScreen, "step", "alerts"),
    (OutputEncoder, "forecasts", "text of forecasts"),
    (Stays, "encode_changes", "state"),
    (pipeline.Pipeline, "process", "the rest"),
)


class Stopwatch:
    """CPU time by stage; what runs inside another stage counts for itself only."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def switch(self, stage: str | None) -> None:
        """Enter `stage`; None: leave the innermost one."""
        now = time.process_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        if stage is None:
            self._running.pop()
        else:
            self._running.append(stage)
        self._since = time.process_time()

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """`function`, run under the watch; an iterator is run to its end."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.switch(stage)
            try:
                result = function(*args, **kwargs)
                return iter(list(result)) if isinstance(result, Iterator) else result
            finally:
                self.switch(None)

        return run


@pytest.mark.parametrize(
    ("stays", "every_s", "chunk_records"),
    [(5000, 1, 2048), (5000, 60, 2048), (100, 1, 2048), (40, 60, 2048), (8, 1, 8)],
)
def bench_stages(monkeypatch: pytest.MonkeyPatch, stays: int, every_s: float, chunk_records: int) -> None:
    watch = Stopwatch()
    for owner, name, stage in STAGES:
        monkeypatch.setattr(owner, name, watch.timed(getattr(owner, name), stage))
    worker = new_pipeline(Settings())
    collect_rarely()
    now_us = int(START.timestamp() * 1e6) + 10**12
    warm_up, taken = 2 * stays, 0
    messages = islice(backlog(stays, every_s, turns=READINGS // stays), READINGS)
    offsets = Counter[int]()
    while chunk := list(islice(messages, chunk_records)):
        records: dict[int, list[RecordedReading]] = {}
        for stay_id, value in chunk:
            partition = int(stay_id[-5:]) % PARTITIONS
            records.setdefault(partition, []).append(RecordedReading(offsets[partition], value, now_us // 1000))
            offsets[partition] += 1
        if taken <= warm_up < taken + len(chunk):
            watch.seconds.clear()
            first = taken
        taken += len(chunk)
        worker.process(records, now_us)
    counted = taken - first
    print(f"\n{stays} stays, a reading every {every_s:g} s, chunks of {chunk_records}: CPU us a reading")
    for _, _, stage in STAGES:
        print(f"  {stage:20s} {watch.seconds[stage] / counted * 1e6:8.2f}")
    print(f"  {'together':20s} {sum(watch.seconds.values()) / counted * 1e6:8.2f}")
