"""What tests do with Kafka: make topics, send, read back what is committed. By librdkafka, not our own clients."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.waiting import eventually


@dataclass(frozen=True)
class Message:
    """One committed record."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int

    def json(self) -> dict[str, Any]:
        """The value as the JSON object that it must be; NaN and Infinity are refused."""
        body = json.loads(self.value or b"", parse_constant=_refuse)
        if not isinstance(body, dict):
            raise TypeError(f"{self.topic}: not a JSON object")
        return body


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


@dataclass(frozen=True)
class Topics:
    """The topics of one worker, and the settings that make it use them."""

    app_id: str
    readings: str
    forecasts: str
    alerts: str
    dead_letters: str

    @classmethod
    def default(cls) -> Self:
        """The names that a worker uses without settings."""
        return cls("vitalcast", "vitals.readings", "vitals.forecasts", "vitals.alerts", "vitals.dead-letters")

    @classmethod
    def unique(cls) -> Self:
        """Names that no other test uses, so that tests share a broker without seeing each other."""
        tag = f"t{uuid.uuid4().hex[:8]}"
        return cls(tag, f"{tag}.readings", f"{tag}.forecasts", f"{tag}.alerts", f"{tag}.dead-letters")

    @property
    def outputs(self) -> tuple[str, str, str]:
        """What the worker writes for others."""
        return self.forecasts, self.alerts, self.dead_letters

    @property
    def changelog(self) -> str:
        """Where the worker keeps its state."""
        return f"{self.app_id}-stays-changelog"

    @property
    def settings(self) -> Mapping[str, str]:
        """The worker's settings by name."""
        return {
            "app_id": self.app_id,
            "readings_topic": self.readings,
            "forecasts_topic": self.forecasts,
            "alerts_topic": self.alerts,
            "dead_letters_topic": self.dead_letters,
        }

    def create(self, servers: str, partitions: int = 4) -> Self:
        """Make all five on the broker."""
        create_topics(servers, self.readings, *self.outputs, partitions=partitions)
        create_topics(servers, self.changelog, partitions=partitions, config={"cleanup.policy": "compact"})
        return self


def create_topics(servers: str, *names: str, partitions: int = 4, config: Mapping[str, str] | None = None) -> None:
    """Make topics, and wait until they are seen; raises KafkaException if one cannot be made."""
    admin = AdminClient({"bootstrap.servers": servers})
    topics = [NewTopic(name, partitions, 1, config=dict(config or {})) for name in names]
    for made in admin.create_topics(topics).values():
        made.result(30)
    # The controller has them; the broker learns of them a moment later, and a worker is quick to look.
    eventually(lambda: set(names) <= set(admin.list_topics(timeout=30).topics), within_s=60)


def produce(
    servers: str, topic: str, records: Iterable[tuple[str | bytes, Mapping[str, Any] | bytes]], **more: Any
) -> list[tuple[int, int]]:
    """Send (key, value) records, keys to partitions by murmur2; the (partition, offset) of each, in the order sent.

    more : librdkafka's settings.
    """
    # Without a wait for more the first record is fast; a batch still forms while one is under way. Idempotent: else a
    # broker that comes back can get retried batches in another order, and a stay's readings would be late.
    config = {"partitioner": "murmur2_random", "linger.ms": 1, "enable.idempotence": True, **more}
    producer = Producer({"bootstrap.servers": servers, **config})
    places: dict[int, tuple[int, int]] = {}
    errors: list[KafkaError] = []

    def on_delivery(index: int) -> Callable[[KafkaError | None, Any], None]:
        def note(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                errors.append(error)
            else:
                places[index] = (message.partition(), message.offset())

        return note

    for index, (key, value) in enumerate(records):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        while True:
            try:
                producer.produce(topic, key=key, value=body, on_delivery=on_delivery(index))
            except BufferError:
                producer.poll(0.1)
            else:
                break
        producer.poll(0)
    left = producer.flush(60)
    if errors or left:
        raise RuntimeError(f"{len(errors) + left} records were not sent: {errors[:1]}")
    return [places[index] for index in range(len(places))]


def read_committed(
    servers: str,
    *topics: str,
    until: Callable[[list[Message]], bool] | None = None,
    timeout_s: float = 60,
) -> list[Message]:
    """All committed messages of `topics`, from their beginning to their end; with `until`, on until it holds.

    Raises: TimeoutError if that takes longer than `timeout_s`.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"reader-{uuid.uuid4().hex}",  # librdkafka wants one; nothing is committed to it
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        unread = set(_partitions(consumer, topics))
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in unread])
        messages: list[Message] = []
        deadline = time.monotonic() + timeout_s
        while not until(messages) if until else unread:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{timeout_s:.0f} s for {', '.join(topics)}: {len(messages)} messages so far")
            for record in consumer.consume(10_000, 0.2):
                place = record.topic(), record.partition()
                if record.error() is None:
                    timestamp_ms = record.timestamp()[1]
                    messages.append(Message(*place, record.offset(), record.key(), record.value(), timestamp_ms))
                elif record.error().code() == KafkaError._PARTITION_EOF:
                    unread.discard(place)
        return messages
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topics: Iterable[str]) -> Iterator[tuple[str, int]]:
    for topic in topics:
        found = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        if not found:
            raise LookupError(f"no topic {topic}")
        for partition in found:
            yield topic, partition
