"""When a recovery ended while the next rebalance had begun, Faust let the readings flow again in the midst of it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import faust
from faust.types import TP

from stream_worker.chunks import ChunkTransport
from stream_worker.chunks.transport import ChunkConsumer


async def nothing(*_: object) -> None:
    """What the application does at a rebalance."""


def test_nothing_flows_between_revocation_and_the_seek_of_the_next_assignment() -> None:
    async def rebalance() -> list[bool]:
        app = faust.App("app", broker="kafka://")
        app.chunk_options = cast(Any, type("", (), {"on_revoked": lambda: None, "on_assigned": lambda _: None}))
        transport = ChunkTransport(app.conf.broker, app)
        consumer: ChunkConsumer = transport.create_consumer(
            callback=nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing
        )
        nobody: set[TP] = set()
        flows = []

        def settle() -> None:
            consumer._sought = consumer.assigned
            consumer.resume_flow()
            flows.append(consumer.flow_active)

        async def end_the_recovery_of_before() -> None:
            await consumer.perform_seek()
            consumer.resume_flow()
            flows.append(consumer.flow_active)

        await consumer.on_partitions_assigned(nobody, 1)
        settle()
        await consumer.on_partitions_revoked(nobody)
        await end_the_recovery_of_before()
        app.consumer_generation_id = 2  # by the consumer's thread, before it tells
        consumer.resume_flow()
        flows.append(consumer.flow_active)
        await consumer.on_partitions_assigned(nobody, 2)
        consumer.resume_flow()  # the state is there: once more after the seek
        flows.append(consumer.flow_active)
        settle()
        consumer._thread.thread_loop.close()
        return flows

    assert asyncio.run(rebalance()) == [True, False, False, False, True]
