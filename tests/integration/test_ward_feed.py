"""What the viewers read while the topics are changed under them."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from schemas.codec import encode
from stream_worker import ward_feed
from stream_worker.settings import Settings, load_settings
from stream_worker.threads import Beside
from stream_worker.view.board import Board
from stream_worker.view.link import Link, follow, page_board
from stream_worker.ward_feed import WardFeed
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, create_topics, produce
from tests.launch import VITALCAST
from tests.waiting import eventually
from tests.ward_records import alert
from tests.worker_process import settings_environment


def make_anew(servers: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    admin.delete_topics([topic])[topic].result()
    eventually(lambda: topic not in admin.list_topics().topics, 30, lambda: "the topic is gone")
    create_topics(servers, topic)


@contextmanager
def followed(settings: Settings) -> Iterator[Board]:
    """A board that follows the topics, as that of `vitalcast view` does."""
    board, stop = page_board(settings), threading.Event()
    feed = WardFeed(settings)
    reader = Beside("reader", lambda: follow(settings, feed, board, Link(), stop))
    reader.start()
    try:
        yield board
    finally:
        stop.set()
        reader.join(30)
    assert reader.fault is None


def wait_for_open(board: Board, *alert_ids: str) -> None:
    def found() -> list[str]:
        with board.lock:
            return sorted(known.alert_id for known in board.open_alerts)

    eventually(lambda: found() == sorted(alert_ids), 90, lambda: str(found()))


def test_nothing_of_a_topic_that_was_made_anew_is_shown(kafka: Broker, topics: Topics) -> None:
    servers = kafka.bootstrap_servers
    produce(servers, topics.alerts, [("s", encode(alert("old", "s", revision=number))) for number in range(9)])
    with followed(load_settings(None, bootstrap_servers=servers, **topics.settings)) as board:
        wait_for_open(board, "old")
        make_anew(servers, topics.alerts)
        produce(servers, topics.alerts, [("s", encode(alert("new", "s")))])
        wait_for_open(board, "new")


def test_watch_shows_nothing_of_a_topic_that_was_made_anew(kafka: Broker, topics: Topics, tmp_path: Path) -> None:
    servers, shown = kafka.bootstrap_servers, tmp_path / "shown"
    produce(servers, topics.alerts, [("s", encode(alert("old", "old", revision=number))) for number in range(9)])
    settings = settings_environment({"bootstrap_servers": servers, **topics.settings})
    with shown.open("wb") as output:
        process = subprocess.Popen([*VITALCAST, "watch"], cwd=tmp_path, env=settings, stdout=output, stderr=output)

    def beds() -> list[str]:
        return re.findall(r"^  (\w+): ", shown.read_text().rpartition("open alerts")[2], re.MULTILINE)

    try:
        eventually(lambda: beds() == ["old"], 60, shown.read_text)
        make_anew(servers, topics.alerts)
        produce(servers, topics.alerts, [("s", encode(alert("new", "new")))])
        eventually(lambda: beds() == ["new"], 90, shown.read_text)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_partitions_that_are_added_are_read_too(kafka: Broker, topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ward_feed, "LOOK_EVERY_S", 0.5)
    servers = kafka.bootstrap_servers
    produce(servers, topics.alerts, [("s", encode(alert("before", "s")))])
    with followed(load_settings(None, bootstrap_servers=servers, **topics.settings)) as board:
        wait_for_open(board, "before")
        admin = AdminClient({"bootstrap.servers": servers})
        admin.create_partitions([NewPartitions(topics.alerts, 6)])[topics.alerts].result()
        producer = Producer({"bootstrap.servers": servers})
        producer.produce(topics.alerts, encode(alert("after", "s")), partition=5)
        assert producer.flush(30) == 0
        wait_for_open(board, "before", "after")
