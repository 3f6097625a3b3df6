"""What tells of a record as large as the broker takes was larger than that: refused, and so again at each start."""

from __future__ import annotations

import random

import pytest
from confluent_kafka import Producer

from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, read_committed

LARGEST = 1_048_588  # what a broker takes by default, record and batch headers included
HEADERS = 120


@pytest.mark.parametrize("part", ["key", "value"])
def test_a_huge_record_leaves_a_dead_letter(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, part: str
) -> None:
    worker = start_worker(dead_letter_payload=True)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "message.max.bytes": 2 * LARGEST})
    record = {"key": b"s", "value": b"{", part: random.Random(1).randbytes(LARGEST - HEADERS)}
    producer.produce(topics.readings, **record)
    assert producer.flush(30) == 0
    (found,) = read_committed(kafka.bootstrap_servers, topics.dead_letters, until=bool)
    letter = found.json()
    assert letter["reason"] == ("malformed" if part == "key" else "too_large")
    # What fits is there.
    assert found.key == (None if part == "key" else b"s")
    assert letter.get("payload") == ("ew==" if part == "key" else None)
    assert worker.is_running
