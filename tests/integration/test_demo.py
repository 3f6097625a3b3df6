"""`vitalcast demo` as a user starts it, without a terminal: forecasts within a minute, and a clean end."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stream_worker.demo import READY_WITHIN_S
from tests.kafka_broker import free_port
from tests.launch import VITALCAST, spawned
from tests.waiting import eventually
from tests.worker_process import run_vitalcast, settings_environment

WITHIN_S = READY_WITHIN_S + 30  # what the demo allows its worker for getting ready, and then some
pytestmark = pytest.mark.timeout(300)


class DemoProcess:
    """A running demo; its output is in `lines`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._output = folder / "demo.out"
        self.port = free_port()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*VITALCAST, "demo", "--port", str(self.port), *arguments],
                cwd=folder,
                env=settings_environment({}) | {"TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait_for(self, words: str) -> None:
        eventually(lambda: words in self.output() or self.has_ended, WITHIN_S, self.output)
        assert words in self.output()

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def children(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[DemoProcess]:
    running = DemoProcess(tmp_path, "--patients", "3")
    yield running
    if not running.has_ended:
        running.process.terminate()
        running.process.wait(30)


def test_the_demo_shows_forecasts_and_ends_cleanly(demo: DemoProcess, tmp_path: Path) -> None:
    demo.wait_for("from vitals.forecasts")
    demo.wait_for("worker running, 4 partitions")
    assert "3 beds" in demo.output()
    assert "at_least_once" in demo.output()
    assert f"http://127.0.0.1:{demo.port}/metrics" in demo.output()
    (address,) = re.findall(r"Live page: (http://127\.0\.0\.1:\d+/)", demo.output())
    with urllib.request.urlopen(address, timeout=30) as page:
        assert b"Vitalcast" in page.read()
    children = demo.children()
    assert children, "the worker is a process of its own"

    asked = time.monotonic()
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(60) == 0, demo.output()
    assert time.monotonic() - asked < 30  # a second or two where the machine is idle
    assert [child for child in children if child.is_running()] == []
    assert not list(tmp_path.glob("vitalcast-*")), "nothing is left behind"
    assert "Traceback" not in demo.output()


def test_the_worker_of_a_killed_demo_ends_too(demo: DemoProcess) -> None:
    demo.wait_for("from vitals.forecasts")
    children = demo.children()
    demo.process.kill()
    demo.process.wait(30)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_a_demo_whose_worker_dies_says_so_and_keeps_its_log(demo: DemoProcess, tmp_path: Path) -> None:
    demo.wait_for("from vitals.forecasts")
    for child in demo.children():
        child.kill()
    assert demo.process.wait(WITHIN_S) == 1
    (log,) = tmp_path.glob("vitalcast-demo-*/worker.log")
    assert f"the worker ended: exit code -9 (its log: {log})" in demo.output().splitlines()[-1]


def test_keys_in_the_terminal_turn_a_replay(recordings: Path, tmp_path: Path) -> None:
    command = [*VITALCAST, "demo", "--recordings", str(recordings.resolve()), "--patients", "2", "--port", "0"]
    shown = tmp_path / "terminal.out"

    def screen() -> str:
        return shown.read_text(encoding="utf-8", errors="replace")

    def wait_for(words: str) -> None:
        eventually(lambda: words in screen(), WITHIN_S, lambda: screen()[-4000:])

    terminal = {"SHELL": "/bin/sh", "TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    with shown.open("wb") as output:
        # util-linux's `script` gives it a terminal, whose keys are what it reads itself. `exec`, because a shell
        # that stays in between would end by Ctrl-C too, with a code of its own.
        demo = subprocess.Popen(
            ["script", "-qec", f"exec {shlex.join([*command, '--no-page'])}", "/dev/null"],
            cwd=tmp_path,
            env=settings_environment({}) | {"TMPDIR": str(tmp_path), **terminal},
            stdin=subprocess.PIPE,
            stdout=output,
        )
    with demo:
        assert demo.stdin is not None
        wait_for("playing at 60×")
        for keys, words in ((b"p", "PAUSED at 60×"), (b"++", "PAUSED at 600×"), (b"P-", "playing at 200×")):
            demo.stdin.write(keys)
            demo.stdin.flush()
            wait_for(words)
        demo.stdin.write(b"\x03")  # Ctrl-C
        demo.stdin.flush()
        assert demo.wait(30) == 0
    assert not list(tmp_path.glob("vitalcast-*")), "nothing is left behind"


def test_a_demo_of_recordings_ends_after_its_duration(recordings: Path, tmp_path: Path) -> None:
    options = (
        "--recordings",
        str(recordings.resolve()),
        "--patients",
        "4",
        "--speed",
        "120",
        "--duration",
        "15",
        "--no-page",
    )
    command = ("demo", "--port", "0", *options)
    result = run_vitalcast(*command, folder=tmp_path, timeout_s=WITHIN_S + 60, launch=spawned)
    assert result.returncode == 0, result.stderr
    assert "BEHIND THE CLOCK" in result.stdout
    assert "Live page" not in result.stdout
    assert "from vitals.forecasts" in result.stdout
