"""Workers that join, leave, die and come back from the dead: the same outputs and state as one that was left alone."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.conftest import WorkerStarter
from tests.fault.undisturbed import assert_same_outputs, assert_same_state
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce, read_committed
from tests.patients import ward

STAYS, MINUTES = 24, 400
SESSION_TIMEOUT_S = 6
REBALANCES = int(os.environ.get("VITALCAST_TEST_REBALANCES", "0"))


@pytest.fixture
def reference(kafka: Broker) -> Topics:
    """Topics for the worker that is left alone."""
    return Topics.unique().create(kafka.bootstrap_servers)


def done(servers: str, topics: Topics) -> int:
    """Readings whose forecast is committed."""
    return len(read_committed(servers, topics.forecasts))


def assert_same_as_left_alone(
    servers: str, start_worker: WorkerStarter, topics: Topics, reference: Topics, sent: int
) -> None:
    """Run a worker that nobody disturbs over the same readings, and compare."""
    start_worker(**{**reference.settings, "readings_topic": topics.readings})
    for outputs in (topics, reference):
        read_committed(servers, outputs.forecasts, until=lambda found: len(found) >= sent, timeout_s=120)
    counts = assert_same_outputs(servers, topics, reference)
    assert counts["forecasts"] == sent
    assert assert_same_state(servers, topics, reference) == STAYS


@pytest.mark.timeout(400)
def test_workers_that_join_leave_and_die_lose_and_double_nothing(
    kafka: Broker, topics: Topics, reference: Topics, start_worker: WorkerStarter
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    settings = {"session_timeout_s": SESSION_TIMEOUT_S, "chunk_records": 64}
    parts = [sent[i * len(sent) // 6 : (i + 1) * len(sent) // 6] for i in range(6)]
    first = start_worker(**settings)
    produce(servers, topics.readings, parts[0])
    second = start_worker(**settings)  # joins
    produce(servers, topics.readings, parts[1])
    third = start_worker(**settings)  # joins
    produce(servers, topics.readings, parts[2])
    assert second.terminate() == 0  # leaves
    produce(servers, topics.readings, parts[3])
    first.kill()  # dies
    produce(servers, topics.readings, parts[4])
    second.start()  # joins again
    produce(servers, topics.readings, parts[5])
    third.kill()  # dies
    assert_same_as_left_alone(servers, start_worker, topics, reference, len(sent))


@pytest.mark.timeout(400)
def test_a_worker_that_was_frozen_past_its_session_cannot_write(
    kafka: Broker, topics: Topics, reference: Topics, start_worker: WorkerStarter
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    settings = {"session_timeout_s": SESSION_TIMEOUT_S, "chunk_records": 64}
    zombie = start_worker(**settings)
    produce(servers, topics.readings, sent[: len(sent) // 2])
    zombie.pause()
    heir = start_worker(**settings)
    before = done(servers, topics)
    produce(servers, topics.readings, sent[len(sent) // 2 :])
    read_committed(servers, topics.forecasts, until=lambda found: len(found) > before, timeout_s=60)
    zombie.unpause()
    time.sleep(SESSION_TIMEOUT_S)
    assert_same_as_left_alone(servers, start_worker, topics, reference, len(sent))
    assert heir.status("/health/live") == 200


@pytest.mark.skipif(not REBALANCES, reason="takes minutes: VITALCAST_TEST_REBALANCES=20 make fault")
@pytest.mark.timeout(300 + 30 * REBALANCES)
def test_many_rebalances_leave_no_trace(
    kafka: Broker, topics: Topics, reference: Topics, start_worker: WorkerStarter
) -> None:
    chance, servers, sent = random.Random(20261123), kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    settings = {"session_timeout_s": SESSION_TIMEOUT_S, "chunk_records": 64}
    workers = [start_worker(**settings) for _ in range(2)]
    for number in range(REBALANCES):
        produce(
            servers, topics.readings, sent[number * len(sent) // REBALANCES : (number + 1) * len(sent) // REBALANCES]
        )
        running = [worker for worker in workers if worker.is_running]
        stopped = [worker for worker in workers if not worker.is_running]
        if len(running) <= 1 or (len(running) < 4 and chance.random() < 0.5):
            if stopped:
                stopped[0].start()
            else:
                workers.append(start_worker(**settings))
        elif chance.random() < 0.5:
            assert running[0].terminate() == 0
        else:
            running[0].kill()
    assert_same_as_left_alone(servers, start_worker, topics, reference, len(sent))
