"""A broker that goes away and comes back: the worker waits, or ends clearly and is started again; nothing is lost."""

from __future__ import annotations

import time

import pytest

from tests.conftest import WorkerStarter
from tests.fault.undisturbed import assert_same_outputs, assert_same_state
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce, read_committed
from tests.patients import ward
from tests.worker_process import WorkerProcess

STAYS, MINUTES = 20, 400


def supervise(worker: WorkerProcess) -> None:
    """What a supervisor does: start the worker again if it has ended."""
    if not worker.is_running:
        assert worker.wait() == 1
        assert "stopped_by_failure" in worker.log
        worker.start()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_broker_that_goes_away_leaves_no_trace(own_kafka: Broker, start_worker: WorkerStarter, way: str) -> None:
    servers, sent = own_kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    topics, reference = Topics.unique().create(servers), Topics.unique().create(servers)
    half = len(sent) // 2
    produce(servers, topics.readings, sent[:half])
    worker = start_worker(bootstrap_servers=servers, **topics.settings, chunk_records=64, session_timeout_s=6)
    time.sleep(0.5)  # in the middle of it
    getattr(own_kafka, way)()
    time.sleep(8)
    own_kafka.start()
    produce(servers, topics.readings, sent[half:])
    end = time.monotonic() + 150
    while len(read_committed(servers, topics.forecasts)) < len(sent) and time.monotonic() < end:
        supervise(worker)
        time.sleep(1)

    start_worker(bootstrap_servers=servers, **{**reference.settings, "readings_topic": topics.readings})
    read_committed(servers, reference.forecasts, until=lambda found: len(found) >= len(sent), timeout_s=120)
    assert assert_same_outputs(servers, topics, reference)["forecasts"] == len(sent)
    assert assert_same_state(servers, topics, reference) == STAYS
