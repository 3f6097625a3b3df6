"""Writing readings: one producer, each stay in one partition and in order, failures counted, held back if need be."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import closing, suppress
from typing import Any, Final

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2
from kafka.structs import TopicPartition

from stream_worker import clients
from stream_worker.settings import Settings

UNCHECKED_RECORDS: Final = 20_000  # deliveries are looked at this often: bounds the memory that waiting for them takes
LAG_RECORDS: Final = 4000
LAG_POLL_S: Final = 0.05


class Sender:
    """Sends encoded records to the readings topic, a stay to the partition that Java's default partitioner gives it."""

    def __init__(self, settings: Settings, backpressure: LagLimit | None) -> None:
        self._settings = settings
        self._topic = settings.readings_topic
        self._producer = clients.producer(settings)
        self._backpressure = backpressure
        self._partitions = self._find_partitions()
        self._partition_of: dict[str, int] = {}
        self._unchecked: list[Any] = []
        self._per_partition = dict.fromkeys(self._partitions, 0)
        self.sent = 0
        self.failed = 0
        self.fault = ""  # why the first one failed
        self._wait_for_room()

    def send(self, stay_id: str, record: bytes) -> None:
        """Queue one record. Blocks while the broker, or the backpressure, wants it to."""
        partition = self._partition_of.get(stay_id)
        if partition is None:
            place = partition_index(stay_id, len(self._partitions))
            partition = self._partition_of[stay_id] = self._partitions[place]
        try:
            future = self._producer.send(self._topic, record, stay_id.encode(), partition=partition)
        except KafkaError as error:
            self._fail(error)
            return
        self._unchecked.append(future)
        self._per_partition[partition] += 1
        if len(self._unchecked) >= UNCHECKED_RECORDS:
            self._check(keep=UNCHECKED_RECORDS // 2)
        self._wait_for_room()

    def flush(self) -> None:
        """Return once every record sent so far is delivered or counted as failed."""
        with suppress(KafkaError):  # each record that it could not deliver says so itself
            self._producer.flush()
        self._check(keep=0)

    def close(self) -> None:
        """Flush and disconnect."""
        self.flush()
        self._producer.close()

    def _check(self, keep: int) -> None:
        """Count the deliveries of all but the newest `keep` records, in the order sent, waiting for them."""
        until = len(self._unchecked) - keep
        for future in self._unchecked[:until]:
            try:
                future.get()
                self.sent += 1
            except KafkaError as error:
                self._fail(error)
        del self._unchecked[:until]

    def _fail(self, error: KafkaError) -> None:
        self.failed += 1
        self.fault = self.fault or clients.first_line(error)

    @property
    def failures(self) -> str:
        """How many failed and why, to follow what is told of the others; nothing if none did."""
        return f", failed {self.failed} ({self.fault})" if self.failed else ""

    def _wait_for_room(self) -> None:
        if self._backpressure is not None:
            self._backpressure.wait_for_room(self._per_partition)

    def _find_partitions(self) -> list[int]:
        """The topic's partitions. Raises: KafkaFaultError if it does not exist and does not appear by itself."""
        with closing(clients.consumer(self._settings)) as consumer, clients.one_line_errors(self._settings):
            return clients.partitions_of(consumer, self._settings, self._topic)


def partition_index(stay_id: str, count: int) -> int:
    """Which of `count` partitions Java's default partitioner gives a stay."""
    positive: int = murmur2(stay_id.encode()) & 0x7FFFFFFF
    return positive % count


class LagLimit:
    """Backpressure on the worker's lag: waits while a partition has more than LAG_RECORDS that its group has not read.

    Keeps the embedded broker from dropping records the worker has not seen: it holds about 5 MB for each partition.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._admin: KafkaAdminClient = clients.admin(settings)
        self._group = settings.app_id
        self._topic = settings.readings_topic
        self._stop = stop
        self._start: dict[int, int] = {}  # what the worker had read before, by partition
        self._read: dict[int, int] = {}  # and has read since

    def wait_for_room(self, sent: dict[int, int]) -> None:
        """Return once no partition is too far ahead of the worker, or `stop` is set."""
        self._start = self._start or self._committed(sent)
        while not self._stop.is_set() and self._is_behind(sent):
            committed = self._committed(sent)
            self._read = {partition: offset - self._start[partition] for partition, offset in committed.items()}
            if self._is_behind(sent):
                self._stop.wait(LAG_POLL_S)

    def _is_behind(self, sent: dict[int, int]) -> bool:
        return any(count - self._read.get(partition, 0) > LAG_RECORDS for partition, count in sent.items())

    def _committed(self, partitions: Iterable[int]) -> dict[int, int]:
        wanted = [TopicPartition(self._topic, partition) for partition in partitions]
        offsets = self._admin.list_group_offsets({self._group: wanted})[self._group]
        return {tp.partition: max(0, found.offset) for tp, found in offsets.items()}


def backpressure_of(settings: Settings, stop: threading.Event) -> LagLimit | None:
    """What holds a sender back: the worker's lag on the embedded broker, nothing on a real one, which keeps records."""
    with clients.asking(settings) as client:
        return LagLimit(settings, stop) if clients.is_embedded(client) else None
