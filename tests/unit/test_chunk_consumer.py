"""The consumer of chunks, without a broker: what the agent is given, and what it must not miss."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import faust
import pytest
from aiokafka import ConsumerRecord, TopicPartition

from stream_worker.chunks import ChunkTransport
from stream_worker.chunks.transport import Chunk, ChunkConsumer, ChunkLostError


async def nothing(*_: object) -> None:
    """What the application does at a rebalance."""


@contextmanager
def a_consumer() -> Iterator[ChunkConsumer]:
    """Of an application that does nothing; in no group."""
    app = faust.App("app", broker="kafka://")
    app.chunk_options = cast(Any, type("", (), {"on_revoked": lambda: None, "on_assigned": lambda _: None}))
    consumer: ChunkConsumer = ChunkTransport(app.conf.broker, app).create_consumer(
        callback=nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing
    )
    try:
        yield consumer
    finally:
        consumer._thread.thread_loop.close()


def a_chunk() -> Chunk:
    record = ConsumerRecord("readings", 0, 7, 0, 0, b"stay", b"{}", None, 4, 2, ())
    return {TopicPartition("readings", 0): [record]}


def test_a_chunk_that_the_agent_never_saw_is_an_error() -> None:
    async def miss_one() -> None:
        with a_consumer() as consumer:
            first, second, third = (consumer._chunk_message(a_chunk())[1] for _ in range(3))
            assert third.value == a_chunk()
            with consumer.processing(first):
                pass
            with pytest.raises(ChunkLostError, match="1 chunks"), consumer.processing(third):
                pytest.fail("it went on")
            with consumer.processing(second):
                pass

    asyncio.run(miss_one())


def test_chunks_that_a_rebalance_dropped_are_not_missed() -> None:
    async def drop() -> None:
        with a_consumer() as consumer:
            consumer._chunk_message(a_chunk())
            await consumer.on_partitions_revoked(set())
            await consumer.on_partitions_assigned(set(), 2)
            with consumer.processing(consumer._chunk_message(a_chunk())[1]):
                pass

    asyncio.run(drop())


def test_nothing_flows_between_revocation_and_the_seek_of_the_next_assignment() -> None:
    async def rebalance() -> list[bool]:
        flows = []
        with a_consumer() as consumer:

            def resume(*, is_sought: bool = False) -> None:
                if is_sought:
                    consumer._sought = consumer.assigned
                consumer.resume_flow()
                flows.append(consumer.flow_active)

            await consumer.on_partitions_assigned(set(), 1)
            resume(is_sought=True)
            await consumer.on_partitions_revoked(set())
            await consumer.perform_seek()  # the recovery of before ends
            resume()
            consumer.app.consumer_generation_id = 2  # by the consumer's thread, before it tells
            resume()
            await consumer.on_partitions_assigned(set(), 2)
            resume()  # the state is there: once more after the seek
            resume(is_sought=True)
        return flows

    assert asyncio.run(rebalance()) == [True, False, False, False, True]
