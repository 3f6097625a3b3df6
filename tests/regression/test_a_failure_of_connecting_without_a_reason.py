"""A worker whose broker went away while it started ended with the name of an exception, below pages of Faust's."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import faust
import pytest

from stream_worker.chunks import ChunkTransport, WorkerError
from stream_worker.log import describe
from tests.kafka_broker import free_port
from tests.lanes import new_lane


async def nothing(*_: object) -> None:
    """What the application does at a rebalance."""


def test_a_consumer_that_cannot_connect_says_where() -> None:
    servers, failures = f"127.0.0.1:{free_port()}", list[BaseException]()

    async def start() -> None:
        app = faust.App("app", broker="kafka://")
        app.chunk_options = SimpleNamespace(
            config={"bootstrap_servers": servers},
            session_timeout_s=10.0,
            instance_id=None,
            chunk_records=16,
            on_failure=failures.append,
        )
        consumer = ChunkTransport(app.conf.broker, app).create_consumer(
            callback=nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing
        )
        with pytest.raises(WorkerError):
            await consumer._thread.on_start()
        await consumer._thread._consumer.stop()
        consumer._thread.thread_loop.close()

    asyncio.run(start())
    assert describe(failures[0])["reason"] == f"cannot connect to Kafka at {servers}: KafkaConnectionError"


def test_a_lane_that_cannot_connect_says_which() -> None:
    async def start() -> None:
        lane = new_lane(f"127.0.0.1:{free_port()}", partition=3)
        try:
            await lane.open()
        finally:
            await lane.close()

    with pytest.raises(WorkerError, match="partition 3: Kafka did not open it for writing: KafkaConnectionError"):
        asyncio.run(start())
