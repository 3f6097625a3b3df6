"""Readings that came while a rebalance ended got no forecast, and no error said so."""

from __future__ import annotations

import time

import pytest

from tests.conftest import WorkerStarter
from tests.fault.feed import Feed
from tests.fault.supervised import supervise
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, read_committed
from tests.patients import ward
from tests.worker_process import WorkerProcess

REBALANCES = 4
SETTINGS = {"session_timeout_s": 2, "chunk_records": 64}


def wait_for_partitions(worker: WorkerProcess, number: int, other: WorkerProcess | None = None) -> None:
    """Wait until the worker has so many partitions and their state; `other` is started again if it ends."""
    expected = {f"vitalcast_assigned_partitions {number}.0", "vitalcast_ready 1.0"}
    end = time.monotonic() + 60
    while not expected <= set(worker.metrics().splitlines()):
        assert time.monotonic() < end, worker.log[-2000:]
        if other is not None:
            supervise(other)
        time.sleep(0.05)


@pytest.mark.timeout(300)
def test_every_reading_that_comes_during_rebalances_is_answered_once(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(24, 1000))
    first, second = start_worker(None, **SETTINGS), start_worker(None, **SETTINGS)
    for worker in (first, second):
        worker.wait_ready()
    wait_for_partitions(first, 2)
    with Feed(servers, topics.readings, sent, per_s=1500):
        for _ in range(REBALANCES // 2):
            second.pause()
            wait_for_partitions(first, 4)
            second.unpause()  # it joins again, or finds that it was fenced and ends
            wait_for_partitions(first, 2, second)
    found = read_committed(servers, topics.forecasts, until=lambda found: len(found) >= len(sent), timeout_s=60)
    assert len({message.json()["forecast_id"] for message in found}) == len(found) == len(sent)
