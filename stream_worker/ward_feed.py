"""Keeps a ward current from Kafka: a consumer of readings, forecasts and alerts like any other, without a group."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec
from kafka.structs import TopicPartition

from schemas.alert import Heartbeat
from schemas.codec import InvalidReading, decode, decode_output
from schemas.reading import Reading, StayEvent
from stream_worker import clients
from stream_worker.settings import Settings
from stream_worker.times import to_time
from stream_worker.ward import Message, Record, Ward

# Enough for each bed's newest values when a view starts late; alerts are read from the beginning, to be exact.
RECENT_RECORDS: Final = 500
MAX_POLL_RECORDS: Final = 5000
# Nothing came for so long: the rest is no record, but a transaction's mark. A busy broker may take seconds.
QUIET_S: Final = 10.0
LOOK_EVERY_S: Final = 30.0  # for partitions that were added; asking costs the broker next to nothing


class TopicChangedError(clients.KafkaFaultError):
    """A topic was made anew, cut, or has other partitions: what was read of it does not hold, and more may come where
    nobody reads."""


def ward_times(settings: Settings) -> dict[str, timedelta]:
    """The times of a `Ward`, by the settings of its worker."""
    return {
        "stale_after": timedelta(seconds=settings.stale_after_s),
        "forget_after": timedelta(seconds=settings.evict_after_s),
        "heartbeat": timedelta(seconds=settings.heartbeat_s),
    }


class WardFeed:
    """Reads the three topics from their recent past on. `read` counts the records of each topic.

    `starts` has the offset of each partition from which on it reads.

    Raises at the start: BrokerUnreachableError, KafkaFaultError; TopicChangedError if `alerts_from` is of another one.
    """

    def __init__(
        self,
        settings: Settings,
        back: int = RECENT_RECORDS,
        *,
        alerts_from: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        """`back`: how many readings and forecasts of each partition to begin with, at most.

        `alerts_from`: where another feed of the same ward has read the alerts to; they are read from their beginning
        otherwise.
        """
        self._alerts_from = alerts_from or {}
        self._alerts_left: dict[TopicPartition, int] = {}  # where they ended at the start, and are not read to yet
        self._back = back
        self._heard = time.monotonic()
        self._look_at = self._heard + LOOK_EVERY_S
        self.read: Counter[str] = Counter()
        self._settings = settings
        # Offsets that retention removed meanwhile: go on with the oldest there is.
        self._consumer = clients.consumer(
            settings,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            metadata_max_age_ms=int(LOOK_EVERY_S * 1000),
        )
        try:
            with clients.one_line_errors(settings):
                self.starts: Mapping[TopicPartition, int] = self._assign()
        except clients.KafkaFaultError:
            self.close()
            raise
        self._next = dict(self.starts)

    def poll(self, ward: Ward, timeout_s: float) -> int:
        """Apply what has arrived, waiting at most `timeout_s` for it. Returns the number of records read.

        Raises: KafkaFaultError, TopicChangedError.
        """
        with clients.one_line_errors(self._settings):
            polled: dict[Any, list[Any]] = self._consumer.poll(int(timeout_s * 1000), max_records=MAX_POLL_RECORDS)
            self._check_topics(polled)
        if self._alerts_left:
            self._count_alerts_left(is_quiet=not polled)
        for partition, records in polled.items():
            self.read[partition.topic] += len(records)
            for record in records:
                take_in(ward, record, self._settings)
        return sum(map(len, polled.values()))

    def catch_up(self, ward: Ward, within_s: float) -> None:
        """Apply what is there already; returns when nothing more comes at once, or after `within_s`."""
        end = time.monotonic() + within_s
        while time.monotonic() < end and self.poll(ward, timeout_s=0.3):
            pass

    @property
    def has_read_alerts(self) -> bool:
        """Whether all alerts that there were at the start are applied: before, some that are over seem open."""
        return not self._alerts_left

    def alert_positions(self) -> dict[TopicPartition, int]:
        """Where the alerts are read to."""
        alerts = self._settings.alerts_topic
        return {place: self._consumer.position(place) for place in self.starts if place.topic == alerts}

    def _check_topics(self, polled: Mapping[TopicPartition, list[Any]]) -> None:
        """Raises: TopicChangedError."""
        for partition, records in polled.items():
            if records[0].offset < self._next[partition]:
                raise TopicChangedError(f"topic {partition.topic} was made anew, or has lost records")
            self._next[partition] = records[-1].offset + 1
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_EVERY_S
        for topic, read in Counter(place.topic for place in self.starts).items():
            if len(self._consumer.partitions_for_topic(topic)) not in (0, read):  # 0: it is being made anew
                raise TopicChangedError(f"topic {topic} has other partitions than before")

    def _count_alerts_left(self, *, is_quiet: bool) -> None:
        left = self._alerts_left
        self._alerts_left = {place: end for place, end in left.items() if self._consumer.position(place) < end}
        if not is_quiet:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > QUIET_S:
            self._alerts_left.clear()

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _assign(self) -> dict[TopicPartition, int]:
        settings = self._settings
        topics = (settings.readings_topic, settings.forecasts_topic, settings.alerts_topic)
        found = {topic: clients.partitions_of(self._consumer, settings, topic) for topic in topics}
        partitions = [TopicPartition(topic, number) for topic in topics for number in found[topic]]
        self._consumer.assign(partitions)
        begin, end = self._consumer.beginning_offsets(partitions), self._consumer.end_offsets(partitions)
        starts = {}
        for partition in partitions:
            is_alerts = partition.topic == settings.alerts_topic
            start = begin[partition] if is_alerts else max(begin[partition], end[partition] - self._back)
            starts[partition] = self._alerts_from.get(partition, start)
            if not begin[partition] <= starts[partition] <= end[partition]:
                raise TopicChangedError(f"topic {partition.topic} was made anew, or has lost records")
            if is_alerts and starts[partition] < end[partition]:
                self._alerts_left[partition] = end[partition]
            self._consumer.seek(partition, starts[partition])
        return starts


def take_in(ward: Ward, record: Any, settings: Settings) -> None:
    """Apply one record of the three topics, as kafka-python has it, if it can be read and its time can be true."""
    is_reading = record.topic == settings.readings_topic
    now_ms = time.time_ns() // 1_000_000
    arrived_ms = min(record.timestamp, now_ms)  # a sender may have stamped it with a time to come
    decoded = _decode(record.value, settings.max_message_bytes, is_reading=is_reading)
    if decoded is None or _is_of_the_future(decoded, arrived_ms / 1000 + settings.max_future_s):
        return
    if isinstance(decoded, Heartbeat):  # a worker whose clock is ahead is not alive for longer
        decoded = msgspec.structs.replace(decoded, produced_at=min(decoded.produced_at, to_time(now_ms * 1000)))
    ward.apply(decoded, Message(record.topic, record.partition, record.offset, arrived_ms, record.value))


def _decode(value: bytes | None, max_bytes: int, *, is_reading: bool) -> Record | None:
    """The record, or None: what does not decode is the worker's to report, not the viewer's."""
    try:
        if is_reading:
            return decode(value, max_bytes)
        return None if value is None else decode_output(value)
    except (InvalidReading, msgspec.DecodeError):
        return None


def _is_of_the_future(record: Record, latest_s: float) -> bool:
    """Whether the worker rejects it for its time: it would make all others look old, or a stay look over for good."""
    match record:
        case Reading():
            return record.observed_at.timestamp() > latest_s
        case StayEvent():
            return record.at.timestamp() > latest_s
    return False
