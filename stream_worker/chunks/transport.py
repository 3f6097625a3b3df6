"""Faust's transport: one event for each fetched chunk of records, lanes in place of Faust's commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import aiokafka
import structlog
from aiokafka import TopicPartition
from faust.app.base import BootStrategy
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from stream_worker.chunks.lane import Lane

log = structlog.get_logger("vitalcast")

# What a rebalance may wait for the last chunks: less than Kafka's rebalance timeout (60 s), more than a broker restart.
DRAIN_TIMEOUT_S: Final = 20.0
MAX_FETCH_BYTES: Final = 2 << 20


Records = Sequence[aiokafka.ConsumerRecord]
# What one event carries: the next records of some partitions, each in offset order.
Chunk = Mapping[TopicPartition, Records]


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How the transport reaches the broker and what it tells its owner."""

    config: Mapping[str, Any]  # addresses and security, as aiokafka takes them
    exactly_once: bool
    session_timeout_s: float
    chunk_records: int
    instance_id: str | None
    on_failure: Callable[[BaseException], None]
    on_assigned: Callable[[frozenset[int]], None] = field(default=lambda partitions: None)

    @property
    def isolation_level(self) -> str:
        """Records of aborted transactions must not be read back, neither as input nor as state."""
        return "read_committed" if self.exactly_once else "read_uncommitted"


class ChunkBootStrategy(BootStrategy):  # type: ignore[misc]  # Faust is untyped
    """Lanes own the producers: Faust's own is never started."""

    enable_kafka_producer = False
    enable_web = False


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        connection: Connection = self.app.connection
        self._assignor = self.app.assignor
        session_timeout_ms = int(connection.session_timeout_s * 1000)
        return aiokafka.AIOKafkaConsumer(
            **connection.config,
            client_id=self.app.conf.id,
            group_id=self.app.conf.id,
            group_instance_id=connection.instance_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=connection.isolation_level,
            max_partition_fetch_bytes=MAX_FETCH_BYTES,
            session_timeout_ms=session_timeout_ms,
            heartbeat_interval_ms=session_timeout_ms // 5,
            rebalance_timeout_ms=60_000,
            max_poll_records=connection.chunk_records,
        )

    async def _fetch_records(
        self, consumer: aiokafka.AIOKafkaConsumer, active_partitions: set[TP], timeout: float, max_records: int
    ) -> Mapping[TP, Records]:
        """An equal share of what each partition has; waits only if none has anything.

        Stock aiokafka fills a fetch from one partition before it looks at the next, so that under load each chunk
        would hold one partition only, and few stays with many readings each.
        """
        fetch = super()._fetch_records
        share = max(1, max_records // len(active_partitions))
        fetched: dict[TP, Records] = {}
        for partition in active_partitions:
            fetched.update(await fetch(consumer, {partition}, timeout=0, max_records=share))
        return fetched or await fetch(consumer, active_partitions, timeout=timeout, max_records=share)


class ChunkConsumer(driver.Consumer):  # type: ignore[misc]
    """Yields chunks; knows no acknowledgements, since a lane knows what is durable."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.lanes: dict[TopicPartition, Lane] = {}
        super().__init__(*args, **kwargs)

    @property
    def connection(self) -> Connection:
        """How the application connects."""
        connection: Connection = self.app.connection
        return connection

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """What was fetched as one chunk; nothing when the partitions may have changed hands meanwhile.

        A rebalance can end within one fetch. Nobody can tell then whether the records were fetched before or after the
        new assignment's seek, so they are dropped and fetched again from the committed offsets.
        """
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        generation = self.app.consumer_generation_id
        fetched = await self._fetch(timeout)
        if self.should_stop:
            return
        if not self.flow_active or self.app.consumer_generation_id != generation:
            await self._rewind()
        elif fetched:
            yield self._chunk_message({TopicPartition(*tp): records for tp, records in fetched.items()})

    async def _fetch(self, timeout: float) -> Mapping[TP, Records]:
        active = self._get_active_partitions()
        if not active:
            await asyncio.sleep(0.01)  # Faust's own second of sleep would be felt at each start
            return {}
        self.not_waiting_next_records.clear()
        try:
            return await self._getmany(active_partitions=active, timeout=timeout) or {}
        finally:
            self.not_waiting_next_records.set()

    async def perform_seek(self) -> None:
        """Go to the committed offsets; to the beginning where nothing is committed, which Faust leaves where it is."""
        await super().perform_seek()
        uncommitted = [
            TopicPartition(*tp)
            for tp in self.assignment()
            if not self._is_changelog_tp(tp) and self._read_offset[tp] is None
        ]
        if uncommitted:
            consumer = self._thread._ensure_consumer()
            await self._thread.call_thread(consumer.seek_to_beginning, *uncommitted)

    async def _rewind(self) -> None:
        """Fetch again from the committed offsets; what is processed already is skipped by those who keep the state."""
        generation = self.app.consumer_generation_id
        try:
            await self.perform_seek()
        except Exception as error:
            if self.flow_active and self.app.consumer_generation_id == generation:
                self.connection.on_failure(error)  # no other rebalance is on its way to seek for us
            log.debug("seek_failed", error=type(error).__name__)

    def _chunk_message(self, chunk: Chunk) -> tuple[TP, ConsumerMessage]:
        """A chunk as Faust's message. Faust needs one partition and offset for it; nothing is read from them."""
        last = next(iter(chunk.values()))[-1]
        partition = TP(last.topic, last.partition)
        return partition, ConsumerMessage(
            topic=last.topic,
            partition=last.partition,
            offset=last.offset,
            timestamp=last.timestamp / 1000,
            timestamp_type=last.timestamp_type,
            headers=(),
            key=b"",
            value=chunk,
            checksum=None,
            tp=partition,
            generation_id=self.app.consumer_generation_id,
        )

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: gaps matter only for counted acknowledgements."""

    def ack(self, message: ConsumerMessage) -> bool:
        """Mark a chunk as handed to its lane."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Nothing: lanes commit."""
        return False

    async def commit_offsets(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit what a lane made durable without a transaction."""
        await self._commit({TP(*partition): offset for partition, offset in offsets.items()})

    async def wait_empty(self) -> None:
        """Wait until the chunks under way are with their lanes, and the lanes are empty."""
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while any(not message.acked for message in list(self._unacked_messages)):
                await asyncio.sleep(0.005)
            await asyncio.gather(*(lane.drain() for lane in self.lanes.values()))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish the chunks under way, then close the lanes of what is lost."""
        await super().on_partitions_revoked(revoked)
        await self._close_lanes({TopicPartition(*tp) for tp in revoked})

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Fence the previous owners first: only then is the changelog complete and the committed offset final."""
        inputs = {TopicPartition(*tp) for tp in assigned if not self._is_changelog_tp(tp)}
        new = [partition for partition in inputs if partition not in self.lanes]
        try:
            for partition in new:
                self.lanes[partition] = self._new_lane(partition)
            await asyncio.gather(*(self.lanes[partition].open() for partition in new))
        except Exception as error:
            self.connection.on_failure(error)
            return
        self.connection.on_assigned(frozenset(partition.partition for partition in inputs))
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_stop(self) -> None:
        """Finish the chunks under way, close the lanes, leave the group."""
        try:
            await self.wait_empty()
        except TimeoutError:
            log.warning("stopped_with_work_under_way", detail="it is read again at the next start")
        await self._close_lanes(set(self.lanes))
        await super().on_stop()

    def _new_lane(self, partition: TopicPartition) -> Lane:
        (changelog_topic,) = self.app.tables.changelog_topics
        return Lane(
            partition,
            group_id=self.app.conf.id,
            changelog_topic=changelog_topic,
            producer_config=self.connection.config,
            exactly_once=self.connection.exactly_once,
            commit=self.commit_offsets,
            on_failure=self.connection.on_failure,
        )

    async def _close_lanes(self, partitions: set[TopicPartition]) -> None:
        lost = [self.lanes.pop(partition) for partition in partitions if partition in self.lanes]
        await asyncio.gather(*(lane.close() for lane in lost))


class ChunkTransport(driver.Transport):  # type: ignore[misc]
    """The transport to set as `app.transport`; the app carries its `Connection` as `app.connection`."""

    Consumer: ClassVar[type[ChunkConsumer]] = ChunkConsumer
