"""Topics that are lost, truncated, deleted or changed: a clear end, or a recovery that leaves no trace."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from stream_worker.stays import BODY, ENCODING, HEAD, SCORING
from tests.conftest import WorkerStarter
from tests.fault.undisturbed import assert_same_outputs, assert_same_state
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, create_topics, produce, read_committed
from tests.patients import ward
from tests.worker_process import WorkerProcess

STAYS, MINUTES = 12, 150


@pytest.fixture
def admin(kafka: Broker) -> AdminClient:
    """What an operator's hand does to topics."""
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers})


def delete(admin: AdminClient, *topics: str) -> None:
    """Delete topics; returns when the broker no longer lists them."""
    for deleted in admin.delete_topics(list(topics)).values():
        deleted.result(30)
    while set(topics) & set(admin.list_topics(timeout=10).topics):
        pass


def wait_for(kafka: Broker, topics: Topics, forecasts: int) -> None:
    """Wait until so many forecasts are committed."""
    read_committed(
        kafka.bootstrap_servers, topics.forecasts, until=lambda found: len(found) >= forecasts, timeout_s=120
    )


def events(worker: WorkerProcess, name: str) -> list[dict[str, object]]:
    """What the worker logged under `name`."""
    lines = [line[line.index("{") :] for line in worker.log.splitlines() if "{" in line]
    return [event for event in map(json.loads, lines) if event["event"] == name]


def end_of(worker: WorkerProcess) -> str:
    """Wait for the worker to end by itself; why it did."""
    assert worker.wait(60) == 1
    assert "Traceback" not in worker.log
    reason = events(worker, "stopped_by_failure")[-1]["reason"]
    assert isinstance(reason, str)
    return reason


def lose(admin: AdminClient, topics: Topics, servers: str) -> None:
    """The changelog is gone; somebody made an empty one."""
    delete(admin, topics.changelog)
    create_topics(servers, topics.changelog, config={"cleanup.policy": "compact"})


def age(_admin: AdminClient, topics: Topics, servers: str) -> None:
    """The changelog was written by an earlier version, whose encoding is another."""
    newest = {(m.partition, m.key): m.value for m in read_committed(servers, topics.changelog)}
    producer = Producer({"bootstrap.servers": servers})
    for (partition, key), value in newest.items():
        if key and value and key[:1] in (HEAD, BODY, SCORING):
            producer.produce(topics.changelog, bytes([ENCODING - 1]) + value[1:], key, partition)
    assert producer.flush(30) == 0


@pytest.mark.timeout(500)
@pytest.mark.parametrize("harm", [lose, age])
def test_state_that_is_lost_or_of_another_version_is_made_again_from_the_readings(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, admin: AdminClient, harm: Callable[..., None]
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    reference, before = Topics.unique().create(servers), len(sent) * 2 // 3
    start_worker(None, **{**reference.settings, "readings_topic": topics.readings})
    produce(servers, topics.readings, sent[:before])
    worker = start_worker(instance_id="worker", session_timeout_s=6, chunk_records=32)
    wait_for(kafka, topics, before)
    assert worker.terminate() == 0
    harm(admin, topics, servers)
    worker.start()
    worker.kill()  # most likely while it makes the state again
    worker.start()
    produce(servers, topics.readings, sent[before:])
    for outputs in (topics, reference):
        wait_for(kafka, outputs, len(sent))
    assert sum(int(str(event["records"])) for event in events(worker, "state_is_made_again")) >= before
    assert assert_same_outputs(servers, topics, reference)["alerts"] > 0
    assert assert_same_state(servers, topics, reference) == STAYS


@pytest.mark.timeout(500)
def test_topics_that_change_under_a_running_worker_end_it(
    kafka: Broker, start_worker: WorkerStarter, admin: AdminClient
) -> None:
    def grow(topic: str) -> None:
        admin.create_partitions([NewPartitions(topic, 8)])[topic].result(30)

    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    half = len(sent) // 2
    cases: list[tuple[str, Callable[[str], None], str]] = [
        ("readings", lambda topic: delete(admin, topic), "does not exist"),
        ("forecasts", lambda topic: delete(admin, topic), "does not exist"),
        ("changelog", lambda topic: delete(admin, topic), "does not exist"),
        ("readings", grow, "has 4 partitions, fewer than the 8 of the readings"),
    ]
    victims = [Topics.unique().create(servers) for _ in cases]
    workers = [start_worker(None, **topics.settings) for topics in victims]
    for topics, worker in zip(victims, workers, strict=True):
        worker.wait_ready(240)  # all four start at once
        produce(servers, topics.readings, sent[:half])
        wait_for(kafka, topics, half)
    for (name, change, _), topics in zip(cases, victims, strict=True):
        change(getattr(topics, name))
        if name != "readings":
            produce(servers, topics.readings, sent[half:])
    for (name, _, expected), topics, worker in zip(cases, victims, workers, strict=True):
        reason = end_of(worker)
        assert expected in reason, f"{name}: {reason}"
        assert topics.app_id in reason  # it names the topic


@pytest.mark.timeout(500)
def test_readings_that_were_made_anew_are_not_taken_for_the_old_ones(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, admin: AdminClient
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    worker = start_worker()
    produce(servers, topics.readings, sent)
    wait_for(kafka, topics, len(sent))
    delete(admin, topics.readings)
    create_topics(servers, topics.readings)
    assert topics.readings in end_of(worker)
    produce(servers, topics.readings, sent + sent)  # the old offsets are there again, with other records
    worker.start(ready_within_s=None)
    assert "made anew" in end_of(worker)


@pytest.mark.timeout(500)
def test_readings_under_another_name_are_not_taken_for_those_of_the_state(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    worker = start_worker()
    produce(servers, topics.readings, sent[:100])
    wait_for(kafka, topics, 100)
    assert worker.terminate() == 0
    renamed = f"{topics.readings}-renamed"
    create_topics(servers, renamed)
    an_hour_ago = int((time.time() - 3600) * 1000)
    producer = Producer({"bootstrap.servers": servers})
    for i, (key, value) in enumerate(sent):  # the offsets of the state are there, with other records, as old as it
        producer.produce(renamed, json.dumps(value), key, i % 4, timestamp=an_hour_ago)
    assert producer.flush(30) == 0
    worker.settings["readings_topic"] = renamed
    worker.start(ready_within_s=None)
    reason = end_of(worker)
    assert f"topic {topics.readings}; run with a new app_id" in reason
    assert renamed in reason


@pytest.mark.timeout(500)
def test_readings_that_retention_took_first_are_counted_and_the_rest_is_processed(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, admin: AdminClient
) -> None:
    servers, sent = kafka.bootstrap_servers, list(ward(STAYS, MINUTES))
    third = len(sent) // 3
    worker = start_worker()
    produce(servers, topics.readings, sent[:third])
    wait_for(kafka, topics, third)
    assert worker.terminate() == 0
    places = produce(servers, topics.readings, sent[third:])
    first = dict(places[:third])  # by partition: the offset that retention has reached
    deletions = admin.delete_records([TopicPartition(topics.readings, p, offset) for p, offset in first.items()])
    for deletion in deletions.values():
        deletion.result(30)
    gone = sum(offset < first[partition] for partition, offset in places)
    worker.start()
    wait_for(kafka, topics, len(sent) - gone)
    assert sum(int(str(event["records"])) for event in events(worker, "readings_lost")) == gone > 0
    assert len(read_committed(servers, topics.forecasts)) == len(sent) - gone
