"""A recovery that took longer than Faust waits went on with what had been read by then."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import faust
from aiokafka import TopicPartition

from stream_worker.chunks.recovery import BulkRecovery
from stream_worker.log import describe


class Endless(BulkRecovery):
    """Reads for ever."""

    async def _load(self, partitions: list[TopicPartition]) -> None:
        await asyncio.Event().wait()


def test_a_recovery_that_does_not_end_is_a_failure() -> None:
    failures: list[BaseException] = []

    async def recover() -> None:
        app = faust.App("app", broker="memory://", broker_request_timeout=0.1)
        app.chunk_options = SimpleNamespace(on_failure=failures.append)
        recovery = Endless(app, app.tables)
        await recovery._build_offsets(None, {TopicPartition("changelog", 0)}, {}, "active")

    asyncio.run(recover())
    assert [describe(failure)["reason"] for failure in failures] == ["the state was not read within 0 s"]
