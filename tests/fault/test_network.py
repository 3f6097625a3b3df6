"""A network between worker and broker that is slow, deaf or gone for a while: nothing is lost, nothing doubled."""

from __future__ import annotations

import os
import time

import pytest

from tests.conftest import WorkerStarter
from tests.fault.proxy import Proxy
from tests.fault.supervised import assert_no_trace
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce, read_committed
from tests.patients import ward

STAYS, MINUTES = 20, 300
SESSION_TIMEOUT_S = 6
IS_LONG = "VITALCAST_TEST_LONG" in os.environ


@pytest.mark.skipif(not IS_LONG, reason="takes more than half a minute of waiting: VITALCAST_TEST_LONG=1 make fault")
@pytest.mark.timeout(400)
def test_a_network_that_fails_leaves_no_trace(kafka: Broker, topics: Topics, start_worker: WorkerStarter) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    reference, quarter = Topics.unique().create(servers), len(sent) // 4
    with Proxy(kafka.proxy_port, kafka.far_port) as network:
        worker = start_worker(
            bootstrap_servers=kafka.far_servers, chunk_records=32, session_timeout_s=SESSION_TIMEOUT_S
        )
        network.become("slow")
        produce(servers, topics.readings, sent[:quarter])
        time.sleep(2)
        done = len(read_committed(servers, topics.forecasts))
        assert 0 < done < quarter, "slow is neither dead nor fast"
        network.become("deaf")
        produce(servers, topics.readings, sent[quarter : 2 * quarter])
        time.sleep(SESSION_TIMEOUT_S + 3)  # the broker has given the worker up, which does not know it
        network.become("open")
        produce(servers, topics.readings, sent[2 * quarter : 3 * quarter])
        time.sleep(0.5)
        network.become("gone")
        produce(servers, topics.readings, sent[3 * quarter :])
        time.sleep(3)
        network.become("open")
        assert_no_trace(worker, start_worker, servers, topics, reference, sent=len(sent), stays=STAYS, timeout_s=240)
        worker.close()
