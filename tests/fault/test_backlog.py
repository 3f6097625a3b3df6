"""A worker that starts far behind: it takes everything, and its memory does not grow with what is waiting."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce
from tests.patients import ward
from tests.waiting import eventually
from tests.worker_process import values_of

BACKLOG = int(os.environ.get("VITALCAST_TEST_BACKLOG", "50000"))
STAYS = 200
MEGABYTE = 1 << 20
# What is read ahead (2 MB a partition, and what it unpacks to), a few chunks' outputs and state (up to 60 MB each), and
# what the allocator keeps. Half a million readings behind: 400 MB after the first chunk, and not more at the end.
MAY_GROW_BY = 500 * MEGABYTE


@pytest.mark.timeout(240 + BACKLOG // 500)
def test_a_backlog_is_caught_up_in_bounded_memory(kafka: Broker, topics: Topics, start_worker: WorkerStarter) -> None:
    worker = start_worker()
    process = psutil.Process(worker.pid)
    before = process.memory_info().rss
    worker.pause()
    sent = produce(kafka.bootstrap_servers, topics.readings, ward(STAYS, BACKLOG // STAYS))
    worker.unpause()
    largest, end = before, time.monotonic() + 180 + BACKLOG // 1000
    while (taken := worker.metric("vitalcast_readings_total")) < len(sent) and time.monotonic() < end:
        largest = max(largest, process.memory_info().rss)
        time.sleep(0.2)
    assert taken == len(sent)
    assert largest - before < MAY_GROW_BY, f"{(largest - before) / MEGABYTE:.0f} MB more"
    print(f"{len(sent)} readings behind: {(largest - before) / MEGABYTE:.0f} MB more than before")
    # The pause may have cost it its partitions for a while: the gauges follow within a second.
    eventually(lambda: len(values_of(worker.metrics(), "vitalcast_consumer_lag_records")) == 4, within_s=30)
    assert worker.metric("vitalcast_event_lag_seconds") > 0
