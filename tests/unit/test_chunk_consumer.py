"""The consumer of chunks, without a broker: what the agent is given, and what it must not miss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import ConsumerRecord, TopicPartition
from faust.types import TP

from stream_worker.chunks import ChunkTransport, WorkerError
from stream_worker.chunks.position import InputLog
from stream_worker.chunks.transport import Chunk, ChunkConsumer

INPUT = TP("vitals.readings", 0)
DONE, END = 10, 42  # where the state ends, and where the records end


async def nothing(*_: object) -> None:
    """What the application does at a rebalance."""


@contextmanager
def a_consumer() -> Iterator[ChunkConsumer]:
    """Of an application that does nothing; in no group."""
    app = faust.App("app", broker="kafka://")
    app.chunk_options = SimpleNamespace(on_revoked=lambda: None, on_assigned=lambda _: None)
    consumer: ChunkConsumer = ChunkTransport(app.conf.broker, app).create_consumer(
        callback=nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing
    )
    loop = consumer._thread.thread_loop
    try:
        yield consumer
    finally:
        loop.close()


def a_record(offset: int) -> ConsumerRecord:
    return ConsumerRecord(INPUT.topic, INPUT.partition, offset, 0, 0, b"stay", b"{}", None, 4, 2, ())


def a_chunk() -> Chunk:
    return {TopicPartition(*INPUT): [a_record(DONE)]}


def test_a_chunk_that_the_agent_never_saw_is_an_error() -> None:
    async def miss_one() -> None:
        with a_consumer() as consumer:
            first, second, third = (consumer._chunk_message(a_chunk())[1] for _ in range(3))
            assert third.value == a_chunk()
            with consumer.processing(first):
                pass
            with pytest.raises(WorkerError, match="1 chunks"), consumer.processing(third):
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


def settle(consumer: ChunkConsumer) -> None:
    """What the recovery and the seek of an assignment end with."""
    consumer.recovered = consumer._sought = consumer.assigned


def test_nothing_flows_between_revocation_and_the_seek_of_the_next_assignment() -> None:
    async def rebalance() -> list[bool]:
        flows = []
        with a_consumer() as consumer:

            def resume() -> None:
                consumer.resume_flow()
                flows.append(consumer.flow_active)

            await consumer.on_partitions_assigned(set(), 1)
            settle(consumer)
            resume()
            await consumer.on_partitions_revoked(set())
            await consumer.perform_seek()  # the recovery of before ends
            resume()
            consumer.app.consumer_generation_id = 2  # by the consumer's thread, before it tells
            resume()
            await consumer.on_partitions_assigned(set(), 2)
            await consumer.perform_seek()  # the recovery of before ends only now
            resume()  # the state is there: once more after the seek
            settle(consumer)
            resume()
        return flows

    assert asyncio.run(rebalance()) == [True, False, False, False, True]


class Thread:
    """The consumer's thread: a fetch waits for records, and takes those from where the consumer stands by then."""

    is_behind = False

    def __init__(self) -> None:
        self.at = DONE
        self.positions: Mapping[TP, int] = {}
        self.has_records = asyncio.Event()

    async def getmany(self, active_partitions: object, timeout: float) -> dict[TP, list[ConsumerRecord]]:
        """All records that there are, once there are some."""
        await self.has_records.wait()
        records = [a_record(offset) for offset in range(self.at, END)]
        self.at = END
        self.positions = {INPUT: END}
        return {INPUT: records} if records else {}

    async def call_thread(self, call: Callable[..., object], *arguments: Any) -> Any:
        """A seek; whatever else is called asks the broker what there is."""
        if call == self.stand_at:
            return self.stand_at(*arguments)
        return {TopicPartition(*INPUT): InputLog(0, END, DONE, is_newer_than_state=False)}

    def stand_at(self, positions: Mapping[TP, int]) -> None:
        """Read on from there."""
        self.at, self.positions = positions[INPUT], positions

    def _ensure_consumer(self) -> Thread:
        return self


async def next_offsets(consumer: Any) -> list[int]:
    """Of what is handed over next."""
    chunks = [message.value async for _, message in consumer.getmany(timeout=1.0)]
    return [record.offset for chunk in chunks for records in chunk.values() for record in records]


async def until_all_wait() -> None:
    """Let everybody go on as far as they get."""
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.mark.parametrize("is_late", [False, True], ids=["before the seek", "after the seek"])
def test_what_a_fetch_takes_that_outlasts_a_rebalance_is_fetched_again(*, is_late: bool) -> None:
    """It was dropped, and the next one began where it had ended."""

    async def fetch_and_rebalance() -> tuple[list[int], list[int]]:
        with a_consumer() as made:
            consumer: Any = made
            thread = consumer._thread = Thread()
            store = SimpleNamespace(positions={INPUT.partition: DONE}, topics={}, written_ms={})
            consumer.app.tables = {"stays": SimpleNamespace(data=store)}
            lane = SimpleNamespace(published_until=0, drain=lambda: asyncio.sleep(0))

            async def assign_and_recover() -> None:
                await consumer.on_partitions_assigned(set(), 1)
                consumer._active_partitions, consumer.lanes = {INPUT}, {TopicPartition(*INPUT): lane}
                consumer.recovered = consumer.assigned
                await consumer.perform_seek()

            await assign_and_recover()
            consumer.resume_flow()
            fetching = asyncio.create_task(next_offsets(consumer))
            await until_all_wait()
            consumer.assigned = None
            consumer.stop_flow()
            if not is_late:
                thread.has_records.set()
                await until_all_wait()
            await assign_and_recover()
            thread.has_records.set()
            dropped = await fetching
            consumer.resume_flow()
            return dropped, await next_offsets(consumer) or await next_offsets(consumer)

    assert asyncio.run(fetch_and_rebalance()) == ([], list(range(DONE, END)))
