"""What was committed while a partition was handed over was missing in the metrics."""

from __future__ import annotations

import asyncio

from stream_worker.chunks import Work
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, read_committed
from tests.lanes import new_lane


def test_a_lane_that_is_closed_counts_what_it_commits(kafka: Broker, topics: Topics) -> None:
    counted: list[str] = []
    failures: list[BaseException] = []

    async def write_and_close() -> None:
        lane = new_lane(kafka.bootstrap_servers, topics, failures=failures)
        await lane.open()
        lane.put(Work({topics.forecasts: [(b"key", b"value")]}, {b"state": b"1"}, None, lambda: counted.append("work")))
        while not lane.stalled_s:
            await asyncio.sleep(0)
        await lane.close()

    asyncio.run(write_and_close())
    assert (counted, failures) == (["work"], [])
    assert [message.value for message in read_committed(kafka.bootstrap_servers, topics.forecasts)] == [b"value"]
