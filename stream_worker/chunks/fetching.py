"""How the records of a chunk are fetched: some of every partition that has any, most of the one furthest behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiokafka
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream_worker.chunks.options import ISOLATION_LEVEL, MAX_FETCH_BYTES, ChunkOptions, WorkerError

REBALANCE_TIMEOUT_MS: Final = 60_000
MAX_HEARTBEAT_MS: Final = 3_000  # a heartbeat's answer tells of a rebalance, for which the others wait
# aiokafka leaves the group for good when nobody polls for so long: a standby without partitions has nothing to poll,
# and a large recovery takes its time. Lanes and timeouts notice what is stuck.
MAX_POLL_INTERVAL_MS: Final = 86_400_000
# What a chunk waits for the newest records: longer than one request to a broker nearby takes.
NEWER_WITHIN_S: Final = 0.005
# So many records that wait are a backlog: the next chunk does not wait for the outputs of the one before.
BEHIND_RECORDS: Final = 1024
# Partitions that were added to a topic are noticed after so long; Kafka's own default is 5 min.
METADATA_MAX_AGE_MS: Final = 10_000

Records = Sequence[aiokafka.ConsumerRecord]


class FetchThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust is untyped
    """The thread in which Faust's consumer lives: some records of every partition at once, and where it stands."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._reached: dict[TP, int] = {}  # what was fetched last; after a rebalance only a guess at what is waiting
        # Where the last fetch, or a seek after it, has come to; transactions' markers included.
        self.positions: Mapping[TP, int] = {}
        self.is_behind = False  # the last fetch has left BEHIND_RECORDS or more
        super().__init__(*args, **kwargs)

    async def on_start(self) -> None:
        """Connect. Without a broker the process ends here: Faust would say it in pages, and not why."""
        try:
            await super().on_start()
        except KafkaError as error:
            options: ChunkOptions = self.app.chunk_options
            servers = options.config["bootstrap_servers"]
            failure = WorkerError(f"cannot connect to Kafka at {servers}: {type(error).__name__}")
            options.on_failure(failure)
            raise failure from error

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust would call a changelog stuck, every 7 s, that this consumer never reads (docs/upstream.md)."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        options: ChunkOptions = self.app.chunk_options
        self._assignor = self.app.assignor
        session_timeout_ms = int(options.session_timeout_s * 1000)
        return aiokafka.AIOKafkaConsumer(
            **options.config,
            client_id=self.app.conf.id,
            group_id=self.app.conf.id,
            group_instance_id=options.instance_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",  # perform_seek knows better
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            isolation_level=ISOLATION_LEVEL,
            max_partition_fetch_bytes=MAX_FETCH_BYTES,
            session_timeout_ms=session_timeout_ms,
            heartbeat_interval_ms=min(session_timeout_ms // 5, MAX_HEARTBEAT_MS),
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            max_poll_records=options.chunk_records,
        )

    async def _fetch_records(
        self, consumer: aiokafka.AIOKafkaConsumer, active_partitions: set[TP], timeout: float, max_records: int
    ) -> Mapping[TP, Records]:
        """Some records of every partition that has any, and what has come since they were fetched.

        Waits for long only if there are none.

        Stock aiokafka fills a fetch from one partition before it looks at the next, so that under load each chunk
        would hold one partition only, and few stays with many readings each.
        """
        fetch = super()._fetch_records
        waiting = self._waiting(consumer, active_partitions)
        fetched: dict[TP, Records] = {}
        for partition, share in fetch_shares(waiting, max_records).items():
            fetched.update(await fetch(consumer, {partition}, timeout=0, max_records=share))
        missing = max_records - sum(map(len, fetched.values()))
        if not fetched:
            share = max(1, max_records // len(active_partitions))
            fetched = await fetch(consumer, active_partitions, timeout=timeout, max_records=share)
        elif missing > 0:
            # These were here since the chunk before; what has come since is one request away.
            newer = await fetch(consumer, active_partitions, timeout=NEWER_WITHIN_S, max_records=missing)
            for partition, records in newer.items():
                fetched[partition] = [*fetched.get(partition, ()), *records]
        self._reached.update({partition: records[-1].offset + 1 for partition, records in fetched.items()})
        self.positions = positions_of(consumer)
        self.is_behind = sum(self._waiting(consumer, active_partitions).values()) >= BEHIND_RECORDS
        return fetched

    def stand_at(self, positions: Mapping[TP, int]) -> None:
        """Read on from `positions`. Raises: IllegalStateError if a partition is no longer assigned."""
        for partition, offset in positions.items():
            self._ensure_consumer().seek(TopicPartition(*partition), offset)
        self.positions = positions

    def highwater(self, tp: TP) -> int | None:
        """Where what can be read of the partition ends, as far as the broker has told."""
        return readable_until(self._ensure_consumer(), tp)

    def _waiting(self, consumer: aiokafka.AIOKafkaConsumer, partitions: set[TP]) -> dict[TP, int]:
        """How many records of each partition are to be fetched, as far as the broker has told."""
        ours = consumer.assignment()  # which may have changed by now
        ends = {tp: readable_until(consumer, tp) or 0 if tp in ours else 0 for tp in partitions}
        return {tp: max(0, end - self._reached.get(tp, 0)) for tp, end in ends.items()}


def readable_until(consumer: aiokafka.AIOKafkaConsumer, tp: TP) -> int | None:
    """The last stable offset: what is behind a transaction that is still open cannot be read."""
    stable: int | None = consumer.last_stable_offset(tp)
    if stable is None or stable < 0:  # not told yet, or open transactions are read too
        end: int | None = consumer.highwater(tp)
        return end
    return stable


def positions_of(consumer: aiokafka.AIOKafkaConsumer) -> dict[TP, int]:
    """Where the consumer is in each partition. Its own `position` would wait for those that it does not know."""
    assignment = consumer._subscription.subscription.assignment
    states = {tp: assignment.state_value(tp) for tp in assignment.tps}
    return {tp: state.position for tp, state in states.items() if state.has_valid_position}


def fetch_shares(waiting: Mapping[TP, int], max_records: int) -> dict[TP, int]:
    """How many records of each partition a fetch takes, by how many are waiting in each.

    A quarter is divided equally, so that nobody waits for another's backlog; the rest by what is waiting, so that
    backlogs end together: a replay's chunks then hold many stays until its end.
    """
    equal, total = max_records // 4 // len(waiting), sum(waiting.values())
    rest = max_records - equal * len(waiting)
    return {
        partition: max(1, equal + (rest * records // total if total else rest // len(waiting)))
        for partition, records in waiting.items()
    }
