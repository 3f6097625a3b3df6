"""A real Apache Kafka broker for tests, in a container or from its jars: the same settings and the same API.

It has four listeners on loopback: plain, TLS, TLS with SASL (PLAIN, and SCRAM for users that a test makes), and one
that clients find at another port than its own, where a test may put a proxy. They keep their ports over a stop or kill.
Whoever comes without a name, and the user of SASL/PLAIN, may do everything; all others only what ACLs say.
Set KAFKA_FOR_TESTS to `docker` or `jars` to choose; by default it is the first that works.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import socket
import subprocess
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, Final, Self

import docker
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

KAFKA_VERSION: Final = "4.3.1"
POM: Final = Path(__file__).parent / "kafka" / "pom.xml"
LOG4J: Final = POM.with_name("log4j2.xml")
JARS: Final = Path(__file__).parents[1] / ".cache" / f"kafka-{KAFKA_VERSION}"
CLUSTER_ID: Final = "MkU3OEVBNTcwNTJENDM2Qk"
SCRAM_LOGIN: Final = "org.apache.kafka.common.security.scram.ScramLoginModule"
SASL_USERNAME: Final = "tester"
SASL_PASSWORD: Final = "only for tests"


class KafkaUnavailableError(Exception):
    """This kind of broker cannot run here; the message says what is missing."""


@cache
def _own_ports() -> Iterator[int]:
    """Ports that no other process of tests takes and the system gives to nobody: it chooses from 32768 on."""
    for first in range(11_000, 30_000, 1_000):  # browsers refuse 10080
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first))
        except OSError:
            claim.close()
        else:
            atexit.register(claim.close)  # until then all up to the next thousand are ours
            return cycle(range(first + 1, first + 1_000))
    raise RuntimeError("all ports for tests are taken")


def free_port() -> int:
    """A TCP port of loopback that nobody uses, nor will soon: it may be some time before it is used itself."""
    for port in _own_ports():
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a cycle has no end")


def make_certificate(
    folder: Path, names: str = "IP:127.0.0.1,DNS:localhost", first_day: int = 0, last_day: int = 2
) -> tuple[Path, Path]:
    """A new self-signed certificate: (what clients trust, the server's key and certificate).

    names : as openssl's subjectAltName has them.
    first_day, last_day : of its validity, counted from today.
    """
    cafile, key, store, request = (folder / name for name in ("ca.crt", "server.key", "server.pem", "request"))
    config, extensions, index = (folder / name for name in ("ca.conf", "extensions", "index"))
    parts = {"ca": "default_ca=x", "x": f"database={index}\nnew_certs_dir={folder}\nrand_serial=yes\npolicy=any"}
    sections = {**parts, "any": "commonName=supplied"}
    config.write_text("".join(f"[{name}]\n{text}\n" for name, text in sections.items()), encoding="utf-8")
    extensions.write_text(f"subjectAltName={names}\nbasicConstraints=CA:TRUE", encoding="utf-8")
    index.write_text("", encoding="utf-8")  # no name is signed twice, and a broker before may have failed to start
    first, last = (
        f"{datetime.now(UTC) + timedelta(days=day, hours=-1):%Y%m%d%H%M%SZ}" for day in (first_day, last_day)
    )
    ask = f"req -new -newkey rsa:2048 -nodes -subj /CN=kafka-for-tests -keyout {key} -out {request}"
    sign = f"ca -batch -selfsign -notext -md sha256 -config {config} -extfile {extensions} -keyfile {key} -in {request}"
    for command in (ask, f"{sign} -out {cafile} -startdate {first} -enddate {last}"):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    store.write_bytes(key.read_bytes() + cafile.read_bytes())
    return cafile, store


class Broker(ABC):
    """One node, broker and controller at once, with an empty log. Close it after use."""

    host: str  # the address the node listens on
    store: str  # where the node finds its key and certificate

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            raise KafkaUnavailableError("openssl makes the certificate of the TLS listener and is not here")
        self.folder = folder
        self.cafile, self._store_here = make_certificate(folder)
        self.port, self.tls_port, self.sasl_port, self._controller_port = (free_port() for _ in range(4))
        self.far_port, self.proxy_port = free_port(), free_port()

    @property
    def bootstrap_servers(self) -> str:
        """The plain listener."""
        return f"127.0.0.1:{self.port}"

    @property
    def tls_servers(self) -> str:
        """The TLS listener; clients trust `cafile`."""
        return f"127.0.0.1:{self.tls_port}"

    @property
    def sasl_servers(self) -> str:
        """The TLS listener that asks for SASL_USERNAME and SASL_PASSWORD (PLAIN)."""
        return f"127.0.0.1:{self.sasl_port}"

    @property
    def far_servers(self) -> str:
        """Where clients find the fourth listener: whoever listens on `proxy_port` must pass them on to `far_port`."""
        return f"127.0.0.1:{self.proxy_port}"

    def properties(self) -> Mapping[str, str]:
        """The node's settings: small, strict, and quick to come back after a kill."""
        # Listeners are not called SSL or SASL: the official image would then ask for Java key stores.
        ports = {"HOST": self.port, "TLS": self.tls_port, "LOGIN": self.sasl_port, "FAR": self.far_port}
        found_at = {**ports, "FAR": self.proxy_port}
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(f"{name}://{self.host}:{port}" for name, port in ports.items())
            + f",CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in found_at.items()),
            "listener.security.protocol.map": "TLS:SSL,LOGIN:SASL_SSL,"
            + ",".join(f"{name}:PLAINTEXT" for name in ("CONTROLLER", "HOST", "FAR")),
            "inter.broker.listener.name": "HOST",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.store,
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.login.scram-sha-512.sasl.jaas.config": f"{SCRAM_LOGIN} required;",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{SASL_USERNAME}",
            "listener.name.login.plain.sasl.jaas.config": f'{login} user_{SASL_USERNAME}="{SASL_PASSWORD}";',
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            # A killed node may register again only after its old session ended: 9 s by default.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "500",
            "num.network.threads": "2",
            "num.io.threads": "2",
            "log.cleaner.dedupe.buffer.size": "8388608",
            "log.cleaner.backoff.ms": "500",  # compaction within a test's time, not after 15 s
        }

    @abstractmethod
    def start(self) -> Self:
        """Start the node, or start it again with its data; returns once it answers."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the node in an orderly way; its data stays."""

    @abstractmethod
    def kill(self) -> None:
        """End the node at once (SIGKILL); its data stays."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze the node: connections stay open, nothing answers."""

    @abstractmethod
    def unpause(self) -> None:
        """Let a frozen node go on."""

    @abstractmethod
    def pin(self, cores: Collection[int]) -> None:
        """Have the running node use these processor cores only."""

    @abstractmethod
    def close(self) -> None:
        """End the node and drop its data."""

    @abstractmethod
    def log(self) -> str:
        """What the node wrote so far."""

    @abstractmethod
    def _has_ended(self) -> bool:
        """Whether the node has ended by itself."""

    def revive(self) -> None:
        """Start the node again if it was stopped or killed."""
        if self._has_ended():
            self.start()

    def _wait_until_it_answers(self, timeout_s: float = 120) -> None:
        # A metadata answer that lists the node, not an open port: Docker's proxy accepts before the broker is up.
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            try:
                if admin.list_topics(timeout=1).brokers:
                    return
            except KafkaException:
                if self._has_ended():
                    raise ChildProcessError(f"Kafka has ended:\n{self.log()[-2000:]}") from None
                time.sleep(0.1)
        raise TimeoutError(f"Kafka did not answer within {timeout_s:.0f} s:\n{self.log()[-2000:]}")


def docker_answers() -> bool:
    """Whether a Docker engine is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # where nobody answers, docker leaves its socket open
        try:
            docker.from_env().close()
            return True
        except DockerException:
            pass
        gc.collect()
    return False


class ContainerBroker(Broker):
    """The broker as the official image apache/kafka."""

    host = "0.0.0.0"  # inside the container; Docker publishes it on loopback only
    store = "/tmp/server.pem"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # The helper container that would remove ours after a crash of the tests is one more image to pull.
        testcontainers_config.ryuk_disabled = True
        if not docker_answers():
            raise KafkaUnavailableError("no Docker engine answers")
        self._container: Any = DockerContainer(f"apache/kafka:{KAFKA_VERSION}")
        names = {name: name.upper().replace("-", "___").replace(".", "_") for name in self.properties()}
        settings = {f"KAFKA_{names[name]}": value for name, value in self.properties().items()}
        self._container.with_envs(KAFKA_HEAP_OPTS="-Xmx512m -Xms256m", **settings)
        self._container.with_copy_into_container(self._store_here, self.store, 0o644)
        for port in (self.port, self.tls_port, self.sasl_port, self.far_port):
            self._container.ports[f"{port}/tcp"] = ("127.0.0.1", port)
        self._is_made = False

    def start(self) -> Self:
        """Start the node, or start it again with its data; returns once it answers."""
        if self._is_made:
            self._container.get_wrapped_container().start()
        else:
            try:
                self._container.start()
            except DockerException as error:
                self.close()
                raise KafkaUnavailableError(f"Docker does not start apache/kafka:{KAFKA_VERSION}: {error}") from error
            self._is_made = True
        self._wait_until_it_answers()
        return self

    def stop(self) -> None:
        """Stop the node in an orderly way; its data stays."""
        self._container.get_wrapped_container().stop()

    def kill(self) -> None:
        """End the node at once (SIGKILL); its data stays."""
        self._container.get_wrapped_container().kill()
        self._container.get_wrapped_container().wait()

    def pause(self) -> None:
        """Freeze the node: connections stay open, nothing answers."""
        self._container.get_wrapped_container().pause()

    def unpause(self) -> None:
        """Let a frozen node go on."""
        self._container.get_wrapped_container().unpause()

    def pin(self, cores: Collection[int]) -> None:
        """Have the running node use these processor cores only."""
        self._container.get_wrapped_container().update(cpuset_cpus=",".join(map(str, cores)))

    def close(self) -> None:
        """End the node and drop its data."""
        self._container.stop()

    def log(self) -> str:
        """What the node wrote so far."""
        return b"".join(self._container.get_logs()).decode(errors="replace")

    def _has_ended(self) -> bool:
        container = self._container.get_wrapped_container()
        container.reload()
        return container.status in ("exited", "dead")


class JarBroker(Broker):
    """The broker as a Java process, from the jars that Maven fetches once into `.cache/`."""

    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        for command in ("java", "mvn"):
            if shutil.which(command) is None:
                raise KafkaUnavailableError(f"{command} is not here (Java 17 and Maven run Kafka from its jars)")
        super().__init__(folder)
        self.store = str(self._store_here)
        fetch_jars()
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "server.properties"
        settings = {**self.properties(), "log.dirs": str(folder / "data")}
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
        format_log = self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._config))
        subprocess.run(format_log, check=True, capture_output=True)

    def _java(self, *arguments: str) -> list[str]:
        # The serial collector and the first compiler tier: a small broker that starts quickly.
        options = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={LOG4J}"]
        return ["java", *options, "-cp", f"{JARS}/*", *arguments]

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def start(self) -> Self:
        """Start the node, or start it again with its data; returns once it answers."""
        with (self.folder / "broker.log").open("ab") as log:
            # A session of its own: Ctrl-C in the terminal reaches the tests, which then close the broker.
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._config)), stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait_until_it_answers()
        except (ChildProcessError, TimeoutError):
            self.close()
            raise
        return self

    def stop(self) -> None:
        """Stop the node in an orderly way; its data stays."""
        self._signal(signal.SIGTERM)
        if self._process is not None:
            self._process.wait(90)

    def kill(self) -> None:
        """End the node at once (SIGKILL); its data stays."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(30)

    def pause(self) -> None:
        """Freeze the node: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def unpause(self) -> None:
        """Let a frozen node go on."""
        self._signal(signal.SIGCONT)

    def pin(self, cores: Collection[int]) -> None:
        """Have the running node use these processor cores only."""
        if self._process is not None:
            for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)

    def close(self) -> None:
        """End the node and drop its data."""
        self.kill()
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def log(self) -> str:
        """What the node wrote so far."""
        return (self.folder / "broker.log").read_text(encoding="utf-8", errors="replace")

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


def fetch_jars() -> None:
    """Have Maven put Kafka's jars into JARS, unless they are there."""
    if JARS.exists():
        return
    parts = JARS.with_name(f"{JARS.name}.{os.getpid()}")
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
    options = [f"-Dkafka.version={KAFKA_VERSION}", "-DincludeScope=runtime", f"-DoutputDirectory={parts}"]
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", POM, *options, goal], check=False, capture_output=True, text=True, timeout=300
    )
    if done.returncode != 0:
        shutil.rmtree(parts, ignore_errors=True)
        raise KafkaUnavailableError(f"Maven could not fetch Kafka's jars: {done.stdout[-500:]}")
    try:
        parts.rename(JARS)
    except OSError:  # other tests that run beside these were first
        shutil.rmtree(parts)


KINDS: Final[Mapping[str, type[Broker]]] = {"docker": ContainerBroker, "jars": JarBroker}


def start_broker(folder: Path) -> Broker:
    """A running broker of the first kind that works here.

    Raises: KafkaUnavailableError with the reason of each kind.
    """
    reasons = []
    for name in [os.environ["KAFKA_FOR_TESTS"]] if "KAFKA_FOR_TESTS" in os.environ else list(KINDS):
        try:
            return KINDS[name](folder).start()
        except KafkaUnavailableError as error:
            reasons.append(f"{name}: {error}")
    raise KafkaUnavailableError("; ".join(reasons))
