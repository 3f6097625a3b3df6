"""The broker that the other tests stand on does what they take for granted."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from tests.kafka_broker import SASL_PASSWORD, SASL_USERNAME, Broker, make_certificate
from tests.kafka_client import Topics, create_topics, produce, read_committed
from tests.waiting import eventually


def test_a_folder_can_get_another_certificate(tmp_path: Path) -> None:
    """As when the first kind of broker does not start."""
    first, _ = make_certificate(tmp_path)
    before = first.read_bytes()
    again, _ = make_certificate(tmp_path)
    assert again.read_bytes() != before


def test_what_was_sent_is_read_in_order(kafka: Broker, topics: Topics) -> None:
    places = produce(kafka.bootstrap_servers, topics.readings, [("s-1", f"{i}".encode()) for i in range(100)])
    messages = read_committed(kafka.bootstrap_servers, topics.readings)
    assert [message.value for message in messages] == [f"{i}".encode() for i in range(100)]
    assert [(message.partition, message.offset) for message in messages] == places


def test_keys_go_to_the_partitions_that_java_gives_them(kafka: Broker, topics: Topics) -> None:
    # Source: UtilsTest.testMurmur2 of Apache Kafka.
    murmur2 = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "abc": 479470107}
    places = produce(kafka.bootstrap_servers, topics.readings, [(key, b"{}") for key in murmur2])
    assert [partition for partition, _ in places] == [(value & 0x7FFFFFFF) % 4 for value in murmur2.values()]


def test_aborted_and_open_transactions_are_not_read(kafka: Broker, topics: Topics) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    for value, commit in [(b"kept", True), (b"dropped", False)]:
        producer.begin_transaction()
        producer.produce(topics.forecasts, value, partition=0)
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    producer.begin_transaction()
    producer.produce(topics.forecasts, b"not yet", partition=0)
    producer.flush(30)
    messages = read_committed(kafka.bootstrap_servers, topics.forecasts)
    producer.abort_transaction(30)
    assert [message.value for message in messages] == [b"kept"]


def test_a_topic_that_nobody_made_does_not_appear(kafka: Broker) -> None:
    with pytest.raises(LookupError):
        read_committed(kafka.bootstrap_servers, f"missing-{uuid.uuid4().hex}")


def test_tls_listener_shows_a_certificate_for_loopback(kafka: Broker) -> None:
    config = {"bootstrap.servers": kafka.tls_servers, "security.protocol": "SSL", "ssl.ca.location": str(kafka.cafile)}
    assert AdminClient(config).list_topics(timeout=30).brokers


def test_sasl_listener_wants_the_right_password(kafka: Broker) -> None:
    config = {
        "bootstrap.servers": kafka.sasl_servers,
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(kafka.cafile),
        "sasl.mechanism": "PLAIN",
        "sasl.username": SASL_USERNAME,
        "log_level": 0,
    }
    assert AdminClient({**config, "sasl.password": SASL_PASSWORD}).list_topics(timeout=30).brokers
    errors: list[KafkaError] = []
    refused = AdminClient({**config, "sasl.password": "wrong", "error_cb": errors.append})
    eventually(lambda: refused.poll(0.1) > 0, within_s=30)
    assert errors[0].code() == KafkaError._AUTHENTICATION


def test_a_killed_broker_comes_back_on_its_port_with_its_data(own_kafka: Broker) -> None:
    servers = own_kafka.bootstrap_servers
    create_topics(servers, "kept")
    produce(servers, "kept", [("k", b"before")])
    own_kafka.kill()
    own_kafka.start()
    assert own_kafka.bootstrap_servers == servers
    produce(servers, "kept", [("k", b"after kill")])
    own_kafka.stop()
    own_kafka.start()
    produce(servers, "kept", [("k", b"after stop")])
    values = [message.value for message in read_committed(servers, "kept")]
    assert values == [b"before", b"after kill", b"after stop"]


def test_a_paused_broker_answers_nothing_and_goes_on(own_kafka: Broker) -> None:
    create_topics(own_kafka.bootstrap_servers, "thawed")
    own_kafka.pause()
    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap_servers, "log_level": 0})
    with pytest.raises(KafkaException) as refused:
        admin.list_topics(timeout=1)
    own_kafka.unpause()
    assert refused.value.args[0].code() in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT)
    produce(own_kafka.bootstrap_servers, "thawed", [("k", b"after")])
    assert [message.value for message in read_committed(own_kafka.bootstrap_servers, "thawed")] == [b"after"]
