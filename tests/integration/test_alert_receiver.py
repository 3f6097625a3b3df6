"""The example receiver: an exact list over its own crashes, an outcry when nothing is heard; the last heartbeat."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from schemas.alert import HEARTBEAT_V1
from schemas.codec import encode
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, create_topics, produce, read_committed
from tests.waiting import eventually
from tests.ward_records import alert

SILENT_AFTER_S = 10
RECEIVER = Path(__file__).parents[2] / "examples" / "alert_receiver.py"


class Receiver:
    """The example as a process of its own."""

    def __init__(self, servers: str, topic: str, folder: Path) -> None:
        self.state, self.log = folder / "alerts.json", folder / "receiver.log"
        self._servers, self._topic, self._client = servers, topic, folder / "client.json"
        self._client.write_text('{"client_id": "receiver"}')
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, servers: str | None = None, silent_after_s: float = SILENT_AFTER_S) -> None:
        options = {"topic": self._topic, "state": self.state, "silent-after": silent_after_s, "client": self._client}
        command = [sys.executable, str(RECEIVER), servers or self._servers]
        command += [f"--{name}={value}" for name, value in options.items()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def has_a_list(self) -> bool:
        return self.state.exists() and self.state.read_text().endswith("}")

    def open_alerts(self) -> set[str]:
        return set(json.loads(self.state.read_text())["open"]) if self.state.exists() else set()

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def told(self) -> list[str]:
        """The states of the revisions that it told of; in between it may say that nobody beats."""
        return re.findall(r"^(raised|updated|cleared) ", self.said(), re.MULTILINE)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    eventually(condition, 90, lambda: what)


@pytest.fixture
def receiver(kafka: Broker, topics: Topics, tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(kafka.bootstrap_servers, topics.alerts, tmp_path)
    yield made
    made.kill()


def test_the_list_is_exact_over_a_crash_and_without_its_file(kafka: Broker, topics: Topics, receiver: Receiver) -> None:
    def publish(*revisions: tuple[str, str]) -> None:
        alerts = (alert(alert_id, "s", state=state, care_unit="icu-3") for alert_id, state in revisions)
        produce(kafka.bootstrap_servers, topics.alerts, [("s", encode(revision)) for revision in alerts])

    publish(("a", "raised"), ("b", "raised"), ("a", "updated"), ("a", "cleared"))
    receiver.start()
    wait_for(lambda: receiver.open_alerts() == {"b"}, "a is cleared, b is open")
    wait_for(lambda: bool(receiver.told()), "what is open is told")
    assert receiver.told() == ["raised"], "of what was before it started, nothing else is"
    assert "raised (medium) s, icu-3, 2026-11-22T10:00:00Z: Mean arterial pressure" in receiver.said()
    receiver.kill()
    publish(("b", "cleared"), ("c", "raised"))
    receiver.start()
    wait_for(lambda: receiver.open_alerts() == {"c"}, "what came meanwhile")
    assert receiver.told() == ["raised", "cleared", "raised"], "each revision that came meanwhile is told"
    for harm in (receiver.state.unlink, lambda: receiver.state.write_text("{half of i")):
        receiver.kill()
        harm()
        receiver.start()
        wait_for(receiver.has_a_list, "a list again")
        wait_for(lambda: receiver.open_alerts() == {"c"}, "made again from the topic")
    assert "is damaged" in receiver.said()


def test_a_topic_that_is_made_anew_leaves_no_alert_open(kafka: Broker, topics: Topics, receiver: Receiver) -> None:
    produce(kafka.bootstrap_servers, topics.alerts, [("s", encode(alert("a", "s", state="raised")))])
    receiver.start()
    wait_for(lambda: receiver.open_alerts() == {"a"}, "a is open")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.delete_topics([topics.alerts])[topics.alerts].result()
    eventually(lambda: topics.alerts not in admin.list_topics().topics, 30, lambda: "the topic is gone")
    create_topics(kafka.bootstrap_servers, topics.alerts)
    wait_for(lambda: "the list is made again" in receiver.said(), "it notices")
    wait_for(lambda: not receiver.open_alerts(), "nothing is open")
    produce(kafka.bootstrap_servers, topics.alerts, [("s", encode(alert("b", "s\nALARM\x1b[2J", state="raised")))])
    wait_for(lambda: receiver.open_alerts() == {"b"}, "and goes on")
    assert "ALARM\x1b" not in receiver.said()
    assert "s?ALARM?[2J" in receiver.said(), "an id cannot say anything by itself"


def test_what_is_no_message_ends_nothing_and_more_partitions_are_cried_out(
    kafka: Broker, topics: Topics, receiver: Receiver
) -> None:
    junk = [b"hello", b"", b"[1]", b"\xff", b"[" * 100_000, b"{}"]
    produce(kafka.bootstrap_servers, topics.alerts, [*(("s", value) for value in junk), ("s", encode(alert("a", "s")))])
    receiver.start()
    wait_for(lambda: receiver.open_alerts() == {"a"}, "a is open")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_partitions([NewPartitions(topics.alerts, 6)])[topics.alerts].result()
    wait_for(lambda: "has more partitions now" in receiver.said(), "an outcry")
    assert receiver.process is not None
    assert receiver.process.wait(30) == 1


@pytest.mark.parametrize("after_s", [0, 0.1])
def test_what_is_open_is_told_whenever_it_was_killed(
    kafka: Broker, topics: Topics, receiver: Receiver, after_s: float
) -> None:
    over = [("s", encode(alert(f"b{n}", "s", state=state))) for n in range(8_000) for state in ("raised", "cleared")]
    produce(kafka.bootstrap_servers, topics.alerts, [("s", encode(alert("a", "s", state="raised"))), *over])
    receiver.start(silent_after_s=0)
    wait_for(lambda: "SILENT" in receiver.said(), "it has begun to read")
    time.sleep(after_s)
    receiver.kill()
    assert not receiver.state.exists(), "it was killed too late, when it had read all that was before it"
    receiver.start()
    wait_for(receiver.has_a_list, "a list")
    assert receiver.open_alerts() == {"a"}
    assert receiver.told() == ["raised"]


def test_it_cries_out_when_no_heartbeat_comes_and_hears_it_again(
    kafka: Broker, topics: Topics, receiver: Receiver, start_worker: WorkerStarter
) -> None:
    worker = start_worker(heartbeat_s=1)
    receiver.start()
    wait_for(receiver.state.exists, "heartbeats are read")
    time.sleep(SILENT_AFTER_S + 1)
    assert "SILENT" not in receiver.said()
    worker.terminate()
    wait_for(lambda: receiver.said().count("SILENT") >= 4, "all four partitions are silent")
    assert receiver.said().count("its worker stops") == 4
    worker.start()
    wait_for(lambda: receiver.said().count("is heard again") >= 4, "heard again")
    receiver.kill()
    receiver.state.unlink()
    receiver.log.unlink()
    receiver.start()
    wait_for(receiver.state.exists, "the topic is read from its beginning")
    time.sleep(1)
    assert receiver.said() == "", "that a worker stopped some time ago is no news"


def test_it_cries_out_when_there_is_no_broker(receiver: Receiver) -> None:
    receiver.start(servers="127.0.0.1:1")
    wait_for(lambda: "ALARM: no Kafka at 127.0.0.1:1" in receiver.said(), "an outcry")
    assert receiver.process is not None
    assert receiver.process.poll() is None


def test_a_worker_that_is_stopped_says_so_in_each_partition(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter
) -> None:
    assert start_worker().terminate() == 0
    beats = [m for m in read_committed(kafka.bootstrap_servers, topics.alerts) if m.json()["schema"] == HEARTBEAT_V1]
    last = {m.partition: m.json()["state"] for m in sorted(beats, key=lambda m: m.offset)}
    assert last == dict.fromkeys(range(4), "stopping")
