"""The broker's disk is full: it halts, and once there is room again nothing is lost or doubled."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import docker
import pytest

from tests.conftest import WorkerStarter
from tests.fault.feed import Feed
from tests.fault.supervised import assert_no_trace
from tests.kafka_broker import KAFKA_VERSION, ContainerBroker, docker_answers
from tests.kafka_client import Topics, read_committed
from tests.patients import ward

STAYS, MINUTES = 20, 150
FED_PER_S = 100  # for longer than it takes to fill the disk
SESSION_TIMEOUT_S = 4
DISK_BYTES: Final = 64 << 20  # several times what the test writes
LEFT_BYTES: Final = 256 << 10  # filled up by the test's own records within about a second
FOLDER: Final = "/small"


class SmallDiskBroker(ContainerBroker):
    """A broker whose data lie on a small file system of their own, in memory, which needs no rights on this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._client: Any = docker.from_env()
        options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={DISK_BYTES},mode=1777"}
        self._disk: Any = self._client.volumes.create(driver_opts=options)
        # A file system in memory goes with its last user, and must outlast the broker: so there is another.
        self._holder: Any = self._client.containers.run(
            f"apache/kafka:{KAFKA_VERSION}", ["infinity"], entrypoint="sleep", volumes=self._mount(), detach=True
        )
        self._container.with_volume_mapping(self._disk.name, FOLDER, "rw")

    def _mount(self) -> Mapping[str, Mapping[str, str]]:
        return {self._disk.name: {"bind": FOLDER, "mode": "rw"}}

    def properties(self) -> Mapping[str, str]:
        """The node's settings."""
        return {**super().properties(), "log.dirs": f"{FOLDER}/data"}

    def _on_disk(self, command: str) -> None:
        code, output = self._holder.exec_run(["sh", "-c", command])
        assert code == 0, output

    def fill(self) -> None:
        """Leave no more than LEFT_BYTES."""
        self._on_disk(f"head -c $(($(stat -f -c '%a * %S' {FOLDER}) - {LEFT_BYTES})) /dev/zero > {FOLDER}/filler")

    def make_room(self) -> None:
        """Remove what filled it."""
        self._on_disk(f"rm {FOLDER}/filler")

    def wait_until_it_halts(self, timeout_s: float) -> None:
        """Wait until the node has ended by itself."""
        self._container.get_wrapped_container().wait(timeout=timeout_s)

    def close(self) -> None:
        """End the node and drop its data."""
        super().close()
        self._holder.remove(force=True, v=True)
        self._disk.remove()
        self._client.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDiskBroker]:
    """A running broker on a small file system."""
    if os.environ.get("KAFKA_FOR_TESTS") == "jars" or not docker_answers():
        pytest.skip("without Docker a small file system needs root")
    broker = SmallDiskBroker(tmp_path)
    try:
        yield broker.start()
    finally:
        broker.close()


@pytest.mark.timeout(400)
def test_a_broker_whose_disk_was_full_leaves_no_trace(small_disk: SmallDiskBroker, start_worker: WorkerStarter) -> None:
    servers, sent = small_disk.bootstrap_servers, list(ward(STAYS, MINUTES))
    topics, reference = Topics.unique().create(servers), Topics.unique().create(servers)
    worker = start_worker(
        bootstrap_servers=servers, **topics.settings, chunk_records=64, session_timeout_s=SESSION_TIMEOUT_S
    )
    with Feed(servers, topics.readings, sent, per_s=FED_PER_S):
        read_committed(servers, topics.forecasts, until=lambda found: len(found) >= len(sent) // 10)
        small_disk.fill()
        small_disk.wait_until_it_halts(60)
        assert "all log dirs in /small/data have failed" in small_disk.log()
        time.sleep(SESSION_TIMEOUT_S + 1)
        small_disk.make_room()
        small_disk.start()
        assert len(read_committed(servers, topics.forecasts)) < len(sent), "it was full too late to harm"
    assert_no_trace(worker, start_worker, servers, topics, reference, sent=len(sent), stays=STAYS, timeout_s=100)
