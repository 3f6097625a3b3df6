"""A worker under a supervisor while something fails beside it, and the run that nobody disturbed to compare it with."""

from __future__ import annotations

from contextlib import suppress

from tests.conftest import WorkerStarter
from tests.fault.undisturbed import assert_same_outputs, assert_same_state
from tests.kafka_client import Message, Topics, read_committed
from tests.worker_process import WorkerProcess


def supervise(worker: WorkerProcess) -> None:
    """What a supervisor does: start the worker again if it has ended."""
    if not worker.is_running:
        assert worker.wait() == 1
        assert "stopped_by_failure" in worker.log
        worker.start()


def assert_no_trace(
    worker: WorkerProcess,
    start_worker: WorkerStarter,
    servers: str,
    topics: Topics,
    reference: Topics,
    *,
    sent: int,
    stays: int,
    timeout_s: float,
) -> None:
    """What failed is well again: the worker, supervised, takes all that was `sent`, and nothing tells of the failure.

    Outputs and state are those of another worker, which begins now, writes to `reference` and is not disturbed.
    sent : readings, each of which leaves a forecast. stays : how many have state. timeout_s : for the worker.
    """
    others = {**reference.settings, "readings_topic": topics.readings}
    undisturbed = start_worker(None, bootstrap_servers=servers, **others)

    def is_done(found: list[Message]) -> bool:
        supervise(worker)
        return len(found) >= sent

    with suppress(TimeoutError):  # the comparison says what is missing
        read_committed(servers, topics.forecasts, until=is_done, timeout_s=timeout_s)
    undisturbed.wait_ready()
    read_committed(servers, reference.forecasts, until=lambda found: len(found) >= sent, timeout_s=120)
    assert assert_same_outputs(servers, topics, reference)["forecasts"] == sent
    assert assert_same_state(servers, topics, reference) == stays
