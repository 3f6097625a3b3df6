"""Fixtures for all tests: a real Kafka broker, topics of one's own, workers, and recordings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest

from tests.kafka_broker import Broker, KafkaUnavailableError, start_broker
from tests.kafka_client import Topics
from tests.launch import Launch, forked, import_ahead
from tests.worker_process import WorkerProcess

hypothesis.settings.register_profile("default", deadline=None)  # an example takes as long as a busy machine lets it
SHARED = Path(__file__).parents[2] / "shared"  # recordings and the acceptance check; not everybody has it
NEEDS_KAFKA = {"kafka", "own_kafka", "topics", "start_worker"}
WorkerStarter = Callable[..., WorkerProcess]


def pytest_xdist_auto_num_workers() -> int:
    """Processes for `-n auto`: one more than cores, as most tests wait; not too many, as each starts a broker."""
    return min((os.cpu_count() or 1) + 1, 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a broker, so that `-m "not kafka"` is the quick half of the tests; give others more time."""
    for item in items:
        if "property" in item.path.parts:
            item.add_marker(pytest.mark.timeout(600))  # shrinking, which takes minutes, ends with the example
        if NEEDS_KAFKA.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


def missing_tool(name: str, package: str) -> NoReturn:
    """Skip the test that needs the program `name`; in CI, where it must be, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"CI needs {name} ({package})", pytrace=False)
    pytest.skip(f"{name} is not here ({package})")


def missing_data(what: str, folder: Path) -> NoReturn:
    """Skip the test that needs `what` of the shared folder; in CI, if that folder is there, fail."""
    if os.environ.get("CI") and SHARED.is_dir():
        pytest.fail(f"CI needs {what} in {folder}", pytrace=False)
    pytest.skip(f"no {what} in {folder}")


def _broker(folder: Path) -> Iterator[Broker]:
    try:
        broker = start_broker(folder)
    except KafkaUnavailableError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the tests on a real Kafka: {error}", pytrace=False)
        pytest.skip(f"no real Kafka here: {error}")
    try:
        yield broker
    finally:
        broker.close()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker that all tests share: leave it running, and use topics of your own."""
    import_ahead()
    yield from _broker(tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="module")
def _frail_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from _broker(tmp_path_factory.mktemp("own-kafka"))


@pytest.fixture
def own_kafka(_frail_kafka: Broker) -> Broker:
    """A broker that a test may stop, kill or pause: it runs again for the next one of its module."""
    _frail_kafka.revive()
    return _frail_kafka


@pytest.fixture
def topics(kafka: Broker) -> Topics:
    """The topics of one worker, made on the shared broker, 4 partitions each."""
    return Topics.unique().create(kafka.bootstrap_servers)


@pytest.fixture
def launch() -> Launch:
    """How `start_worker` starts them."""
    return forked


@pytest.fixture
def start_worker(kafka: Broker, topics: Topics, tmp_path: Path, launch: Launch) -> Iterator[WorkerStarter]:
    """Starts workers on `topics` of the shared broker: start_worker(grace_s=0) and so on, settings by name."""
    workers: list[WorkerProcess] = []

    def start(ready_within_s: float | None = 90, **settings: Any) -> WorkerProcess:
        folder = tmp_path / f"worker-{len(workers)}"
        folder.mkdir()
        known: Mapping[str, Any] = {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings}
        workers.append(WorkerProcess(folder, {**known, **settings}, launch=launch))
        return workers[-1].start(ready_within_s)

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings that RECORDINGS names; tests that can do without use synthetic ones instead."""
    folder = Path(os.environ.get("RECORDINGS", "../shared/data/icu/cinc2009"))
    if not any(folder.glob("*.csv.gz")):
        missing_data("recordings (RECORDINGS=DIR names others)", folder)
    return folder
