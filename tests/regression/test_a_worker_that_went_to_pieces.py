"""A worker whose outputs Kafka did not take in a rebalance took 12 s to crash, and joined the group meanwhile.

Partitions moved twice, and the log said `TimeoutError()`.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from mode import Service

from stream_worker.app import App
from stream_worker.chunks import ChunkTransport, WorkerError, transport


def an_app(failures: list[BaseException]) -> Any:
    app = App("app", broker="kafka://")
    app.chunk_options = SimpleNamespace(on_failure=failures.append)
    app.transport = ChunkTransport(app.conf.broker, app)
    return app


def test_a_rebalance_that_waits_too_long_for_outputs_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "DRAIN_TIMEOUT_S", 0.01)

    async def wait() -> None:
        consumer = an_app([]).consumer
        consumer.lanes = {TopicPartition("vitals.readings", 0): SimpleNamespace(drain=asyncio.Event().wait)}
        try:
            await consumer.wait_empty()
        finally:
            consumer._thread.thread_loop.close()

    with pytest.raises(WorkerError, match="Kafka did not take what a rebalance waited for"):
        asyncio.run(wait())


def test_a_crash_anywhere_in_faust_ends_the_worker_at_once() -> None:
    failures: list[BaseException] = []
    fault = WorkerError("of a part of it")

    async def crash() -> None:
        running, stopped = an_app(failures), an_app(failures)
        await Service(beacon=running.beacon).crash(fault)
        await stopped.stop()
        await stopped.crash(WorkerError("while it stops"))

    asyncio.run(crash())
    assert failures == [fault]
