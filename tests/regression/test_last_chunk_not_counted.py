"""What was committed while a partition was handed over was missing in the metrics."""

from __future__ import annotations

import asyncio

from aiokafka import TopicPartition

from stream_worker.chunks import Lane, Work
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, read_committed


def test_a_lane_that_is_closed_counts_what_it_commits(kafka: Broker, topics: Topics) -> None:
    counted: list[str] = []
    failures: list[BaseException] = []

    async def write_and_close() -> None:
        async def commit(_offsets: object) -> None:
            raise AssertionError("offsets are part of the transaction")

        lane = Lane(
            TopicPartition(topics.readings, 0),
            group_id=topics.app_id,
            changelog_topic=topics.changelog,
            producer_config={"bootstrap_servers": kafka.bootstrap_servers},
            exactly_once=True,
            commit=commit,
            on_failure=failures.append,
        )
        await lane.open()
        lane.put(Work({topics.forecasts: [(b"key", b"value")]}, {b"state": b"1"}, None, lambda: counted.append("work")))
        while not lane.stalled_s:
            await asyncio.sleep(0)
        await lane.close()

    asyncio.run(write_and_close())
    assert (counted, failures) == (["work"], [])
    assert [message.value for message in read_committed(kafka.bootstrap_servers, topics.forecasts)] == [b"value"]
