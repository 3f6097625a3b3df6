"""Encrypted connections: a worker over TLS and over SASL, with the least rights it needs, and refusals instead of a
silent fall back to plain text.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.conftest import WorkerStarter
from tests.kafka_broker import SASL_PASSWORD, SASL_USERNAME, Broker, make_certificate
from tests.kafka_client import Topics, produce, read_committed
from tests.patients import START, reading
from tests.worker_process import refusal, run_vitalcast


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
    assert "its certificate is refused: self-signed certificate" in done.stderr


@pytest.mark.parametrize(
    ("names", "days", "complaint"),
    [("DNS:elsewhere.example", (0, 1), "mismatch"), ("IP:127.0.0.1", (-2, -1), "expired")],
)
def test_certificate_that_names_another_host_or_has_expired(
    names: str, days: tuple[int, int], complaint: str, tmp_path: Path
) -> None:
    cafile, store = make_certificate(tmp_path, names, *days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(store)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_greet, args=(listener, context), daemon=True).start()
        servers = f"127.0.0.1:{listener.getsockname()[1]}"
        settings = {"bootstrap_servers": servers, "security_protocol": "SSL", "ssl_cafile": cafile}
        done = run_vitalcast("topics", "check", folder=tmp_path, settings=settings)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert servers in line
    assert "certificate" in line
    assert complaint in line


def _greet(listener: socket.socket, context: ssl.SSLContext) -> None:
    """A server that offers its certificate to whoever comes, until the listener is closed."""
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                context.wrap_socket(connection, server_side=True).close()


WORKER, OTHER = "vitalcast-worker", "somebody-else"
SECRET = "scrambled, salted"


def least_rights(topics: Topics, user: str = WORKER) -> Iterator[AclBinding]:
    """The rights in docs/guarantees.md."""

    def allow(kind: ResourceType, name: str, *operations: AclOperation, prefix: bool = False) -> Iterator[AclBinding]:
        pattern = ResourcePatternType.PREFIXED if prefix else ResourcePatternType.LITERAL
        for operation in operations:
            yield AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)

    read, write, look = AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS
    yield from allow(ResourceType.TOPIC, topics.readings, read, look)
    for output in topics.outputs:
        yield from allow(ResourceType.TOPIC, output, write, look)
    yield from allow(ResourceType.TOPIC, topics.changelog, read, write, look)
    yield from allow(ResourceType.GROUP, topics.app_id, read)
    yield from allow(ResourceType.TRANSACTIONAL_ID, f"{topics.app_id}-", write, prefix=True)


def test_worker_needs_the_documented_rights_and_no_others(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, tmp_path: Path
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    users = [UserScramCredentialUpsertion(name, scram, SECRET.encode()) for name in (WORKER, OTHER)]
    for made in admin.alter_user_scram_credentials(users).values():
        made.result(30)
    for created in admin.create_acls(list(least_rights(topics))).values():
        created.result(30)
    password = tmp_path / "password"
    password.write_text(SECRET, encoding="utf-8")
    login = {
        "bootstrap_servers": kafka.sasl_servers,
        "security_protocol": "SASL_SSL",
        "ssl_cafile": kafka.cafile,
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": WORKER,
        "sasl_password_file": password,
    }
    start_worker(**login)
    assert_answers(kafka, topics)
    (tmp_path / "wrong").write_text("wrong", encoding="utf-8")
    for change in ({"sasl_username": OTHER}, {"sasl_password_file": tmp_path / "wrong"}):
        done = run_vitalcast("worker", folder=tmp_path, settings={**topics.settings, **login, **change})
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stderr

    all_but_the_group = [right for right in least_rights(topics, OTHER) if right.restype is not ResourceType.GROUP]
    for created in admin.create_acls(all_but_the_group).values():
        created.result(30)
    outsider = start_worker(None, **{**login, "sasl_username": OTHER})
    assert outsider.wait(60) == 1
    assert f"the group {topics.app_id} refuses this worker: GroupAuthorizationFailedError" in outsider.log


def test_a_file_that_is_no_certificate(kafka: Broker, tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    settings = {"bootstrap_servers": kafka.tls_servers, "security_protocol": "SSL", "ssl_cafile": file}
    assert "ssl_cafile" in refusal(tmp_path, settings, code=2)


def test_a_listener_without_tls_is_not_called_unreachable(kafka: Broker, tmp_path: Path) -> None:
    authority, _ = make_certificate(tmp_path)
    settings = {"bootstrap_servers": kafka.bootstrap_servers, "security_protocol": "SSL", "ssl_cafile": authority}
    assert "does not answer in TLS" in refusal(tmp_path, settings)


def test_a_password_file_that_is_no_text(kafka: Broker, tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    login = {**SASL, "sasl_username": "u", "sasl_password_file": tmp_path / "password"}
    line = refusal(tmp_path, {"bootstrap_servers": kafka.bootstrap_servers, **login}, code=2)
    assert "sasl_password_file: cannot be read" in line


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
    assert missing in refusal(tmp_path, given, code=2)
