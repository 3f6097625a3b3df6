"""What more of everything costs: stays, partitions, workers. CPU time a reading is the figure to compare."""

from __future__ import annotations

import os
import time

import pytest

from tests.bench.bench_worker import READINGS, backlog
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce
from tests.worker_process import WorkerProcess, sum_of


def totals(workers: list[WorkerProcess]) -> dict[str, float]:
    """Sums over the workers' metrics, and the clock."""
    texts = [worker.metrics() for worker in workers]
    names = {
        "readings": "vitalcast_readings_total",
        "cpu_s": "process_cpu_seconds_total",
        "bytes": "process_resident_memory_bytes",
        "recovery_s": "vitalcast_recovery_seconds_sum",
    }
    return {"at": time.monotonic()} | {key: sum(sum_of(text, name) for text in texts) for key, name in names.items()}


def work_through(workers: list[WorkerProcess], readings: int) -> tuple[dict[str, float], dict[str, float]]:
    """The totals when the first of `readings` were durable, and when the last were.

    A worker that hands partitions over does not count what it committed last: no news for a while is the end too.
    """
    first = last = now = totals(workers)
    while last["readings"] < readings and (not last["readings"] or now["at"] - last["at"] < 5):
        time.sleep(0.2)
        now = totals(workers)
        if now["readings"] > last["readings"]:
            last = now
        if not first["readings"]:
            first = now
    return first, last


def show(title: str, first: dict[str, float], last: dict[str, float]) -> None:
    """Print rate and cost between two totals."""
    done = last["readings"] - first["readings"]
    rate, cpu_us = done / (last["at"] - first["at"]), (last["cpu_s"] - first["cpu_s"]) / done * 1e6
    print(f"\n{title:44s} {rate:8.0f} readings/s {cpu_us:8.1f} us CPU each {last['bytes'] / 1e6:8.0f} MB")


@pytest.mark.parametrize("stays", [100, 1_000, 10_000, 100_000])
def bench_stays(kafka: Broker, topics: Topics, start_worker: WorkerStarter, stays: int) -> None:
    """From a hundred stays to a hundred thousand, then the recovery of them all."""
    turns = max(READINGS // stays, 3)
    produce(kafka.bootstrap_servers, topics.readings, backlog(stays, 1, turns))
    worker = start_worker(ready_within_s=None)
    os.sched_setaffinity(worker.pid, {0})
    worker.wait_ready()
    empty = totals([worker])
    first, last = work_through([worker], turns * stays)
    show(f"{stays} stays, 1 Hz", first, last)
    worker.terminate()
    worker.start(ready_within_s=120)
    again = totals([worker])
    own = (again["bytes"] - empty["bytes"]) / stays / 1e3
    print(f"  recovery {again['recovery_s']:.1f} s, {own:.1f} kB resident a stay beyond the empty worker")


@pytest.mark.parametrize(("workers", "partitions"), [(1, 4), (2, 4), (1, 16), (2, 16), (1, 64), (1, 256)])
def bench_partitions(kafka: Broker, start_worker: WorkerStarter, topics: Topics, workers: int, partitions: int) -> None:
    """The same backlog in more partitions, and by two workers on a core each, which they share with the broker."""
    topics = Topics.unique().create(kafka.bootstrap_servers, partitions)
    readings = READINGS // 5000 * 5000
    produce(kafka.bootstrap_servers, topics.readings, backlog(5000, 1))
    started = [start_worker(ready_within_s=None, **topics.settings) for _ in range(workers)]
    for core, worker in enumerate(started):
        os.sched_setaffinity(worker.pid, {core})
    for worker in started:
        worker.wait_ready()
    first, last = work_through(started, readings)
    show(f"{workers} worker(s), {partitions} partitions", first, last)
