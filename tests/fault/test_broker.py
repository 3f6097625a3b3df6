"""A broker that goes away and comes back: the worker waits, or ends clearly and is started again; nothing is lost."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from tests.conftest import WorkerStarter
from tests.fault.supervised import assert_no_trace
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce, read_committed
from tests.patients import ward

STAYS, MINUTES = 20, 400
SESSION_TIMEOUT_S, AWAY_S = 4, 6


@pytest.mark.timeout(400)
@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_broker_that_goes_away_leaves_no_trace(own_kafka: Broker, start_worker: WorkerStarter, way: str) -> None:
    servers, sent = own_kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    topics, reference = Topics.unique().create(servers), Topics.unique().create(servers)
    half = len(sent) // 2
    produce(servers, topics.readings, sent[:half])
    worker = start_worker(
        bootstrap_servers=servers, **topics.settings, chunk_records=16, session_timeout_s=SESSION_TIMEOUT_S
    )
    found = read_committed(servers, topics.forecasts, until=lambda found: len(found) > 0)
    assert len(found) < half, "all is done before it goes away"
    getattr(own_kafka, way)()
    time.sleep(AWAY_S)
    own_kafka.start()
    produce(servers, topics.readings, sent[half:])
    assert_no_trace(worker, start_worker, servers, topics, reference, sent=len(sent), stays=STAYS, timeout_s=150)


def test_a_worker_stops_without_a_broker(own_kafka: Broker, start_worker: WorkerStarter) -> None:
    """Outputs are under way that nobody takes: they are read again at the next start."""
    topics = Topics.unique().create(own_kafka.bootstrap_servers)
    worker = start_worker(bootstrap_servers=own_kafka.bootstrap_servers, **topics.settings)
    produce(own_kafka.bootstrap_servers, topics.readings, ward(STAYS, MINUTES))
    read_committed(own_kafka.bootstrap_servers, topics.forecasts, until=lambda found: len(found) > 0)
    own_kafka.stop()
    assert worker.terminate(timeout_s=90) in (0, 1)
    said = Counter(json.loads(line)["event"] for line in worker.log.splitlines() if '"library"' in line)
    assert max(said.values()) < 20  # a line each ten seconds, of each kind
