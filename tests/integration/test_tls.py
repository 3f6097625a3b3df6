"""Encrypted connections: a worker over TLS and over SASL, with the least rights it needs, and refusals instead of a
silent fall back to plain text.
"""

from __future__ import annotations

import socket
import ssl
import threading
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


WORKER, OTHER, VIEWER = "vitalcast-worker", "somebody-else", "who-looks-on"
SECRET = "scrambled, salted"


READ, WRITE, LOOK = AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS


def right(
    user: str, kind: ResourceType, name: str, *operations: AclOperation, prefix: bool = False
) -> list[AclBinding]:
    """What lets `user` do these things with one resource, or those whose names begin so."""
    pattern = ResourcePatternType.PREFIXED if prefix else ResourcePatternType.LITERAL
    allow = AclPermissionType.ALLOW
    return [AclBinding(kind, name, pattern, f"User:{user}", "*", operation, allow) for operation in operations]


def least_rights(topics: Topics, user: str = WORKER) -> list[AclBinding]:
    """Those of a worker in docs/guarantees.md."""
    return [
        *right(user, ResourceType.TOPIC, topics.readings, READ, LOOK),
        *(binding for output in topics.outputs for binding in right(user, ResourceType.TOPIC, output, WRITE, LOOK)),
        *right(user, ResourceType.TOPIC, topics.changelog, READ, WRITE, LOOK),
        *right(user, ResourceType.GROUP, topics.app_id, READ),
        *right(user, ResourceType.TRANSACTIONAL_ID, f"{topics.app_id}-", WRITE, prefix=True),
    ]


def grant(admin: AdminClient, rights: list[AclBinding]) -> None:
    """Give them, and wait until they hold."""
    for created in admin.create_acls(rights).values():
        created.result(30)


def test_worker_needs_the_documented_rights_and_no_others(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, tmp_path: Path
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    users = [UserScramCredentialUpsertion(name, scram, SECRET.encode()) for name in (WORKER, OTHER, VIEWER)]
    for made in admin.alter_user_scram_credentials(users).values():
        made.result(30)
    grant(admin, least_rights(topics))
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

    def tool(*arguments: str, user: str) -> tuple[int, str]:
        known = {**topics.settings, **login, "sasl_username": user}
        done = run_vitalcast(*arguments, "--duration", "2", folder=tmp_path, settings=known)
        return done.returncode, done.stderr or done.stdout

    seen = (topics.readings, topics.forecasts, topics.alerts)
    grant(admin, [b for name in seen for b in right(VIEWER, ResourceType.TOPIC, name, READ)])
    assert tool("watch", user=VIEWER)[0] == 0
    assert tool("watch", user=WORKER) == (1, f"vitalcast: Kafka at {kafka.sasl_servers} denies access to the topics\n")
    code, told = tool("simulate", user=VIEWER)
    assert code == 1
    assert "AuthorizationFailedError" in told

    grant(admin, [needed for needed in least_rights(topics, OTHER) if needed.restype is not ResourceType.GROUP])
    outsider = start_worker(None, **{**login, "sasl_username": OTHER})
    assert outsider.wait(60) == 1
    assert f"the group {topics.app_id} refuses this worker: GroupAuthorizationFailedError" in outsider.log

    checked = run_vitalcast(
        "topics", "check", folder=tmp_path, settings={**topics.settings, **login, "sasl_username": VIEWER}
    )
    assert checked.returncode == 1
    assert f"topic {topics.readings}: this user may not read its configuration, and needs Desc" in checked.stderr


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
