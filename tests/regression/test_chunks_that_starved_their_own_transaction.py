"""Chunks of new stays, a long time each on a busy machine, kept the loop from the transaction of the first of them.

It did not end within its 60 s, and the worker did, again after each start: nothing was ever committed.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from stream_worker.chunks import Work, lane
from tests.kafka_broker import Broker
from tests.kafka_client import Topics
from tests.lanes import new_lane

CHUNK_S = 0.3
CHUNKS = 24  # together longer than a transaction may take, and fewer than a lane lets wait


def test_a_transaction_ends_between_chunks_that_take_long(
    kafka: Broker, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "TRANSACTION_TIMEOUT_MS", 6000)
    monkeypatch.setattr(lane, "LONG_S", 0.6)
    failures: list[BaseException] = []

    async def work() -> None:
        lane = new_lane(kafka.bootstrap_servers, topics, partition=3, failures=failures)
        await lane.open()
        for number in range(CHUNKS):
            time.sleep(CHUNK_S)  # the pipeline, which holds the loop for as long
            lane.put(Work({topics.forecasts: [(b"key", b"value")]}, {b"stay": b"state"}, number + 1))
            await lane.room()
            await asyncio.sleep(0)
        if not failures:
            await lane.drain()
        await lane.close()

    asyncio.run(work())
    assert failures == []
