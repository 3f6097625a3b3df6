"""What a user gets wrong is said in one line that names it, with an exit code: 1 for a fault, 2 for wrong use."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from model.manifest import DEFAULT_ARTIFACT
from stream_worker.embedded import embedded_broker
from tests.kafka_broker import Broker, free_port
from tests.kafka_client import Topics, create_topics
from tests.launch import spawned
from tests.worker_process import refusal, run_vitalcast


def test_broker_that_does_not_answer(tmp_path: Path) -> None:
    servers = f"127.0.0.1:{free_port()}"
    line = refusal(tmp_path, {"bootstrap_servers": servers}, launch=spawned)  # nor do its imports say anything
    assert servers in line


def test_log_for_people_that_goes_into_a_file_has_no_colours(tmp_path: Path) -> None:
    settings = {"bootstrap_servers": f"127.0.0.1:{free_port()}", "log_format": "console"}
    log = run_vitalcast("worker", folder=tmp_path, settings=settings).stderr
    assert "model_loaded" in log
    assert "name=vitals-lstm" in log
    assert "\033" not in log


def test_embedded_broker_with_exactly_once(tmp_path: Path) -> None:
    topics = Topics.unique()
    with embedded_broker([topics.readings, *topics.outputs]) as servers:
        told = refusal(tmp_path, {"bootstrap_servers": servers, **topics.settings}, code=2)
    assert "delivery exactly_once: the embedded broker" in told


def test_address_that_is_none(tmp_path: Path) -> None:
    assert "bootstrap_servers" in refusal(tmp_path, {"bootstrap_servers": "kafka"}, code=2)


def test_topics_that_nobody_made(kafka: Broker, tmp_path: Path) -> None:
    topics = Topics.unique()
    line = refusal(tmp_path, {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings})
    assert topics.readings in line
    assert "vitalcast topics create" in line


def test_outputs_with_fewer_partitions_than_readings(kafka: Broker, tmp_path: Path) -> None:
    topics = Topics.unique()
    create_topics(kafka.bootstrap_servers, topics.readings, topics.alerts, topics.dead_letters, partitions=4)
    create_topics(kafka.bootstrap_servers, topics.forecasts, partitions=2)
    create_topics(kafka.bootstrap_servers, topics.changelog, partitions=4, config={"cleanup.policy": "compact"})
    assert topics.forecasts in refusal(tmp_path, {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings})


def test_artifact_that_was_altered(kafka: Broker, topics: Topics, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    shutil.copytree(DEFAULT_ARTIFACT, artifact)
    with (artifact / "model.pt").open("ab") as file:
        file.write(b"\0")
    settings = {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings}
    assert "sha256" in refusal(tmp_path, settings, "--model", str(artifact))


def test_artifact_without_a_usable_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"name": 1}), encoding="utf-8")
    assert "manifest.json" in refusal(tmp_path, {}, "--model", str(tmp_path))


def test_folder_without_an_artifact(tmp_path: Path) -> None:
    assert "manifest.json" in refusal(tmp_path, {}, "--model", str(tmp_path))


def test_http_port_that_is_taken(kafka: Broker, topics: Topics, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings}
        line = refusal(tmp_path, {**settings, "http_port": port})
    assert str(port) in line


@pytest.mark.parametrize(
    ("setting", "value"),
    [("grace_s", "soon"), ("http_port", 70_000), ("delivery", "perhaps"), ("stale_after_s", 30_000), ("grace_s", 61)],
)
def test_bad_setting(setting: str, value: object, tmp_path: Path) -> None:
    assert setting in refusal(tmp_path, {setting: value}, code=2)


def test_bad_settings_file(tmp_path: Path) -> None:
    (tmp_path / "vitalcast.toml").write_text("grace_s = ", encoding="utf-8")
    assert "vitalcast.toml" in refusal(tmp_path, {}, code=2)


def test_settings_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "vitalcast.toml").write_bytes(b"app_id = '\xff'")
    assert "vitalcast.toml: cannot be read" in refusal(tmp_path, {}, code=2)
