"""A changelog that was cut off while it was read, by hand or by a leader that lacked its end, counted as read."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from confluent_kafka import TopicPartition as Partition
from confluent_kafka.admin import AdminClient

from stream_worker.chunks import ChunkOptions
from stream_worker.chunks.options import MAX_FETCH_BYTES
from stream_worker.chunks.recovery import read_to_end
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, create_topics, produce

RECORD_BYTES = 200_000
RECORDS = 6 * MAX_FETCH_BYTES // RECORD_BYTES  # more than what is read ahead


class CutOff:
    """A store whose changelog loses all but its last record as soon as some of it was read."""

    def __init__(self, servers: str, topic: str) -> None:
        self._admin, self._topic = AdminClient({"bootstrap.servers": servers}), topic
        self.written_ms: dict[int, int] = {}
        self.loaded = 0

    def load(self, partition: int, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        if not self.loaded:
            for cut in self._admin.delete_records([Partition(self._topic, partition, RECORDS - 1)]).values():
                cut.result(30)
        self.loaded += len(list(records))


def test_a_changelog_that_is_cut_off_while_it_is_read_is_a_failure(kafka: Broker) -> None:
    servers, topic = kafka.bootstrap_servers, Topics.unique().changelog
    create_topics(servers, topic, partitions=1)
    chance = random.Random(1)
    produce(servers, topic, ((str(key), chance.randbytes(RECORD_BYTES)) for key in range(RECORDS)))
    options = ChunkOptions(
        config={"bootstrap_servers": servers},
        exactly_once=True,
        session_timeout_s=10,
        chunk_records=1024,
        instance_id=None,
        on_failure=lambda error: None,
        on_assigned=lambda partitions: None,
        on_revoked=lambda: None,
    )
    store: Any = CutOff(servers, topic)

    async def read() -> None:
        async with asyncio.timeout(60):
            await read_to_end(options, [TopicPartition(topic, 0)], {topic: store})

    with pytest.raises(OffsetOutOfRangeError):
        asyncio.run(read())
    assert 0 < store.loaded < RECORDS
