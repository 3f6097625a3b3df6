"""`vitalcast view` as a user starts it: from the topics' recent past, through a broker that goes and comes back."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect
from rich.console import Console

from schemas.codec import encode
from schemas.reading import Reading
from stream_worker.cli import exit_code_of
from stream_worker.settings import Settings
from stream_worker.view import command
from tests.browser.pictures import keep_picture
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce
from tests.launch import VITALCAST
from tests.ward_records import alert
from tests.worker_process import run_vitalcast, settings_environment

# On any topic: what is no record, a record of another topic, one without the fields it must have, one with odd ones.
JUNK: list[tuple[str, dict[str, Any] | bytes]] = [
    ("junk", b"\xff\xfe"),
    ("junk", b""),
    ("junk", b"[1, 2]"),
    ("junk", {"schema": "vitals.reading.v9", "stay_id": "junk"}),
    ("junk", {"schema": "vitals.forecast.v1", "stay_id": "junk"}),
    ("junk", {"schema": "vitals.alert.v1", "stay_id": "junk", "kind": "unheard of"}),
    ("junk", {"stay_id": 7, "observed_at": "yesterday", "vitals": {"hr": "fast"}}),
]


@contextmanager
def view(folder: Path, settings: dict[str, Any]) -> Iterator[str]:
    """A running page; yields its address."""
    process = subprocess.Popen(
        [*VITALCAST, "view", "--port", "0"],
        env=settings_environment(settings) | {"PYTHONUNBUFFERED": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        yield found[0]
        process.terminate()
        assert process.wait(30) == 0
        assert "stay-" not in process.stdout.read(), "its output names no stay"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def send(servers: str, topics: Topics, stay_id: str, minutes: int = 1) -> None:
    """Readings of the last minutes."""
    now = datetime.now(UTC)
    times = [now - timedelta(minutes=back) for back in reversed(range(minutes))]
    produce(
        servers,
        topics.readings,
        [(stay_id, encode(Reading(stay_id=stay_id, observed_at=at, vitals={"hr": 80.0}))) for at in times],
    )


@pytest.mark.timeout(240)
def test_the_page_begins_in_the_middle_and_outlives_the_broker(
    browser: Browser, own_kafka: Broker, tmp_path: Path
) -> None:
    servers = own_kafka.bootstrap_servers
    topics = Topics.unique().create(servers)
    send(servers, topics, "stay-1", minutes=90)
    future = datetime.now(UTC) + timedelta(days=400)
    produce(servers, topics.readings, [("x", encode(Reading(stay_id="x", observed_at=future, vitals={"hr": 80.0})))])
    produce(servers, topics.alerts, [("stay-1", encode(alert("x", "stay-1", signal="hr")))])
    for topic in (topics.readings, topics.forecasts, topics.alerts):
        produce(servers, topic, JUNK)
    with view(tmp_path, {"bootstrap_servers": servers, **topics.settings}) as address:
        page = browser.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        expect(page.locator(".tile .name")).to_have_text("stay-1")
        expect(page.locator(".tile .badge")).to_have_text("▲ medium")
        expect(page.locator(".tile.stale")).to_have_count(0)  # for all that a sender's clock is far ahead
        whole_history = re.compile(r"^[^L]+(L[^L]+){89}$")  # it begins with what was there
        expect(page.locator(".tile .line").first).to_have_attribute("d", whole_history)
        page.locator(".tile").click()
        expect(page.locator("h1")).to_have_text("stay-1")
        page.keyboard.press("Escape")
        own_kafka.stop()
        expect(page.locator("#banner")).to_contain_text("Kafka does not answer")
        expect(page.locator(".tile")).to_have_count(1)
        keep_picture(page, "broker-away")
        own_kafka.start()
        send(servers, topics, "stay-2")
        expect(page.locator(".tile")).to_have_count(2)
        expect(page.locator("#banner")).not_to_contain_text("Kafka")
        assert complaints == []
        page.close()


def test_what_is_no_request_leaves_no_quotation_in_the_log(kafka: Broker, topics: Topics, tmp_path: Path) -> None:
    with view(tmp_path, {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings}) as address:
        where = urlsplit(address)
        for _ in range(3):
            with socket.create_connection((where.hostname or "", where.port or 0), timeout=30) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nstay-1: \x00\r\n\r\n")
                assert connection.recv(12) == b"HTTP/1.0 400"


def test_a_page_that_nothing_reaches_any_more_is_not_served(
    kafka: Broker, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("stay-1")

    monkeypatch.setattr(command, "follow", broken)
    settings: dict[str, Any] = {"bootstrap_servers": kafka.bootstrap_servers, "view_port": 0, **topics.settings}
    with pytest.raises(command.ReaderError, match=r"^the page's reader has ended: KeyError at .* broken$") as ended:
        command.run_view(Settings(**settings), Console(), duration_s=60)
    assert exit_code_of(ended.value) == 1


def test_a_port_that_is_taken_is_one_line(kafka: Broker, topics: Topics, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings}
        result = run_vitalcast("view", "--port", str(port), folder=tmp_path, settings=settings)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line == f"vitalcast: view_host 127.0.0.1, view_port {port}: Address already in use"
