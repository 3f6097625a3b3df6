"""A worker under a supervisor while something fails beside it, and the run that nobody disturbed to compare it with."""

from __future__ import annotations

import time

from tests.conftest import WorkerStarter
from tests.fault.undisturbed import assert_same_outputs, assert_same_state
from tests.kafka_client import Topics, read_committed
from tests.worker_process import WorkerProcess


def supervise(worker: WorkerProcess) -> None:
    """What a supervisor does: start the worker again if it has ended."""
    if not worker.is_running:
        assert worker.wait() == 1
        assert "stopped_by_failure" in worker.log
        worker.start()


def supervise_until_done(worker: WorkerProcess, servers: str, topics: Topics, sent: int, timeout_s: float) -> None:
    """Supervise until all that was `sent` has its forecast, or for `timeout_s`: the comparison says what is missing."""
    end = time.monotonic() + timeout_s
    while len(read_committed(servers, topics.forecasts)) < sent and time.monotonic() < end:
        supervise(worker)
        time.sleep(0.5)


def assert_no_trace(
    start_worker: WorkerStarter, servers: str, topics: Topics, reference: Topics, *, sent: int, stays: int
) -> None:
    """Outputs and state are those of another worker, which writes to `reference` and is not disturbed.

    sent : readings, each of which leaves a forecast. stays : how many have state.
    """
    start_worker(bootstrap_servers=servers, **{**reference.settings, "readings_topic": topics.readings})
    read_committed(servers, reference.forecasts, until=lambda found: len(found) >= sent, timeout_s=120)
    assert assert_same_outputs(servers, topics, reference)["forecasts"] == sent
    assert assert_same_state(servers, topics, reference) == stays
