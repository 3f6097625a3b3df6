"""A worker that was fenced off, or whose broker took nothing any more, ended with the name of an exception alone."""

from __future__ import annotations

import asyncio

import pytest

from stream_worker.chunks import Work, lane
from stream_worker.log import describe
from tests.kafka_broker import Broker
from tests.kafka_client import Topics
from tests.lanes import new_lane


def reason_after(kafka: Broker, topics: Topics, *, is_fenced: bool) -> str:
    """What is logged when a lane has failed."""
    failures: list[BaseException] = []

    async def fail() -> None:
        servers = kafka.bootstrap_servers
        first, second = (new_lane(servers, topics, partition=3, failures=failures) for _ in range(2))
        await first.open()
        if is_fenced:
            await second.open()
        first.put(Work({topics.forecasts: [(b"key", b"value")]}, {}, None))
        async with asyncio.timeout(30):
            while not failures:
                await asyncio.sleep(0.01)
        await asyncio.gather(first.close(), second.close())

    asyncio.run(fail())
    return str(describe(failures[0])["reason"])


def test_a_lane_that_is_fenced_off_says_so(kafka: Broker, topics: Topics) -> None:
    assert "partition 3: another worker has taken it over" in reason_after(kafka, topics, is_fenced=True)


def test_a_broker_that_takes_nothing_is_said(kafka: Broker, topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "TRANSACTION_TIMEOUT_MS", 1)  # what takes longer than a transaction may
    assert "partition 3: Kafka did not take its outputs" in reason_after(kafka, topics, is_fenced=False)
