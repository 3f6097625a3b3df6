"""The tools' clients, on the broker in memory, which makes a topic that is asked for if the client lets it."""

from __future__ import annotations

from contextlib import closing

import pytest
from kafka.errors import KafkaError
from kafka.structs import TopicPartition

from stream_worker import clients
from stream_worker.embedded import embedded_broker
from stream_worker.settings import Settings


def test_to_ask_for_a_topic_is_not_to_make_it() -> None:
    with embedded_broker(["there"]) as servers:
        settings = Settings(bootstrap_servers=servers)
        with (
            closing(clients.admin(settings)) as admin,
            closing(clients.consumer(settings)) as consumer,
            closing(clients.producer(settings, max_block_ms=1000)) as producer,
        ):
            assert not consumer.partitions_for_topic("asked-for")
            consumer.assign([TopicPartition("read", 0)])
            assert not consumer.poll(1000)
            with pytest.raises(KafkaError):
                producer.send("written-to", b"x")
            assert admin.list_topics() == ["there"]
