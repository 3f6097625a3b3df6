"""Workers that join, leave, die and come back while readings keep coming: as if one had been left alone."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.conftest import WorkerStarter
from tests.fault.feed import Feed
from tests.fault.undisturbed import assert_same_outputs, assert_same_state
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce, read_committed
from tests.patients import ward
from tests.waiting import eventually
from tests.worker_process import WorkerProcess

REBALANCES = int(os.environ.get("VITALCAST_TEST_REBALANCES", "0"))
STAYS, MINUTES = 24, 600 if REBALANCES < 10 else 60 * REBALANCES
FED_PER_S = 100  # for longer than all that happens to the workers
REBALANCE_WITHIN_S = 20  # a first join takes one second, and several on a loaded machine; Kafka itself waits for 60
SESSION_TIMEOUT_S = 6


@pytest.fixture
def reference(kafka: Broker) -> Topics:
    """Topics for the worker that is left alone."""
    return Topics.unique().create(kafka.bootstrap_servers)


def done(servers: str, topics: Topics) -> int:
    """Readings whose forecast is committed."""
    return len(read_committed(servers, topics.forecasts))


def leave_alone(start_worker: WorkerStarter, topics: Topics, reference: Topics) -> WorkerProcess:
    """A worker that nobody disturbs, over the same readings. It may still be starting."""
    return start_worker(None, **{**reference.settings, "readings_topic": topics.readings})


def assert_same_as_left_alone(
    servers: str, left_alone: WorkerProcess, topics: Topics, reference: Topics, sent: int
) -> None:
    """Compare with the worker that was left alone, once both have taken everything."""
    left_alone.wait_ready()
    for outputs in (topics, reference):
        read_committed(servers, outputs.forecasts, until=lambda found: len(found) >= sent, timeout_s=120)
    counts = assert_same_outputs(servers, topics, reference)
    assert counts["forecasts"] == sent
    assert assert_same_state(servers, topics, reference) == STAYS


@pytest.mark.timeout(600)
def test_workers_that_join_leave_and_die_lose_and_double_nothing(
    kafka: Broker, topics: Topics, reference: Topics, start_worker: WorkerStarter
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    settings = {"session_timeout_s": SESSION_TIMEOUT_S, "chunk_records": 64}
    left_alone = leave_alone(start_worker, topics, reference)
    first = start_worker(**settings)
    with Feed(servers, topics.readings, sent, per_s=FED_PER_S) as feed:
        second = start_worker(**settings)  # joins
        third = start_worker(**settings)  # joins
        assert second.terminate() == 0  # leaves
        first.kill()  # dies
        second.start()  # joins again
        third.kill()  # dies
        assert feed.goes_on, "readings kept coming all the while"
    assert_same_as_left_alone(servers, left_alone, topics, reference, len(sent))


@pytest.mark.timeout(600)
def test_a_worker_that_was_frozen_past_its_session_cannot_write(
    kafka: Broker, topics: Topics, reference: Topics, start_worker: WorkerStarter
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    settings = {"session_timeout_s": SESSION_TIMEOUT_S, "chunk_records": 64}
    left_alone = leave_alone(start_worker, topics, reference)
    zombie, half = start_worker(**settings), len(sent) // 2
    produce(servers, topics.readings, sent[:half])
    read_committed(servers, topics.forecasts, until=lambda found: len(found) > 0, timeout_s=120)
    zombie.pause()
    assert done(servers, topics) < half, "it was frozen too late, when it had nothing left to write"
    heir = start_worker(**settings)
    before = done(servers, topics)
    with Feed(servers, topics.readings, sent[half:], per_s=FED_PER_S) as feed:
        read_committed(servers, topics.forecasts, until=lambda found: len(found) > before, timeout_s=120)
        zombie.unpause()
        assert feed.goes_on
    assert_same_as_left_alone(servers, left_alone, topics, reference, len(sent))
    assert heir.status("/health/live") == 200


@pytest.mark.skipif(not REBALANCES, reason="takes minutes: VITALCAST_TEST_REBALANCES=20 make fault")
@pytest.mark.timeout(300 + 30 * REBALANCES)
def test_many_rebalances_leave_no_trace(
    kafka: Broker, topics: Topics, reference: Topics, start_worker: WorkerStarter
) -> None:
    chance, servers, sent = random.Random(20261123), kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    settings = {"session_timeout_s": SESSION_TIMEOUT_S, "chunk_records": 64}
    left_alone = leave_alone(start_worker, topics, reference)
    workers = [start_worker(**settings) for _ in range(2)]
    with Feed(servers, topics.readings, sent, per_s=FED_PER_S) as feed:
        for _ in range(REBALANCES):
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
        assert feed.goes_on, "readings kept coming all the while"
    assert_same_as_left_alone(servers, left_alone, topics, reference, len(sent))


@pytest.mark.skipif(not os.environ.get("VITALCAST_TEST_LONG"), reason="takes minutes: VITALCAST_TEST_LONG=1 make fault")
@pytest.mark.timeout(900)
def test_a_worker_without_partitions_stays_in_the_group(kafka: Broker, start_worker: WorkerStarter) -> None:
    """There is nothing for it to poll, which must not be taken for a worker that hangs (Kafka's limit is 5 min)."""
    topics = Topics.unique().create(kafka.bootstrap_servers, partitions=1)
    workers = [start_worker(**topics.settings) for _ in range(2)]
    assert sorted(worker.metric("vitalcast_assigned_partitions") for worker in workers) == [0, 1]
    rebalances = [worker.metric("vitalcast_rebalances_total") for worker in workers]
    time.sleep(330)
    assert [worker.metric("vitalcast_rebalances_total") for worker in workers] == rebalances


@pytest.mark.timeout(600)
def test_a_rebalance_that_does_not_end_ends_the_worker(
    kafka: Broker, topics: Topics, reference: Topics, start_worker: WorkerStarter
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, 100))
    left_alone = leave_alone(start_worker, topics, reference)
    frozen = start_worker(None, session_timeout_s=300)  # longer than several starts take
    limits = {"session_timeout_s": SESSION_TIMEOUT_S, "rebalance_within_s": REBALANCE_WITHIN_S}
    worker = start_worker(**limits)
    frozen.wait_ready()
    produce(servers, topics.readings, sent[: len(sent) // 2])
    frozen.pause()  # the group waits for it for as long as its session
    newcomer = start_worker(None, **limits)  # so that all must meet
    # A probe must not end it while it starts.
    eventually(lambda: newcomer.status("/health/live") == 200, within_s=120)  # a loaded machine takes long to import
    assert newcomer.status("/health/ready") == 503
    assert "vitalcast_ready 0" in newcomer.metrics()
    eventually(lambda: worker.status("/health/ready") == 503, within_s=60)  # as soon as the newcomer has asked to join
    assert worker.metric("vitalcast_assigned_partitions") == 0
    for stuck in (worker, newcomer):  # one has worked before, one joins for the first time
        assert stuck.wait(120) == 1
        assert f"a rebalance did not end within {REBALANCE_WITHIN_S} s" in stuck.log
    frozen.unpause()
    produce(servers, topics.readings, sent[len(sent) // 2 :])
    for stuck in (worker, newcomer):
        stuck.start(None)
    assert_same_as_left_alone(servers, left_alone, topics, reference, len(sent))
