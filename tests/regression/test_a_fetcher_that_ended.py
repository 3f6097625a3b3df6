"""aiokafka's fetcher ended by an exception: the worker stayed ready, without lag, and read nothing any more."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiokafka
import faust

from stream_worker.chunks import ChunkTransport
from tests.kafka_broker import Broker
from tests.kafka_client import Topics


async def nothing(*_: object) -> None:
    """What the application does at a rebalance."""


def broken(*_: object) -> None:
    """What aiokafka does not expect."""
    raise AssertionError


def test_a_fetcher_that_has_ended_is_a_fault(kafka: Broker, topics: Topics) -> None:
    async def read() -> list[str | None]:
        app = faust.App(topics.app_id, broker="kafka://")
        app.chunk_options = SimpleNamespace()
        chunks: Any = ChunkTransport(app.conf.broker, app).create_consumer(
            callback=nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing
        )
        faults = [chunks.fault]
        consumer: Any = aiokafka.AIOKafkaConsumer(
            topics.readings, bootstrap_servers=kafka.bootstrap_servers, group_id=topics.app_id
        )
        chunks._thread._consumer = consumer
        faults.append(chunks.fault)
        await consumer.start()
        try:
            await consumer.getmany(timeout_ms=500)
            faults.append(chunks.fault)
            consumer._fetcher._get_actions_per_node = broken
            assert await consumer.getmany(timeout_ms=2000) == {}  # and so for ever
            faults.append(chunks.fault)
        finally:
            await asyncio.gather(consumer.stop(), return_exceptions=True)  # which its fetcher's error ends half-way
            await consumer._client.close()
            chunks._thread.thread_loop.close()
        return faults

    *well, ended = asyncio.run(read())
    assert well == [None, None, None]
    assert ended == "nothing is read any more: aiokafka's _fetch_requests_routine has ended, AssertionError"
