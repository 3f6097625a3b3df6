"""The contract's black-box check, and what it does not look at: schemas of all outputs, and silence about patients."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from schemas.publish import path_of
from tests.conftest import SHARED, missing_data
from tests.kafka_broker import Broker
from tests.kafka_client import Message, Topics, read_committed
from tests.launch import spawned
from tests.worker_process import WorkerProcess

SCRIPT = SHARED / "acceptance" / "conformance.py"


@pytest.fixture(scope="module")
def worker(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker with default settings on the default topics, which nobody else uses."""
    Topics.default().create(kafka.bootstrap_servers)
    settings = {"bootstrap_servers": kafka.bootstrap_servers}
    worker = WorkerProcess(tmp_path_factory.mktemp("worker"), settings, launch=spawned)  # as a user starts it
    try:
        yield worker.start()
    finally:
        worker.close()


@pytest.fixture(scope="module")
def verdict(kafka: Broker, worker: WorkerProcess, recordings: Path) -> subprocess.CompletedProcess[str]:
    """What the check said after its good, odd and hostile records went through the worker."""
    if not SCRIPT.is_file():
        missing_data("acceptance check", SCRIPT.parent)
    command = ["--bootstrap", kafka.bootstrap_servers, "--recordings", str(recordings.absolute())]
    return subprocess.run(
        [sys.executable, str(SCRIPT), *command, "--metrics", f"{worker.url}/metrics"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.timeout(300)
def test_every_record_has_the_outcome_that_the_contract_says(
    verdict: subprocess.CompletedProcess[str], worker: WorkerProcess
) -> None:
    assert verdict.returncode == 0, f"{verdict.stdout[-4000:]}{verdict.stderr[-2000:]}\n{worker.log[-2000:]}"


@pytest.mark.usefixtures("verdict")
def test_every_output_fits_its_published_schema(kafka: Broker) -> None:
    messages = read_committed(kafka.bootstrap_servers, *Topics.default().outputs)
    by_schema: dict[str, list[Message]] = {}
    for message in messages:
        by_schema.setdefault(message.json()["schema"], []).append(message)
    assert {"vitals.forecast.v1", "vitals.alert.v1", "vitals.dead-letter.v1"} <= set(by_schema)
    for name, members in by_schema.items():
        validator = Draft202012Validator(json.loads(path_of(name).read_text(encoding="utf-8")))
        for message in members[:300]:
            validator.validate(message.json())


@pytest.mark.usefixtures("verdict")
def test_no_stay_is_named_in_logs_or_metrics(kafka: Broker, worker: WorkerProcess) -> None:
    topics = Topics.default()
    stays = {message.json()["stay_id"] for message in read_committed(kafka.bootstrap_servers, topics.forecasts)}
    told = worker.log + worker.metrics()
    assert stays
    assert not [stay for stay in stays if stay in told]


@pytest.mark.usefixtures("verdict")
def test_a_follower_of_the_alerts_alone_knows_what_is_open(kafka: Broker) -> None:
    # Every stay of the check has ended, so in the end nothing is open.
    is_open: dict[str, int] = {}
    for message in read_committed(kafka.bootstrap_servers, Topics.default().alerts):
        alert = message.json()
        if alert["schema"] != "vitals.alert.v1":
            continue
        name, revision = alert["alert_id"], alert["revision"]
        assert revision == (0 if alert["state"] == "raised" else is_open.pop(name) + 1)
        if alert["state"] != "cleared":
            is_open[name] = revision
    assert not is_open
