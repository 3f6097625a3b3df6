"""Faust's transport: one event for each fetched chunk of records, lanes in place of Faust's commits."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.app.base import BootStrategy
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from stream_worker.chunks.fetching import FetchThread, Records
from stream_worker.chunks.lane import CLOSE_WITHIN_S, Lane
from stream_worker.chunks.options import ChunkOptions, WorkerError
from stream_worker.chunks.position import look_at, start_of

if TYPE_CHECKING:
    from stream_worker.chunks.recovery import BulkStore

log = structlog.get_logger("vitalcast")

# What a rebalance may wait for the last chunks: less than REBALANCE_TIMEOUT_MS, more than a broker restart.
DRAIN_TIMEOUT_S: Final = 20.0

# What one event carries: the next records of some partitions, each in offset order.
Chunk = Mapping[TopicPartition, Records]


class ChunkBootStrategy(BootStrategy):  # type: ignore[misc]  # Faust is untyped
    """Lanes own the producers: Faust's own is never started."""

    enable_kafka_producer = False
    enable_web = False


class ChunkConsumer(driver.Consumer):  # type: ignore[misc]
    """Yields chunks; knows no acknowledgements, since a lane knows what is durable."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.lanes: dict[TopicPartition, Lane] = {}
        # The assignment; None while a rebalance is under way. Not the group's generation: another thread counts it up
        # before we know, and Faust goes on with an old one's recovery while the next is on its way.
        self.assigned: object | None = None
        self.recovered: object | None = None  # the assignment whose state is there
        self._sought = object()  # the one whose partitions stand where their state ends; none yet
        self._chunks = self._taken = 0  # how many were made, and up to which the agent has seen all
        # Where all has been processed to. Not the offset after the last record: there may be markers behind it.
        self.done_until: Mapping[TP, int] = {}
        # Likewise, once the chunks under way are done. The thread's own positions, if nothing was dropped since.
        self._fetched_until: Mapping[TP, int] = {}
        self._is_free = asyncio.Event()  # no chunk is under way
        self._is_free.set()
        self._is_idle = asyncio.Event()  # none is being processed; others may be queued
        self._is_idle.set()
        super().__init__(*args, **kwargs)

    @property
    def options(self) -> ChunkOptions:
        """How the application connects."""
        options: ChunkOptions = self.app.chunk_options
        return options

    @property
    def fault(self) -> str | None:
        """Why no more readings will come, if that is so: aiokafka tells who polls, or nobody (docs/upstream.md)."""
        consumer = self._thread._consumer
        if consumer is None or consumer._coordinator is None:
            return None
        if (error := consumer._coordinator._pending_exception) is not None:
            return f"the group {self.app.conf.id} refuses this worker: {error!r}"
        for task in (consumer._coordinator._coordination_task, consumer._fetcher._fetch_task):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                ended = f"{task.get_coro().__name__} has ended, {type(error.__cause__ or error).__name__}"
                return f"nothing is read any more: aiokafka's {ended}"
        return None

    def _new_consumer_thread(self) -> FetchThread:
        return FetchThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """What was fetched as one chunk; nothing when the partitions may have changed hands meanwhile.

        A rebalance may begin within a fetch, and the fetch may outlast it: one that waits for records waits for the new
        assignment too, and takes what it finds then, before the seek or after it. What comes of it is dropped, and
        fetched again from where the state ends.
        """
        # What comes meanwhile goes into the next chunk: fetched sooner it would be smaller, and no sooner answered.
        await self._is_free.wait()
        self.done_until = self._fetched_until
        if not self._thread.is_behind:
            await asyncio.gather(*(lane.drain() for lane in self.lanes.values()))
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        if self._thread.positions is not self._fetched_until:
            await self._rewind()
            return
        assigned = self.assigned
        try:
            fetched = await self._fetch(timeout)
        except (OffsetOutOfRangeError, NoOffsetForPartitionError):
            await self._rewind()
            return
        if self.should_stop or not self.flow_active or self.assigned is not assigned:
            return
        self._fetched_until = self._thread.positions
        for chunk in self._split(fetched):
            partition, message = self._chunk_message(chunk)
            self._is_free.clear()
            yield partition, message
            if not message.refcount:  # Faust has dropped it, or it is done already
                self._is_free.set()

    def _split(self, fetched: Mapping[TP, Records]) -> Iterator[Chunk]:
        """First the records that are taken for their state alone, if there are any, then the others."""
        redone: dict[TopicPartition, Records] = {}
        new: dict[TopicPartition, Records] = {}
        for tp, records in fetched.items():
            partition = TopicPartition(*tp)
            lane = self.lanes.get(partition)
            until = lane.published_until if lane else 0
            if records[0].offset >= until:
                new[partition] = records
                continue
            n = bisect_left(records, until, key=lambda record: record.offset)
            redone[partition] = records[:n]
            if n < len(records):
                new[partition] = records[n:]
        yield from (chunk for chunk in (redone, new) if chunk)

    async def _fetch(self, timeout: float) -> Mapping[TP, Records]:
        active = set(self._get_active_partitions())  # Faust changes its own as soon as a rebalance begins
        if not active:
            await asyncio.sleep(0.01)  # Faust's own second of sleep would be felt at each start
            return {}
        return await self._getmany(active_partitions=active, timeout=timeout) or {}

    def resume_flow(self) -> None:
        """Fetch again, but not before the seek.

        Faust resumes twice, when the state is there and after the seek, and each time drops what is queued by then:
        what was fetched in between would be lost, or processed before it is known which of its outputs are out already.
        """
        self._is_free.set()  # chunks of before are dropped without a word
        if self._sought is self.assigned:
            super().resume_flow()

    @property
    def is_settled(self) -> bool:
        """No rebalance is under way: what was assigned, nothing perhaps, is read from where its state ends."""
        return self._sought is self.assigned or (self.assigned is not None and not self.lanes)

    async def perform_seek(self) -> None:
        """Go to where the state ends; to the beginning where there is none, which Faust leaves where it is."""
        assigned = self.assigned
        if assigned is None or self.recovered is not assigned:
            return  # another rebalance began: its own recovery and seek follow
        (table,) = self.app.tables.values()
        store: BulkStore = table.data
        consumer = self._thread._ensure_consumer()
        logs = await self._thread.call_thread(look_at, consumer, list(self.lanes), store.written_ms)
        if self.assigned is not assigned:
            return
        try:
            starts = {
                tp: start_of(tp, found, store.positions.get(tp.partition), store.topics.get(tp.partition))
                for tp, found in logs.items()
            }
        except WorkerError as error:
            self.options.on_failure(error)
            return
        for partition, start in starts.items():
            if start.lost:
                log.warning("readings_lost", partition=partition.partition, records=start.lost)
            if start.published_until:
                redone = start.published_until - start.offset
                log.warning("state_is_made_again", partition=partition.partition, records=redone)
            if start.offset > store.positions.get(partition.partition, -1):
                store.positions[partition.partition] = start.offset
            self.lanes[partition].published_until = start.published_until
        positions = {TP(*partition): start.offset for partition, start in starts.items()}
        await self._thread.call_thread(self._thread.stand_at, positions)
        if self.assigned is assigned:
            self._sought, self._fetched_until = assigned, positions

    async def _rewind(self) -> None:
        """Fetch again from where the state ends; not while a rebalance is under way, which ends with a seek."""
        if not self.flow_active:
            return
        assigned = self.assigned
        try:
            await self.perform_seek()
        except Exception as error:
            if self.assigned is assigned:
                self.options.on_failure(error)  # no other rebalance is on its way to seek for us
            log.debug("seek_failed", error=type(error).__name__)

    def _chunk_message(self, chunk: Chunk) -> tuple[TP, ConsumerMessage]:
        """A chunk as Faust's message. Faust needs one partition and offset for it; nothing is read from them.

        The offset counts chunks, since Faust drops what is older than what it has seen: after a seek back, all.
        """
        self._chunks += 1
        last = next(iter(chunk.values()))[-1]
        partition = TP(last.topic, last.partition)
        return partition, ConsumerMessage(
            topic=last.topic,
            partition=last.partition,
            offset=self._chunks - 1,
            timestamp=last.timestamp / 1000,
            timestamp_type=last.timestamp_type,
            headers=(),
            key=b"",
            value=chunk,
            checksum=None,
            tp=partition,
            generation_id=self.app.consumer_generation_id,
        )

    @contextmanager
    def processing(self, message: ConsumerMessage) -> Iterator[None]:
        """Around what the agent does with a chunk: a rebalance waits for it, and so does the next fetch.

        Raises: WorkerError if the one before has not come: Faust may drop what is queued in a rebalance alone.
        """
        if message.offset != self._taken:
            raise WorkerError(f"{message.offset - self._taken} chunks of readings were fetched and not processed")
        self._taken += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._is_idle.set()
            if self._taken == self._chunks:
                self._is_free.set()

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Nothing: lanes commit."""
        return False

    async def commit_offsets(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit what a lane made durable without a transaction."""
        await self._commit({TP(*partition): offset for partition, offset in offsets.items()})

    async def wait_empty(self) -> None:
        """Wait until the chunks under way are with their lanes, and the lanes are empty.

        Raises: WorkerError in a rebalance. A worker that stops goes on: Faust would leave it half stopped.
        """
        try:
            await self._drain(DRAIN_TIMEOUT_S)
        except TimeoutError:
            if not self.app.should_stop:
                late = f"Kafka did not take what a rebalance waited for within {DRAIN_TIMEOUT_S:.0f} s"
                raise WorkerError(late) from None
            log.warning("stopped_with_work_under_way", detail="it is read again at the next start")

    async def _drain(self, within_s: float) -> None:
        async with asyncio.timeout(within_s):
            await self._is_idle.wait()
            await asyncio.gather(*(lane.drain() for lane in self.lanes.values()))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish the chunks under way, then close the lanes of what is lost."""
        self.assigned = None
        self.stop_flow()
        self.options.on_revoked()
        await super().on_partitions_revoked(revoked)
        await self._close_lanes({TopicPartition(*tp) for tp in revoked})

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Fence the previous owners first: only then is the changelog complete and the committed offset final."""
        self.assigned = object()
        self._taken = self._chunks
        self.stop_flow()  # if nothing was revoked
        self.done_until = self._fetched_until = {}
        inputs = {TopicPartition(*tp) for tp in assigned if not self._is_changelog_tp(tp)}
        new = [partition for partition in inputs if partition not in self.lanes]
        try:
            for partition in new:
                self.lanes[partition] = self._new_lane(partition)
            await asyncio.gather(*(self.lanes[partition].open() for partition in new))
        except Exception as error:
            self.options.on_failure(error)
            return
        self.options.on_assigned(frozenset(partition.partition for partition in inputs))
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_stop(self) -> None:
        """Finish what the lanes were given last, close them, leave the group."""
        with suppress(TimeoutError):
            await self._drain(CLOSE_WITHIN_S)
        await self._close_lanes(set(self.lanes))
        await super().on_stop()

    def _new_lane(self, partition: TopicPartition) -> Lane:
        (changelog_topic,) = self.app.tables.changelog_topics
        return Lane(
            partition,
            group_id=self.app.conf.id,
            changelog_topic=changelog_topic,
            producer_config=self.options.config,
            exactly_once=self.options.exactly_once,
            commit=self.commit_offsets,
            on_failure=self.options.on_failure,
        )

    async def _close_lanes(self, partitions: set[TopicPartition]) -> None:
        lost = [self.lanes.pop(partition) for partition in partitions if partition in self.lanes]
        await asyncio.gather(*(lane.close() for lane in lost))


class ChunkTransport(driver.Transport):  # type: ignore[misc]
    """The transport to set as `app.transport`; the app carries its `ChunkOptions` as `app.chunk_options`."""

    Consumer: ClassVar[type[ChunkConsumer]] = ChunkConsumer
