"""Three brokers, each record on all of them, and one is killed: the worker goes on with the two others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import WorkerStarter, missing_tool
from tests.fault.supervised import assert_no_trace
from tests.kafka_broker import JarBroker, free_port
from tests.kafka_client import Topics, create_topics, produce, read_committed
from tests.patients import ward
from tests.worker_process import run_vitalcast

STAYS, MINUTES, NODES = 20, 300, 3


class Node(JarBroker):
    """One of several nodes. Jars, not containers: the nodes find each other on loopback."""

    def __init__(self, folder: Path, number: int, controllers: Mapping[int, int]) -> None:
        self._number, self._controllers = number, controllers
        super().__init__(folder)

    def properties(self) -> Mapping[str, str]:
        """The node's settings: everything three times, and two must have it."""
        self._controller_port = self._controllers[self._number]
        voters = (f"{number}@127.0.0.1:{port}" for number, port in self._controllers.items())
        replicated = {
            f"{topic}.{setting}": value
            for topic in ("transaction.state.log", "share.coordinator.state.topic")
            for setting, value in (("replication.factor", "3"), ("min.isr", "2"))
        }
        return {
            **super().properties(),
            "node.id": str(self._number),
            "controller.quorum.voters": ",".join(voters),
            "offsets.topic.replication.factor": "3",
            **replicated,
        }


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    """Three running nodes."""
    for command in ("java", "mvn"):
        if shutil.which(command) is None:
            missing_tool(command, "Java 17 and Maven run Kafka from its jars")
    controllers = {number: free_port() for number in range(1, NODES + 1)}
    made: list[Node] = []
    try:
        for number in controllers:
            folder = tmp_path / f"node-{number}"
            folder.mkdir()
            made.append(Node(folder, number, controllers))
        with ThreadPoolExecutor(NODES) as pool:  # none answers before two have started
            list(pool.map(Node.start, made))
        yield made
    finally:
        for node in made:
            node.close()


@pytest.mark.timeout(500)
def test_one_of_three_brokers_that_dies_leaves_no_trace(
    nodes: list[Node], start_worker: WorkerStarter, tmp_path: Path
) -> None:
    servers, sent = ",".join(node.bootstrap_servers for node in nodes), list(ward(STAYS, MINUTES))
    topics, reference = Topics.unique(), Topics.unique()
    for made in (topics, reference):
        settings = {"bootstrap_servers": servers, **made.settings}
        created = run_vitalcast("topics", "create", folder=tmp_path, settings=settings)
        assert created.returncode == 0, created.stderr
        assert "warning" not in created.stdout  # three replicas
    create_topics(servers, "thin")
    checked = run_vitalcast("topics", "check", folder=tmp_path, settings={**settings, "forecasts_topic": "thin"})
    assert "topic thin: 1 replica," in " ".join(checked.stdout.split())
    half = len(sent) // 2
    produce(servers, topics.readings, sent[:half])
    worker = start_worker(bootstrap_servers=servers, **topics.settings, chunk_records=32, session_timeout_s=6)
    found = read_committed(servers, topics.forecasts, until=lambda found: len(found) > 0)
    assert len(found) < half, "all is done before it dies"
    nodes[1].kill()
    produce(servers, topics.readings, sent[half:])
    assert_no_trace(worker, start_worker, servers, topics, reference, sent=len(sent), stays=STAYS, timeout_s=120)
    worker.close()
