"""kill -9 of the worker, again and again: afterwards nothing is missing, nothing is there twice, the state is right."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.conftest import WorkerStarter
from tests.fault.undisturbed import assert_same_outputs, assert_same_state
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce, read_committed
from tests.patients import START, ended, ward

KILLS = int(os.environ.get("VITALCAST_TEST_KILLS", "10"))
STAYS, MINUTES = 40, 120 + 60 * KILLS


@pytest.mark.timeout(300 + 30 * KILLS)  # each start takes seconds, more on a busy machine
def test_kills_leave_no_trace(kafka: Broker, topics: Topics, start_worker: WorkerStarter) -> None:
    chance = random.Random(20261122)
    reference = Topics.unique().create(kafka.bootstrap_servers)
    sent = list(ward(STAYS, MINUTES))
    sent[5000:5000] = sent[4000:4100]  # late by then
    sent[6000:6000] = [("stay-1-0", ended("stay-1-0", START)), ("stay-1-1", {"vitals": "none"})]
    produce(kafka.bootstrap_servers, topics.readings, sent)

    undisturbed = start_worker(None, **{**reference.settings, "readings_topic": topics.readings})
    # Small chunks: more transactions for a kill to fall into.
    worker = start_worker(instance_id="killed", session_timeout_s=6, chunk_records=64)
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.1, 0.8))
        worker.kill()
        worker.start(ready_within_s=None)  # it takes seconds until it writes again
        done = len(read_committed(kafka.bootstrap_servers, topics.forecasts, topics.dead_letters))
        assert done < len(sent) - 1, "all was done before the kill: it hit an idle worker"
        worker.wait_ready()
    undisturbed.wait_ready()
    for settings in (topics, reference):
        wait_for_all(kafka.bootstrap_servers, settings, len(sent))
    assert worker.terminate() == undisturbed.terminate() == 0

    counts = assert_same_outputs(kafka.bootstrap_servers, topics, reference)
    assert counts["forecasts"] + counts["dead_letters"] + 1 == len(sent)  # one event, no duplicates
    assert counts["alerts"] > 0
    assert assert_same_state(kafka.bootstrap_servers, topics, reference) == STAYS


def wait_for_all(servers: str, topics: Topics, records: int) -> None:
    """Wait until a worker has taken all `records` of its input; one of them, an event, leaves nothing."""
    read_committed(
        servers, topics.forecasts, topics.dead_letters, until=lambda found: len(found) >= records - 1, timeout_s=120
    )
