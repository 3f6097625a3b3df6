"""Chunks that take long, on a busy machine, kept the loop from the transaction of the first of them.

New stays take long, and a few stays with thousands of readings each. The transaction did not end within its 60 s, and
the worker did, again after each start: nothing was ever committed.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from stream_worker import agent
from stream_worker.chunks import Work, lane
from tests.kafka_broker import Broker
from tests.kafka_client import Topics
from tests.lanes import new_lane
from tests.records import NotedLane, new_agent, new_pipeline, reading, records

CHUNK_S = 0.3
CHUNKS = 24  # together longer than a transaction may take, and fewer than a lane lets wait


def test_a_transaction_ends_between_chunks_that_take_long(
    kafka: Broker, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "TRANSACTION_TIMEOUT_MS", 6000)
    monkeypatch.setattr(lane, "STALLED_AFTER_S", 0.6)
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


class AskedLane(NotedLane):
    """It has room, and notes how much it had been given when it was asked."""

    def __init__(self, partition: int) -> None:
        super().__init__(partition)
        self.had: list[int] = []

    async def room(self) -> None:
        self.had.append(len(self.works))


@pytest.mark.parametrize(("slow_s", "had"), [(0.0, [1, 2, 3, 3]), (60.0, [3])])
def test_lanes_have_a_turn_between_the_parts_of_a_slow_chunk(
    monkeypatch: pytest.MonkeyPatch, slow_s: float, had: list[int]
) -> None:
    monkeypatch.setattr(agent, "PIPELINE_RECORDS", 1)
    monkeypatch.setattr(agent, "SLOW_S", slow_s)
    lane = AskedLane(0)
    chunk: Any = {lane.partition: records([reading("s", 60 * minute, {"hr": 80}) for minute in range(3)])}
    asyncio.run(new_agent(new_pipeline(), lane).process(chunk))
    assert lane.had == had
