"""A Kafka broker in memory, on loopback: librdkafka's mock cluster. For the demo and quick tests, never for patients.

It speaks the real protocol, but topics appear when first used (4 partitions), offsets in transactions are lost, and
each partition keeps about 5 MB. So its worker needs `delivery = "at_least_once"`, and whoever writes fast must hold
back (`stream_worker.sender.LagLimit`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from confluent_kafka import Producer


@contextmanager
def embedded_broker(topics: Iterable[str]) -> Iterator[str]:
    """Run a broker with `topics` while the context is open; yields its bootstrap servers."""
    # Any address makes librdkafka accept the configuration; the mock cluster puts its own in place of it.
    owner = Producer({"bootstrap.servers": "embedded", "test.mock.num.brokers": 1, "log_level": 0})
    try:
        (node,) = owner.list_topics(timeout=10).brokers.values()
        for topic in topics:
            owner.list_topics(topic, timeout=10)  # asking for a topic makes it
        yield f"{node.host}:{node.port}"
    finally:
        del owner  # the broker ends with its owner
