"""The topics Vitalcast needs: making them, and finding what is wrong with those that exist."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from kafka.admin import ConfigResource, KafkaAdminClient, NewTopic

from stream_worker import clients
from stream_worker.alerts.entries import TOLD_EVERY_S
from stream_worker.settings import Settings, SettingsError
from stream_worker.ward_words import plural

# Survives the loss of one broker without losing or refusing a record.
REPLICATION: Final = 3
MIN_INSYNC_REPLICAS: Final = 2
KNOWN_WITHIN_S: Final = 10.0  # to all brokers, of topics that were just made
# Kafka compacts only closed segments: ones smaller than its default of 1 GiB keep the state short to read at a start.
CHANGELOG_SEGMENT_BYTES: Final = 64 * 1024 * 1024
# An open alert is told once a day: who starts to listen finds it if it is kept for longer.
ALERTS_KEPT_S: Final = 2 * TOLD_EVERY_S
INSYNC: Final = "min.insync.replicas"
RETENTION: Final = "retention.ms"
TIMESTAMP_TYPE: Final = "message.timestamp.type"
ARRIVAL: Final = "LogAppendTime"

Cleanup = Literal["delete", "compact"]


class WantedTopic(NamedTuple):
    """A topic as Vitalcast needs it."""

    name: str
    cleanup: Cleanup
    arrival: bool = False  # its records' times should be the broker's, not their senders'
    kept_s: float = 0.0  # for so long at least its records should be kept


class FoundTopic(NamedTuple):
    """A topic as it is. `replicas` is that of its least replicated partition."""

    partitions: int
    replicas: int
    cleanup: str | None  # None: this user may not read how the topic is set
    arrival: bool
    insync: int = MIN_INSYNC_REPLICAS  # that must have a record before it counts as written
    kept_s: float = math.inf  # how long its records are kept


class TopicReport(NamedTuple):
    """One line of `vitalcast topics`: what was found (or made), and what is wrong with it, if anything."""

    name: str
    found: FoundTopic | None
    created: bool
    problem: str | None


class TopicsResult(NamedTuple):
    """What `create_topics` and `inspect_topics` found out."""

    reports: list[TopicReport]
    warnings: list[str]

    @property
    def problems(self) -> list[str]:
        """One line for each topic that keeps the worker from running."""
        return [f"topic {report.name}: {report.problem}" for report in self.reports if report.problem is not None]


def wanted_topics(settings: Settings) -> list[WantedTopic]:
    """The readings topic first, then what the worker writes, its state last."""
    return [
        # A stay is silent if nothing arrives: told by its sender's clock, one that is slow would always be.
        WantedTopic(settings.readings_topic, "delete", arrival=True),
        *(
            WantedTopic(name, "delete", kept_s=ALERTS_KEPT_S if name == settings.alerts_topic else 0.0)
            for name in settings.output_topics
        ),
        WantedTopic(settings.changelog_topic, "compact"),
    ]


def problem_of(topic: WantedTopic, found: FoundTopic | None, readings_partitions: int) -> str | None:
    """Why the worker cannot use the topic as it is, or None."""
    if found is None:
        return "does not exist, or this user may not describe it"
    if found.partitions < readings_partitions:
        has = f"has {found.partitions} partition{plural(found.partitions)}"
        return f"{has}, fewer than the {readings_partitions} of the readings"
    if found.cleanup is None:
        return "this user may not read its configuration, and needs DescribeConfigs"
    if found.cleanup != topic.cleanup:
        lost = "state would be lost" if topic.cleanup == "compact" else "records would be lost"
        return f"cleanup.policy is {found.cleanup}, must be {topic.cleanup}: {lost}"
    return None


def check_topics(settings: Settings) -> list[str]:
    """What is wrong with the topics, a line for each; empty if the worker can start.

    Raises: BrokerUnreachableError, KafkaFaultError.
    """
    return inspect_topics(settings).problems


def inspect_topics(settings: Settings) -> TopicsResult:
    """The topics as they are, nothing changed. Those of the embedded broker appear when used: none is missing there.

    Raises: BrokerUnreachableError, KafkaFaultError.
    """
    with clients.asking(settings) as client:
        if clients.is_embedded(client):
            return TopicsResult([], ["embedded broker: topics appear when first used"])
        return _inspect(client, settings, created=set())


def check_delivery(settings: Settings) -> None:
    """Return if the broker can deliver as it is set.

    Raises: SettingsError; BrokerUnreachableError, KafkaFaultError.
    """
    if settings.delivery != "exactly_once":
        return
    with clients.asking(settings) as client:
        if clients.is_embedded(client):
            lost = "the embedded broker loses offsets in transactions"
            raise SettingsError(f"delivery exactly_once: {lost}; it takes at_least_once")


def create_topics(settings: Settings, partitions: int) -> TopicsResult:
    """Make the topics that are missing; those that exist are reported, never changed.

    New ones get as many partitions as the readings topic has, or `partitions` where it is not there yet.
    Raises: BrokerUnreachableError, KafkaFaultError.
    """
    with clients.asking(settings) as client:
        if clients.is_embedded(client):
            return TopicsResult([], ["embedded broker: topics appear when first used, nothing to create"])
        brokers = len(client.describe_cluster()["brokers"])
        before = _find(client, wanted_topics(settings))
        if (readings := before.get(settings.readings_topic)) is not None:
            partitions = readings.partitions
        missing = [topic for topic in wanted_topics(settings) if topic.name not in before]
        if missing:
            client.create_topics([_new_topic(topic, partitions, brokers) for topic in missing])
            client.wait_for_topics([topic.name for topic in missing])
        created, end = {topic.name for topic in missing}, time.monotonic() + KNOWN_WITHIN_S
        result = _inspect(client, settings, created)
        while any(report.created and report.found is None for report in result.reports) and time.monotonic() < end:
            time.sleep(0.1)  # another broker answers than has been asked to make them
            result = _inspect(client, settings, created)
    if missing and brokers < REPLICATION:
        few = f"{brokers} broker{plural(brokers)}: topics are made with 1 replica"
        result.warnings.append(f"{few}, so losing a broker loses data; {REPLICATION} brokers are needed for production")
    return result


def _inspect(client: KafkaAdminClient, settings: Settings, created: set[str]) -> TopicsResult:
    wanted = wanted_topics(settings)
    found = _find(client, wanted)
    readings = found.get(settings.readings_topic)
    least = 0 if readings is None else readings.partitions
    reports = [
        TopicReport(
            topic.name, found.get(topic.name), topic.name in created, problem_of(topic, found.get(topic.name), least)
        )
        for topic in wanted
    ]
    warnings = [
        f"topic {topic.name}: {warning}"
        for topic in wanted
        if topic.name in found
        for warning in _warnings(topic, found[topic.name], least)
    ]
    thin = [
        f"topic {name}: {topic.replicas} replica{plural(topic.replicas)}, min.insync.replicas {topic.insync}; "
        f"{REPLICATION} and {MIN_INSYNC_REPLICAS} survive the loss of a broker"
        for name, topic in found.items()
        if topic.replicas < REPLICATION or topic.insync < MIN_INSYNC_REPLICAS
    ]
    if thin and len(client.describe_cluster()["brokers"]) >= REPLICATION:  # else there is no choice
        warnings += thin
    return TopicsResult(reports, warnings)


def _warnings(topic: WantedTopic, found: FoundTopic, readings_partitions: int) -> Iterator[str]:
    """What is not as it should be, though the worker runs."""
    if found.cleanup is None:
        return
    if topic.arrival and not found.arrival:
        yield f"{TIMESTAMP_TYPE} should be {ARRIVAL}, or a sender whose clock is slow counts as silent"
    if found.kept_s < topic.kept_s:
        yield (
            f"{RETENTION} should be {topic.kept_s * 1000:.0f} at least, or alerts that are open for longer "
            "are not known to whoever starts to listen"
        )
    if readings_partitions and found.partitions > readings_partitions:
        yield f"{found.partitions} partitions, of which only the first {readings_partitions} are used"


def _find(client: KafkaAdminClient, topics: Sequence[WantedTopic]) -> Mapping[str, FoundTopic]:
    """Those of `topics` that exist. Asks for all topics of the cluster, because asking for one can create it."""
    names = {topic.name for topic in topics}
    described = [topic for topic in client.describe_topics() if topic["name"] in names and topic["error_code"] == 0]
    if not described:
        return {}
    names_of_settings = ["cleanup.policy", TIMESTAMP_TYPE, INSYNC, RETENTION]
    resources = [ConfigResource("topic", topic["name"], names_of_settings) for topic in described]
    configs = client.describe_configs(resources, config_filter="all")["topic"]
    return {topic["name"]: _found(topic, configs.get(topic["name"])) for topic in described}


def _found(topic: Mapping[str, Any], config: Mapping[str, Any] | None) -> FoundTopic:
    """A topic as it is described; `config` is empty where the user may not read it."""
    partitions, replicas = len(topic["partitions"]), min(len(p["replica_nodes"]) for p in topic["partitions"])
    if not config:
        return FoundTopic(partitions, replicas, cleanup=None, arrival=False)
    retention_ms = int(config[RETENTION]["value"])
    return FoundTopic(
        partitions,
        replicas,
        cleanup=config["cleanup.policy"]["value"],
        arrival=config[TIMESTAMP_TYPE]["value"] == ARRIVAL,
        insync=int(config[INSYNC]["value"]),
        kept_s=math.inf if retention_ms < 0 else retention_ms / 1000,
    )


def _new_topic(topic: WantedTopic, partitions: int, brokers: int) -> NewTopic:
    is_replicated = brokers >= REPLICATION
    config = {
        "cleanup.policy": topic.cleanup,
        INSYNC: str(MIN_INSYNC_REPLICAS if is_replicated else 1),
    }
    if topic.arrival:
        config[TIMESTAMP_TYPE] = ARRIVAL
    if topic.cleanup == "compact":
        config["segment.bytes"] = str(CHANGELOG_SEGMENT_BYTES)
    return NewTopic(topic.name, partitions, REPLICATION if is_replicated else 1, topic_configs=config)
