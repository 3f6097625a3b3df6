"""One lane for each input partition: the only writer of its outputs and state, in the order of its input."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiokafka
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.structs import OffsetAndMetadata

from stream_worker.chunks.options import WorkerError

Record = tuple[bytes | None, bytes | None]  # key, value; a value of None is a tombstone

# So much work may wait for its commit before the agent is held back: more makes transactions larger and cheaper, less
# keeps less in memory. A full chunk is four pieces of work.
MAX_WAITING: Final = 32
STALLED_AFTER_S: Final = 5.0  # a transaction takes 0.1 s; a broker that is slow or restarts, seconds
# Below the broker's default limit of a batch (1,048,588 bytes) even if nothing compresses.
MAX_BATCH_BYTES: Final = 900_000
TRANSACTION_TIMEOUT_MS: Final = 60_000
# What closing waits for the transaction under way, which takes 0.1 s where the broker is well.
CLOSE_WITHIN_S: Final = 5.0


@dataclass(slots=True)
class Work:
    """What one chunk leaves: records by output topic, changed state by key, the offset to go on from if it moved."""

    outputs: Mapping[str, Sequence[Record]]
    state: Mapping[bytes, bytes | None]
    next_offset: int | None
    on_durable: Callable[[], None] = field(default=lambda: None)


class Lane:
    """Makes work durable, several waiting chunks at a time, without ever waiting for more to come.

    Exactly once: one transaction for outputs, state and offset; opening the lane fences whoever owned the partition
    before. At least once: outputs, then state, then offset, each acknowledged before the next.
    """

    def __init__(
        self,
        partition: TopicPartition,
        *,
        group_id: str,
        changelog_topic: str,
        producer_config: Mapping[str, Any],
        exactly_once: bool,
        commit: Callable[[Mapping[TopicPartition, int]], Awaitable[object]],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.partition = partition
        self._group_id = group_id
        self._changelog_topic = changelog_topic
        self._exactly_once = exactly_once
        self._commit = commit
        self._on_failure = on_failure
        # One epoch for each partition, not for each worker: aiokafka passes the broker no group generation, so only the
        # producer's epoch keeps a worker that lost the partition unnoticed from writing to it.
        identity = (
            {
                "transactional_id": f"{group_id}-{partition.topic}-{partition.partition}",
                "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS,
            }
            if exactly_once
            else {"enable_idempotence": True}
        )
        self._producer = aiokafka.AIOKafkaProducer(
            **producer_config,
            **identity,
            client_id=f"{group_id}-{partition.partition}",
            acks="all",
            linger_ms=0,
            max_batch_size=MAX_BATCH_BYTES,
            compression_type="zstd",
        )
        # Outputs of records before this offset are out: what they leave now is state alone. Known after the seek.
        self.published_until = sys.maxsize
        self._waiting: list[Work] = []
        self._wake = asyncio.Event()
        self._has_room = asyncio.Event()
        self._are_done = asyncio.Event()  # set once the work that waits is durable
        self._were_done = asyncio.Event()  # set once the work that was taken last is durable
        self._is_closing = False
        self._has_room.set()
        self._were_done.set()
        self._writer: asyncio.Task[None] | None = None
        self._writing_since: float | None = None

    @property
    def stalled_s(self) -> float:
        """For how long the transaction under way has been; 0 if there is none."""
        return 0.0 if self._writing_since is None else time.monotonic() - self._writing_since

    @property
    def is_stalled(self) -> bool:
        """Whether the transaction under way takes far longer than any should."""
        return self.stalled_s >= STALLED_AFTER_S

    async def open(self) -> None:
        """Start writing. Exactly once: returns when the previous owner is fenced and its transaction has ended.

        Raises: WorkerError.
        """
        try:
            await self._producer.start()
        except KafkaError as error:
            why = f"Kafka did not open it for writing: {type(error).__name__}"
            raise WorkerError(f"partition {self.partition.partition}: {why}") from error
        self._writer = asyncio.create_task(self._write_forever(), name=f"lane-{self.partition.partition}")

    def put(self, work: Work) -> None:
        """Queue `work`."""
        self._waiting.append(work)
        self._wake.set()
        if len(self._waiting) >= MAX_WAITING:
            self._has_room.clear()

    async def room(self) -> None:
        """Wait while too much is queued, and for a transaction that has stalled.

        It needs the one loop, as the agent does: slow chunks, such as those of stays that begin on a busy machine,
        would keep it from ending in time, and each start after it likewise.
        """
        await self._has_room.wait()
        if self.is_stalled:
            await self._were_done.wait()

    async def drain(self) -> None:
        """Wait until all that is queued by now is durable; what comes meanwhile, heartbeats above all, may wait."""
        await (self._are_done if self._waiting else self._were_done).wait()

    async def close(self) -> None:
        """Stop writing; what is queued is dropped, and the input is read again by whoever comes next.

        The transaction under way is brought to its end, so that what is committed is counted too.
        """
        if self._writer is not None:
            self._is_closing = True
            self._wake.set()
            await asyncio.wait([self._writer], timeout=CLOSE_WITHIN_S)
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
        self._has_room.set()
        for done in (self._are_done, self._were_done):  # of what is dropped too
            done.set()
        with contextlib.suppress(TimeoutError):  # without a broker it would wait for ever to send what is dropped
            await asyncio.wait_for(self._producer.stop(), CLOSE_WITHIN_S)

    async def _write_forever(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._is_closing:
                    return
                batch, self._waiting = self._waiting, []
                self._were_done, self._are_done = self._are_done, asyncio.Event()
                self._has_room.set()
                self._writing_since = time.monotonic()
                try:
                    # The broker gives a transaction no longer.
                    async with asyncio.timeout(TRANSACTION_TIMEOUT_MS / 1000):
                        await self._write(batch)
                except (TimeoutError, KafkaError) as error:
                    raise WorkerError(f"partition {self.partition.partition}: {_why(error)}") from error
                self._writing_since = None
                for work in batch:
                    work.on_durable()
                self._were_done.set()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not self._is_closing:  # else the partition is given up, and its state is read again by its next owner
                self._on_failure(error)

    async def _write(self, batch: list[Work]) -> None:
        outputs: dict[str, list[Record]] = {}
        state: dict[bytes, bytes | None] = {}
        for work in batch:
            for topic, records in work.outputs.items():
                outputs.setdefault(topic, []).extend(records)
            for key, value in work.state.items():
                state.pop(key, None)  # keep the order of the last write: a reader joins what belongs together
                state[key] = value
        next_offset = next((work.next_offset for work in reversed(batch) if work.next_offset is not None), None)
        if self._exactly_once:
            await self._producer.begin_transaction()
            acknowledgements = await self._send_outputs(outputs)
            acknowledgements += await self._send(self._changelog_topic, state.items())
            await asyncio.gather(*acknowledgements)
            if next_offset is not None:
                offset = {self.partition: OffsetAndMetadata(next_offset, "")}
                await self._producer.send_offsets_to_transaction(offset, self._group_id)
            await self._producer.commit_transaction()
        else:
            await asyncio.gather(*await self._send_outputs(outputs))
            await asyncio.gather(*await self._send(self._changelog_topic, state.items()))
            if next_offset is not None:
                await self._commit({self.partition: next_offset})

    async def _send_outputs(self, outputs: Mapping[str, list[Record]]) -> list[Awaitable[object]]:
        return [future for topic, records in outputs.items() for future in await self._send(topic, records)]

    async def _send(self, topic: str, records: Iterable[Record]) -> list[Awaitable[object]]:
        """Hand `records` over in whole batches, to the partition number the lane reads from."""
        futures: list[Awaitable[object]] = []
        builder = self._producer.create_batch()
        for key, value in records:
            if builder.append(key=key, value=value, timestamp=None) is None:
                futures.append(await self._send_batch(builder, topic))
                builder = self._producer.create_batch()
                builder.append(key=key, value=value, timestamp=None)  # the first is taken whatever its size
        if builder.record_count():
            futures.append(await self._send_batch(builder, topic))
        return futures

    async def _send_batch(self, builder: Any, topic: str) -> Awaitable[object]:
        builder.close()
        future: Awaitable[object] = await self._producer.send_batch(builder, topic, partition=self.partition.partition)
        return future


def _why(error: TimeoutError | KafkaError) -> str:
    """Why a transaction failed, for whoever finds the worker ended."""
    match error:
        case TimeoutError():
            return f"Kafka did not take its outputs within {TRANSACTION_TIMEOUT_MS / 1000:.0f} s"
        case ProducerFenced():
            return "another worker has taken it over; this one was away for too long, or both have one instance_id"
        case _:
            return f"Kafka refused its outputs: {type(error).__name__}"
