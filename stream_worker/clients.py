"""kafka-python clients for the tools: topics, replay, simulate, watch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError, TopicAuthorizationFailedError
from kafka.net.compat import KafkaNetClient

from stream_worker.connection import BrokerUnreachableError, check_broker, kafka_python_config
from stream_worker.settings import Settings

# Requests as Kafka 2.3 knew them: Kafka 4 takes these (it dropped what is older than 2.1), and the embedded broker
# knows no newer ones; asked for its versions, it gives an answer that kafka-python cannot read.
PROTOCOL: Final = (2, 3)
BOOTSTRAP_TIMEOUT_MS: Final = 10_000  # the port has answered by then, so only a broken or foreign server takes longer
TOPIC_APPEARS_WITHIN_S: Final = 5.0  # brokers learn of a new one one by one


class KafkaFaultError(Exception):
    """Kafka refused or failed a request; the message is one line for the user."""


def missing_topic(settings: Settings, topic: str) -> KafkaFaultError:
    """The error for a topic that is not there, with the command that makes it."""
    command = f"vitalcast topics create --bootstrap-servers {settings.bootstrap_servers}"
    return KafkaFaultError(f"topic {topic} does not exist; make it with: {command}")


def partitions_of(client: KafkaConsumer, settings: Settings, topic: str) -> list[int]:
    """The partitions of a topic that may just have been made.

    Raises: KafkaFaultError if it does not appear.
    """
    end = time.monotonic() + TOPIC_APPEARS_WITHIN_S
    while time.monotonic() < end:
        if partitions := client.partitions_for_topic(topic):
            return sorted(partitions)
        time.sleep(0.1)
    raise missing_topic(settings, topic)


@contextmanager
def one_line_errors(settings: Settings) -> Iterator[None]:
    """Turn what kafka-python raises inside into one line for the user.

    Raises: KafkaFaultError instead of KafkaError.
    """
    try:
        yield
    except TopicAuthorizationFailedError as error:
        raise KafkaFaultError(f"Kafka at {settings.bootstrap_servers} denies access to the topics") from error
    except KafkaError as error:
        raise KafkaFaultError(f"Kafka at {settings.bootstrap_servers}: {first_line(error)}") from error


def first_line(error: KafkaError) -> str:
    """What an error of kafka-python says, in one line that names its kind."""
    text = str(error).partition("\n")[0]
    return text if type(error).__name__ in text else f"{type(error).__name__} {text}".rstrip()


def _net_client(**config: Any) -> KafkaNetClient:
    """kafka-python's own. It does not pass on that asking for a topic is not to make it (docs/upstream.md)."""
    client = KafkaNetClient(**config)
    client.cluster.config["allow_auto_create_topics"] = False
    return client


def _connected(client: type[Any], settings: Settings, **config: Any) -> Any:
    """A connected client.

    Raises: BrokerUnreachableError.
    """
    check_broker(settings)
    try:
        return client(
            **kafka_python_config(settings),
            client_id="vitalcast-tools",
            api_version=PROTOCOL,
            bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
            kafka_client=_net_client,
            **config,
        )
    except KafkaError as error:
        what = "no usable Kafka broker (TLS, SASL or another protocol?)"
        raise BrokerUnreachableError(f"{settings.bootstrap_servers}: {what}: {first_line(error)}") from error


def admin(settings: Settings) -> KafkaAdminClient:
    """An admin client. Raises: BrokerUnreachableError."""
    return _connected(KafkaAdminClient, settings)


@contextmanager
def asking(settings: Settings) -> Iterator[KafkaAdminClient]:
    """An admin client for a few requests. Raises: BrokerUnreachableError, KafkaFaultError."""
    with closing(admin(settings)) as client, one_line_errors(settings):
        yield client


def consumer(settings: Settings, **config: Any) -> KafkaConsumer:
    """A consumer that sees only committed records. Raises: BrokerUnreachableError."""
    return _connected(KafkaConsumer, settings, isolation_level="read_committed", **config)


def producer(settings: Settings, **config: Any) -> KafkaProducer:
    """A producer of large compressed batches in order, acknowledged by all replicas. Raises: BrokerUnreachableError.

    Its own metrics are off: nobody reads them, and they cost a fifth of the throughput. Compression pays here even
    without a network, since kafka-python computes the checksum of what is left in plain Python.
    """
    batches = {"compression_type": "zstd", "batch_size": 256 * 1024, "linger_ms": 20}
    return _connected(KafkaProducer, settings, acks="all", metrics_enabled=False, **batches, **config)


def is_embedded(client: KafkaAdminClient) -> bool:
    """Whether the broker is the in-memory one of `vitalcast demo` (librdkafka's mock cluster)."""
    return str(client.describe_cluster().get("cluster_id")).startswith("mockCluster")
