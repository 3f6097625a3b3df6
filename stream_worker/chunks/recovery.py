"""Recovery of a table from its changelog in bulk: read each assigned partition to its end, every time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import aiokafka
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from faust.stores.memory import Store
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery

from stream_worker.chunks.options import ISOLATION_LEVEL, MAX_FETCH_BYTES, ChunkOptions, WorkerError


class BulkStore(Store):  # type: ignore[misc]  # Faust is untyped
    """Where a table's state lives. The application gives it a memory of its own choice."""

    written_ms: dict[int, int]  # when the newest state of a partition was written; none where there is none

    @property
    def positions(self) -> dict[int, int]:
        """The input offset by partition before which all records are in the state; none where there is none."""
        raise NotImplementedError

    @property
    def topics(self) -> dict[int, str]:
        """The input topic by partition that the state was made from, where that is known."""
        raise NotImplementedError

    def forget_all(self) -> None:
        """Drop the state of every partition."""
        raise NotImplementedError

    def load(self, partition: int, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Apply changelog records of `partition`, in order; a value of None removes its key."""
        raise NotImplementedError

    def on_loaded(self, partitions: frozenset[int], seconds: float) -> None:
        """All partitions are complete, and were read in so many seconds."""


class BulkRecovery(Recovery):  # type: ignore[misc]
    """Stock recovery reads record by record and waits for a record at the end offset minus one, which under
    transactions is a marker that never arrives. Reading by position needs neither.

    State is read again on every assignment, kept partitions too: a worker that was suspended past its session has
    memory that is ahead of the log or behind it, and cannot know which.
    """

    def need_recovery(self) -> bool:
        """Never record by record."""
        return False

    async def _build_highwaters(self, consumer: Any, tps: set[Any], destination: Any, title: str) -> None:
        destination.clear()

    async def _seek_offsets(self, consumer: Any, tps: set[Any], offsets: Any, title: str) -> None:
        """Nothing: the changelog is not read through the group's consumer."""

    async def _build_offsets(self, consumer: Any, tps: set[Any], destination: Any, title: str) -> None:
        if title != "active":
            return
        within_s = 0.9 * self.app.conf.broker_request_timeout  # Faust waits for so long, and goes on with what there is
        try:
            async with asyncio.timeout(within_s):
                await self._load([TopicPartition(*tp) for tp in tps])
        except TimeoutError:
            self.app.chunk_options.on_failure(WorkerError(f"the state was not read within {within_s:.0f} s"))
        except KafkaError as error:
            self.app.chunk_options.on_failure(WorkerError(f"Kafka refused the state: {type(error).__name__}"))
        except Exception as error:
            self.app.chunk_options.on_failure(error)

    async def _load(self, partitions: list[TopicPartition]) -> None:
        started, assigned = time.monotonic(), self.app.consumer.assigned
        stores: dict[str, BulkStore] = {topic: table.data for topic, table in self.tables._changelogs.items()}
        for store in stores.values():
            store.forget_all()
            store.written_ms = {}
        if partitions:
            await read_to_end(self.app.chunk_options, partitions, stores)
        if self.app.consumer.assigned is not assigned:
            return  # another rebalance began meanwhile: its own recovery follows
        for topic, store in stores.items():
            loaded = frozenset(partition.partition for partition in partitions if partition.topic == topic)
            store.on_loaded(loaded, time.monotonic() - started)
        self.app.consumer.recovered = assigned


async def read_to_end(options: ChunkOptions, partitions: list[TopicPartition], stores: dict[str, BulkStore]) -> None:
    """Load `partitions` from their beginning to where they end now."""
    consumer = aiokafka.AIOKafkaConsumer(
        **options.config,
        enable_auto_commit=False,
        auto_offset_reset="none",  # a changelog that is cut off while it is read is not one that was read
        isolation_level=ISOLATION_LEVEL,
        max_partition_fetch_bytes=MAX_FETCH_BYTES,
    )
    await consumer.start()
    try:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        behind = {partition for partition in partitions if ends[partition] > 0}
        while behind:
            fetched = await consumer.getmany(*behind, timeout_ms=200)
            for partition, records in fetched.items():
                store = stores[partition.topic]
                store.load(partition.partition, ((r.key, r.value) for r in records))
                store.written_ms[partition.partition] = records[-1].timestamp
            behind = {p for p in behind if await consumer.position(p) < ends[p]}
    finally:
        await consumer.stop()


class ChunkTableManager(TableManager):  # type: ignore[misc]
    """Faust's table manager with bulk recovery."""

    _recovery: BulkRecovery | None

    @property
    def recovery(self) -> BulkRecovery:
        """The recovery service, made when first asked for."""
        if self._recovery is None:
            self._recovery = BulkRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
