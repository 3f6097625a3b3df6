"""What hostile records cost the good ones: half of the stream hostile, beside the same good readings alone.

The ratio of the two rates is the figure, both by CPU time, which is steadier than the clock on a busy machine. The goal
is 0.5. What keeps it lower: the slow decoder, and stays whose clocks jump, since each minute of a gap is a step of the
model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain

import pytest

from tests.bench.bench_worker import READINGS, backlog, measure
from tests.conftest import WorkerStarter
from tests.fault.hostile import hostile
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce

STAYS = 1000


def rate(start_worker: WorkerStarter, servers: str, sent: Iterator[tuple[str | bytes, bytes]]) -> float:
    """Records a second of CPU time of a worker that finds all of `sent` waiting."""
    topics = Topics.unique().create(servers)
    records = len(produce(servers, topics.readings, sent))
    worker = start_worker(None, **topics.settings)
    os.sched_setaffinity(worker.pid, {0})
    worker.wait_ready()
    figures = measure(worker, records)
    worker.close()
    return figures["readings/s on a whole core"]


@pytest.mark.timeout(1200)
def bench_hostile_half(kafka: Broker, start_worker: WorkerStarter) -> None:
    """Every second record is one that no decent sender writes, of all kinds."""
    turns = READINGS // 2 // STAYS
    good = list(backlog(STAYS, 60, turns))
    undisturbed = rate(start_worker, kafka.bootstrap_servers, iter(good))
    mixed = chain.from_iterable(zip(good, hostile(len(good)), strict=True))
    disturbed = rate(start_worker, kafka.bootstrap_servers, mixed) / 2
    ratio = disturbed / undisturbed
    print(f"\ngood readings/s of CPU time: {undisturbed:.0f} alone, {disturbed:.0f} among hostile ones: {ratio:.2f} x")
