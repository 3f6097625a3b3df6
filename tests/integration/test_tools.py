"""The tools on a real Kafka: topics made and checked, recordings replayed in order, the ward read from the topics."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from schemas.codec import encode
from tests import recordings
from tests.kafka_broker import SASL_PASSWORD, SASL_USERNAME, Broker
from tests.kafka_client import Message, Topics, create_topics, produce, read_committed
from tests.ward_records import alert, forecast, reading
from tests.worker_process import run_vitalcast

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def run(kafka: Broker, topics: Topics, folder: Path, *arguments: str) -> Any:
    settings = {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings}
    return run_vitalcast(*arguments, folder=folder, settings=settings)


def partitions_of(kafka: Broker, topic: str) -> int:
    found = AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(topic, timeout=30)
    return len(found.topics[topic].partitions)


def write_recording(folder: Path, stay_id: str, minutes: int) -> None:
    """A recording whose every tenth row is empty."""
    values = [None if minute % 10 == 9 else 60 + minute % 50 for minute in range(minutes)]
    recordings.write_recording(folder, stay_id, recordings.minutes(START, values))


def test_topics_are_made_once_and_then_found_good(kafka: Broker, tmp_path: Path) -> None:
    topics = Topics.unique()
    missing = run(kafka, topics, tmp_path, "topics", "check")
    assert missing.returncode == 1
    assert f"5 of 5 topics cannot be used, the first: topic {topics.readings}: does not exist" in missing.stderr
    for _ in range(2):
        assert run(kafka, topics, tmp_path, "topics", "create", "--partitions", "6").returncode == 0
    assert run(kafka, topics, tmp_path, "topics", "check").returncode == 0
    assert {partitions_of(kafka, name) for name in (topics.readings, *topics.outputs, topics.changelog)} == {6}


def test_readings_are_to_carry_the_time_of_their_arrival(kafka: Broker, tmp_path: Path) -> None:
    topics = Topics.unique()
    assert run(kafka, topics, tmp_path, "topics", "create").returncode == 0
    assert "LogAppendTime" not in run(kafka, topics, tmp_path, "topics", "check").stdout
    sent_ms = 1_000_000_000_000
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(topics.readings, value=b"{}", timestamp=sent_ms)
    assert producer.flush(30) == 0
    (record,) = read_committed(kafka.bootstrap_servers, topics.readings)
    assert record.timestamp_ms > sent_ms + 10**9

    by_senders = Topics.unique().create(kafka.bootstrap_servers)
    checked = run(kafka, by_senders, tmp_path, "topics", "check")
    assert checked.returncode == 0
    assert "message.timestamp.type should be LogAppendTime" in checked.stdout


def test_one_broker_means_one_replica_and_a_warning(kafka: Broker, tmp_path: Path) -> None:
    made = run(kafka, Topics.unique(), tmp_path, "topics", "create")
    assert "warning: 1 broker" in made.stdout


def test_new_outputs_have_as_many_partitions_as_the_readings_that_exist(kafka: Broker, tmp_path: Path) -> None:
    for partitions in (2, 7):
        topics = Topics.unique()
        create_topics(kafka.bootstrap_servers, topics.readings, partitions=partitions)
        made = run(kafka, topics, tmp_path, "topics", "create")
        assert made.returncode == 0
        assert "partitions, of which" not in made.stdout
        assert partitions_of(kafka, topics.forecasts) == partitions


def test_what_is_not_as_it_should_be_is_told_though_the_worker_runs(kafka: Broker, tmp_path: Path) -> None:
    topics = Topics.unique()
    create_topics(kafka.bootstrap_servers, topics.readings, topics.dead_letters, partitions=2)
    create_topics(kafka.bootstrap_servers, topics.forecasts, partitions=3, config={"retention.ms": "3600000"})
    create_topics(kafka.bootstrap_servers, topics.alerts, partitions=2, config={"retention.ms": "86400000"})
    create_topics(kafka.bootstrap_servers, topics.changelog, partitions=2, config={"cleanup.policy": "compact"})
    checked = run(kafka, topics, tmp_path, "topics", "check")
    assert checked.returncode == 0
    assert f"topic {topics.forecasts}: 3 partitions, of which only the first 2 are used" in checked.stdout
    assert f"topic {topics.alerts}: retention.ms should be 172800000 at least" in checked.stdout
    assert checked.stdout.count("retention.ms") == 1


def test_topics_that_exist_are_never_changed_but_told_apart(kafka: Broker, tmp_path: Path) -> None:
    topics = Topics.unique()
    create_topics(kafka.bootstrap_servers, topics.readings, *topics.outputs, partitions=4)
    create_topics(kafka.bootstrap_servers, topics.changelog, partitions=2)
    made = run(kafka, topics, tmp_path, "topics", "create")
    assert made.returncode == 1
    assert "has 2 partitions, fewer than the 4 of the readings" in made.stderr
    assert partitions_of(kafka, topics.changelog) == 2


def test_a_replay_sends_every_row_with_a_value_each_stay_in_order_and_in_one_partition(
    kafka: Broker, topics: Topics, tmp_path: Path
) -> None:
    stays = {f"stay-{n}": 200 + 50 * n for n in range(6)}
    for stay_id, minutes in stays.items():
        write_recording(tmp_path, stay_id, minutes)
    result = run(kafka, topics, tmp_path, "replay", str(tmp_path), "--speed", "max")
    assert result.returncode == 0, result.stderr
    rows = sum(stays.values())
    assert f"sent {rows * 9 // 10}, skipped {rows // 10} without a value" in result.stdout

    by_stay: dict[str, list[Message]] = defaultdict(list)
    for message in read_committed(kafka.bootstrap_servers, topics.readings):
        by_stay[message.json()["stay_id"]].append(message)
    assert by_stay.keys() == stays.keys()
    for stay_id, messages in by_stay.items():
        times = [message.json()["observed_at"] for message in messages]
        assert times == sorted(set(times))
        assert len(times) == stays[stay_id] * 9 // 10
        # librdkafka's murmur2 is another implementation of Java's: it must choose the same partition.
        ((partition, _),) = produce(kafka.bootstrap_servers, topics.readings, [(stay_id, b"{}")])
        assert {message.partition for message in messages} == {partition}


def test_a_recording_that_cannot_be_read_to_its_end_is_told_with_what_was_sent(
    kafka: Broker, topics: Topics, tmp_path: Path
) -> None:
    rows = ["time,hr", *(f"2026-01-01T00:{minute:02}:00Z,80" for minute in range(9)), "2026-01-01T00:09:00Z,8O"]
    (tmp_path / "s.csv").write_text("\n".join(rows) + "\n")
    result = run(kafka, topics, tmp_path, "replay", "s.csv", "--speed", "max")
    assert result.returncode == 1
    assert "s.csv, line 11: unreadable number in column 'hr'; until then, sent 9" in result.stderr
    assert len(read_committed(kafka.bootstrap_servers, topics.readings)) == 9


def test_a_simulation_sends_history_and_live_readings(kafka: Broker, topics: Topics, tmp_path: Path) -> None:
    options = ("--patients", "3", "--history", "10", "--rate", "5", "--duration", "6")  # connecting is a part of it
    result = run(kafka, topics, tmp_path, "simulate", *options)
    assert result.returncode == 0, result.stderr
    sent = [message.json() for message in read_committed(kafka.bootstrap_servers, topics.readings)]
    assert f"sent {len(sent)}" in result.stdout
    assert {record["stay_id"] for record in sent} == {"bed-01", "bed-02", "bed-03"}
    assert len(sent) >= 30 + 3 * 5


def test_the_ward_is_read_from_the_topics_alone(kafka: Broker, topics: Topics, tmp_path: Path) -> None:
    servers = kafka.bootstrap_servers
    produce(servers, topics.readings, [("a", encode(reading("a", hr=80))), ("b", encode(reading("b", hr=70)))])
    produce(servers, topics.forecasts, [("a", encode(forecast("a")))])
    revisions = [alert("x", "a", priority="high"), alert("y", "b"), alert("y", "b", revision=1, state="cleared")]
    produce(servers, topics.alerts, [(record.stay_id, encode(record)) for record in revisions])
    result = run(kafka, topics, tmp_path, "watch", "--duration", "12")
    assert result.returncode == 0, result.stderr
    assert "2 beds · open alerts: 1 high" in result.stdout
    assert "a: ◆ HIGH Mean arterial pressure below 65 mmHg" in result.stdout
    assert f"1 from {topics.forecasts}, 2 from {topics.readings}" in result.stdout


def test_the_tools_connect_with_tls_and_a_password(kafka: Broker, topics: Topics, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(SASL_PASSWORD + "\n", encoding="utf-8")
    secured = {
        **topics.settings,
        "bootstrap_servers": kafka.sasl_servers,
        "security_protocol": "SASL_SSL",
        "ssl_cafile": kafka.cafile,
        "sasl_mechanism": "PLAIN",
        "sasl_username": SASL_USERNAME,
        "sasl_password_file": password,
    }
    write_recording(tmp_path, "stay-0", 20)
    for command in (["topics", "check"], ["replay", str(tmp_path), "--speed", "max"], ["watch", "--duration", "1"]):
        done = run_vitalcast(*command, folder=tmp_path, settings=secured)
        assert done.returncode == 0, done.stderr

    password.write_text("wrong", encoding="utf-8")
    refused = run_vitalcast("topics", "check", folder=tmp_path, settings=secured)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"vitalcast: {kafka.sasl_servers}: no usable Kafka broker")
