"""Readings that came while a rebalance ended got no forecast, and no error said so."""

from __future__ import annotations

import pytest

from tests.conftest import WorkerStarter
from tests.fault.feed import Feed
from tests.fault.supervised import supervise
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, read_committed
from tests.patients import ward
from tests.waiting import eventually
from tests.worker_process import WorkerProcess

REBALANCES = 4
SETTINGS = {"session_timeout_s": 2, "chunk_records": 64}


def shown_by(worker: WorkerProcess) -> set[str]:
    """The lines of its /metrics; none if it is about to end."""
    try:
        return set(worker.metrics().splitlines())
    except OSError:
        return set()


def wait_for_partitions(worker: WorkerProcess, number: int, other: WorkerProcess) -> None:
    """Wait until the worker has so many partitions and their state; both are started again if they end."""
    expected = {f"vitalcast_assigned_partitions {number}.0", "vitalcast_ready 1.0"}

    def has_them() -> bool:
        for one in (worker, other):
            supervise(one)
        return expected <= shown_by(worker)

    eventually(has_them, within_s=200, told=lambda: worker.log[-2000:])  # a start may take 90


def what_is_missing(servers: str, topics: Topics, *workers: WorkerProcess) -> str:
    """The readings without a forecast, the dead letters, and what the workers say of themselves."""
    forecasts = read_committed(servers, topics.forecasts)
    answered = {(f["source"]["partition"], f["source"]["offset"]) for f in (m.json() for m in forecasts)}
    read = {(message.partition, message.offset) for message in read_committed(servers, topics.readings)}
    dead = [letter.json()["reason"] for letter in read_committed(servers, topics.dead_letters)]
    shown = ("vitalcast_assigned_partitions", "vitalcast_ready", "vitalcast_consumer_lag", "vitalcast_readings_total")
    said = [line for worker in workers for line in sorted(shown_by(worker)) if line.startswith(shown)]
    return "\n".join([f"missing: {sorted(read - answered)}", f"dead letters: {dead}", *said])


@pytest.mark.timeout(600)
def test_every_reading_that_comes_during_rebalances_is_answered_once(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(24, 500))
    first, second = start_worker(None, **SETTINGS), start_worker(None, **SETTINGS)
    for worker in (first, second):
        worker.wait_ready()
    wait_for_partitions(first, 2, second)
    with Feed(servers, topics.readings, sent, per_s=300):
        for _ in range(REBALANCES // 2):
            second.pause()
            wait_for_partitions(first, 4, second)
            second.unpause()  # it joins again, or finds that it was fenced and ends
            wait_for_partitions(first, 2, second)
    try:
        found = read_committed(servers, topics.forecasts, until=lambda found: len(found) >= len(sent), timeout_s=120)
    except TimeoutError as error:
        pytest.fail(f"{error}\n{what_is_missing(servers, topics, first, second)}")
    assert len({message.json()["forecast_id"] for message in found}) == len(found) == len(sent)
