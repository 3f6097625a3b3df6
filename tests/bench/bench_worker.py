"""How many readings a second one worker takes, end to end: Kafka, exactly once, every part of the product in it.

The backlog is there before the worker starts; the worker is pinned to one core, the broker has the others. Quote the
CPU time of a reading first: it is steadier than the rate where other processes share the cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pytest

from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce
from tests.worker_process import WorkerProcess, sum_of

# Fewer flatter: within a minute no step closes, and chunks that are under way at first count for nothing.
READINGS = int(os.environ.get("VITALCAST_BENCH_READINGS", "600000"))
START = datetime(2026, 1, 5, 8, tzinfo=UTC)


def backlog(stays: int, every_s: float, turns: int | None = None) -> Iterator[tuple[str, bytes]]:
    """READINGS readings of seven signals: all stays in `turns`, each moving a little around its own level."""
    rng = np.random.default_rng(1)
    usual = np.array([85.0, 85.0, 17.0, 96.0, 122.0, 64.0, 83.0])
    names = ("hr", "pulse", "resp", "spo2", "abp_sys", "abp_dia", "abp_mean")
    level = usual + rng.normal(0, 1, (stays, 7)) * [9, 9, 2, 1, 10, 5, 6]
    level[:, 1] = level[:, 0]  # the pulse is that of the same heart
    for turn in range(READINGS // stays if turns is None else turns):
        at = (START + timedelta(seconds=turn * every_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
        values = np.minimum(np.round(level + rng.normal(0, 0.4, (stays, 7)), 1), [250, 250, 80, 100, 280, 200, 220])
        values[:, 6] = np.clip(values[:, 6], values[:, 5], values[:, 4])
        for stay, row in enumerate(values.tolist()):
            stay_id = f"stay-{stay:05d}"
            vitals = dict(zip(names, row, strict=True))
            message = {"schema": "vitals.reading.v1", "stay_id": stay_id, "observed_at": at, "vitals": vitals}
            yield stay_id, orjson.dumps(message)


def measure(worker: WorkerProcess, readings: int) -> dict[str, float]:
    """Rate, CPU time and memory from the first durable reading to the last."""
    samples: list[tuple[float, float, float]] = []
    text = ""
    while not samples or samples[-1][1] < readings:
        text = worker.metrics()
        done, cpu_s = sum_of(text, "vitalcast_readings_total"), sum_of(text, "process_cpu_seconds_total")
        if done:
            samples.append((time.monotonic(), done, cpu_s))
        time.sleep(0.2)
    (t0, n0, c0), (t1, n1, c1) = samples[0], samples[-1]
    batches = sum_of(text, "vitalcast_inference_batch_size_count")
    return {
        "readings/s": (n1 - n0) / (t1 - t0),
        "CPU us a reading": (c1 - c0) / (n1 - n0) * 1e6,
        "readings/s on a whole core": (n1 - n0) / (c1 - c0),
        "model us a reading": sum_of(text, "vitalcast_inference_seconds_sum") / n1 * 1e6,
        "stays a model call": sum_of(text, "vitalcast_inference_batch_size_sum") / batches,
        "memory MB": sum_of(text, "process_resident_memory_bytes") / 1e6,
    }


@pytest.mark.parametrize(
    ("stays", "every_s", "chunk_records"),
    [(5000, 1, 2048), (5000, 1, 8192), (5000, 60, 8192), (100, 1, 8192), (40, 60, 8192)],
)
def bench_backlog(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, stays: int, every_s: float, chunk_records: int
) -> None:
    readings = READINGS // stays * stays
    produce(kafka.bootstrap_servers, topics.readings, backlog(stays, every_s))
    worker = start_worker(ready_within_s=None, chunk_records=chunk_records)
    os.sched_setaffinity(worker.pid, {0})
    worker.wait_ready()
    figures = measure(worker, readings)
    print(f"\n{stays} stays, one reading in {every_s} s, chunks of {chunk_records}")
    for name, value in figures.items():
        print(f"  {name:28s} {value:10.1f}")
