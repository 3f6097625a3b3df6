"""Markers of a sender's transactions are offsets too: a worker that had read all was never caught up, by its count."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from confluent_kafka import Producer

from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, read_committed
from tests.patients import reading
from tests.waiting import eventually
from tests.worker_process import values_of


def test_timers_run_once_all_is_read(kafka: Broker, topics: Topics, start_worker: WorkerStarter) -> None:
    worker = start_worker(stale_after_s=3)
    # By default the broker aborts a transaction after a minute, which is less than all of this may take.
    config = {"transactional.id": topics.app_id, "transaction.timeout.ms": 300_000}
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, **config})
    producer.init_transactions(30)
    for abort in (False, True):
        producer.begin_transaction()
        value = json.dumps(reading("s", datetime.now(UTC), {"hr": 80}))
        producer.produce(topics.readings, key=b"s", value=value)
        producer.flush(30)
        producer.abort_transaction(30) if abort else producer.commit_transaction(30)
    # What is behind a transaction that stays open cannot be read, and keeps nobody from being missed.
    producer.begin_transaction()
    producer.produce(topics.readings, key=b"t", value=json.dumps(reading("t", datetime.now(UTC), {"hr": 80})))
    producer.flush(30)
    alerts = read_committed(
        kafka.bootstrap_servers,
        topics.alerts,
        until=lambda messages: any(message.json().get("cause") == "no_data" for message in messages),
    )
    assert len(alerts) >= 1

    def lags() -> list[float]:
        return values_of(worker.metrics(), "vitalcast_consumer_lag_records")

    eventually(lambda: len(lags()) == 4, within_s=30, told=worker.metrics)
    assert set(lags()) == {0.0}
    producer.abort_transaction(30)
