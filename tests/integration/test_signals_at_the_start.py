"""Signals that come while the worker is still starting, which takes seconds, as a user starts it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.conftest import WorkerStarter
from tests.launch import Launch, spawned
from tests.waiting import eventually
from tests.worker_process import WorkerProcess


@pytest.fixture
def launch() -> Launch:
    return spawned  # the imports are what takes the time


def is_importing(worker: WorkerProcess) -> bool:
    return "libtorch_cpu" in Path(f"/proc/{worker.pid}/maps").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_start_is_a_stop(start_worker: WorkerStarter, number: signal.Signals) -> None:
    worker = start_worker(ready_within_s=None)
    eventually(lambda: is_importing(worker), within_s=60)
    worker.signal(number)
    assert worker.wait() == 0, worker.log
    assert "Traceback" not in worker.log


def test_a_hang_up_during_the_start_waits_for_its_end(start_worker: WorkerStarter) -> None:
    worker = start_worker(ready_within_s=None)
    eventually(lambda: is_importing(worker), within_s=60)
    worker.hang_up()
    worker.wait_ready()
    eventually(lambda: "model_unchanged" in worker.log, within_s=30, told=lambda: worker.log[-2000:])
