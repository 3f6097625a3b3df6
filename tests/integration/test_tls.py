"""Encrypted connections: a worker over TLS and over SASL, and refusals instead of a silent fall back to plain text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WorkerStarter
from tests.kafka_broker import SASL_PASSWORD, SASL_USERNAME, Broker, make_certificate
from tests.kafka_client import Topics, produce, read_committed
from tests.patients import START, reading
from tests.worker_process import run_vitalcast


def assert_answers(kafka: Broker, topics: Topics) -> None:
    """A reading that is sent now gets its forecast."""
    produce(kafka.bootstrap_servers, topics.readings, [("s-1", reading("s-1", START, {"hr": 80}))])
    forecasts = read_committed(kafka.bootstrap_servers, topics.forecasts, until=lambda found: len(found) == 1)
    assert forecasts[0].json()["stay_id"] == "s-1"


def test_worker_reads_and_answers_over_tls(kafka: Broker, topics: Topics, start_worker: WorkerStarter) -> None:
    start_worker(bootstrap_servers=kafka.tls_servers, security_protocol="SSL", ssl_cafile=kafka.cafile)
    assert_answers(kafka, topics)


def test_worker_reads_and_answers_with_a_password(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(SASL_PASSWORD + "\n", encoding="utf-8")
    worker = start_worker(
        bootstrap_servers=kafka.sasl_servers,
        security_protocol="SASL_SSL",
        ssl_cafile=kafka.cafile,
        sasl_mechanism="PLAIN",
        sasl_username=SASL_USERNAME,
        sasl_password_file=password,
    )
    assert_answers(kafka, topics)
    assert SASL_PASSWORD not in worker.log
    assert SASL_USERNAME not in worker.log


def test_worker_refuses_a_broker_that_it_cannot_trust(kafka: Broker, topics: Topics, tmp_path: Path) -> None:
    stranger, _ = make_certificate(tmp_path)
    settings = {"bootstrap_servers": kafka.tls_servers, "security_protocol": "SSL", "ssl_cafile": stranger}
    done = run_vitalcast("worker", folder=tmp_path, settings={**topics.settings, **settings})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "certificate" in done.stderr.lower() or "ssl" in done.stderr.lower()


def test_a_file_that_is_no_certificate(kafka: Broker, tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    settings = {"bootstrap_servers": kafka.tls_servers, "security_protocol": "SSL", "ssl_cafile": file}
    done = run_vitalcast("worker", folder=tmp_path, settings=settings)
    assert done.returncode == 2
    assert "ssl_cafile" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


TLS = {"security_protocol": "SSL"}
SASL = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (TLS, "ssl_cafile"),
        ({"ssl_cafile": "{file}"}, "security_protocol"),
        ({**TLS, "ssl_cafile": "{file}", "ssl_certfile": "{file}"}, "ssl_keyfile"),
        ({**TLS, "ssl_cafile": "nowhere.crt"}, "ssl_cafile"),
        ({**SASL, "sasl_username": "u"}, "sasl_password_file"),
        ({**SASL, "sasl_password_file": "{file}"}, "sasl_username"),
        ({"sasl_username": "u"}, "security_protocol"),
    ],
)
def test_incomplete_set_is_refused_in_one_line(settings: dict[str, Any], missing: str, tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    given = {name: value.format(file=file) for name, value in settings.items()}
    done = run_vitalcast("worker", folder=tmp_path, settings=given)
    assert done.returncode == 2
    assert missing in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
