"""`vitalcast worker` as a process of its own: started, asked, ended in order or by SIGKILL, always cleaned up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from tests.kafka_broker import free_port
from tests.launch import Launch, Running, forked


def settings_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """This process's environment without its own VITALCAST_ variables, and `settings` as such variables."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("VITALCAST_")}
    return plain | {f"VITALCAST_{name.upper()}": str(value) for name, value in settings.items()}


def run_vitalcast(
    *arguments: str,
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    timeout_s: float = 120,
    launch: Launch = forked,
) -> subprocess.CompletedProcess[str]:
    """Run one command of `vitalcast` to its end, in `folder`, so that no vitalcast.toml of the developer's is read.

    Raises: subprocess.TimeoutExpired.
    """
    environment = settings_environment({"http_port": free_port(), "log_format": "json", **(settings or {})})
    with TemporaryDirectory() as kept:
        output, errors = Path(kept) / "output", Path(kept) / "errors"
        running = launch(arguments, environment, folder, output, errors)
        try:
            code = running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.wait()
            raise
        said, complained = (file.read_text(encoding="utf-8") for file in (output, errors))
    return subprocess.CompletedProcess(arguments, code, said, complained)


class WorkerProcess:
    """One worker on loopback. Its output of all starts is in `log`."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], arguments: Sequence[str] = (), *, launch: Launch = forked
    ) -> None:
        self.folder = folder
        self.settings = {"http_port": free_port(), "log_format": "json", **settings}
        self.arguments = arguments
        self._launch = launch
        self._log_file = folder / "worker.log"
        self._process: Running | None = None

    @property
    def url(self) -> str:
        """Where its HTTP server answers."""
        return f"http://127.0.0.1:{self.settings['http_port']}"

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._running().pid

    def _running(self) -> Running:
        if self._process is None:
            raise RuntimeError("the worker was not started")
        return self._process

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, ready_within_s: float | None = 90) -> Self:
        """Start it, for the first time or again; returns once it is ready (None: at once)."""
        command = ["worker", *self.arguments]
        environment = settings_environment(self.settings)
        self._process = self._launch(command, environment, self.folder, self._log_file, self._log_file)
        if ready_within_s is not None:
            self.wait_ready(ready_within_s)
        return self

    def wait_ready(self, timeout_s: float = 90) -> None:
        """Return once /health/ready says so; raises with the log's end if it does not, or if the worker exits."""
        end = time.monotonic() + timeout_s
        while self.status("/health/ready") != 200:
            if (code := self._running().poll()) is not None:
                raise RuntimeError(f"the worker exited with code {code}:\n{self.log[-4000:]}")
            if time.monotonic() > end:
                raise TimeoutError(f"the worker was not ready within {timeout_s:.0f} s:\n{self.log[-4000:]}")
            time.sleep(0.1)

    def status(self, path: str) -> int:
        """The HTTP status of `path`; 0 if nothing answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                code: int = answer.status
                return code
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    def metrics(self) -> str:
        """What /metrics says, in the text format."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def metric(self, series: str) -> float:
        """The value of a series, or the sum of all of a metric; 0 if there is none."""
        return sum_of(self.metrics(), series)

    def wait(self, timeout_s: float = 60) -> int:
        """Wait until it exits by itself; its exit code (negative: the signal that ended it)."""
        return self._running().wait(timeout_s)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._running().send_signal(number)

    def terminate(self, timeout_s: float = 60) -> int:
        """Ask it to end (SIGTERM) and wait; its exit code."""
        self._running().send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._running().send_signal(signal.SIGKILL)
        self.wait()

    def hang_up(self) -> None:
        """SIGHUP: it reads its artifacts again."""
        self._running().send_signal(signal.SIGHUP)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): a zombie of its group after its session timeout."""
        self._running().send_signal(signal.SIGSTOP)

    def unpause(self) -> None:
        """Let a frozen worker go on."""
        self._running().send_signal(signal.SIGCONT)

    def restart(self) -> Self:
        """End it in order, then start it again."""
        self.terminate()
        return self.start()

    def close(self) -> None:
        """Make sure that it is gone; no error if it never ran or has ended."""
        if self.is_running:
            self.kill()

    @property
    def log(self) -> str:
        """All it wrote, of all its starts."""
        return self._log_file.read_text(encoding="utf-8", errors="replace") if self._log_file.exists() else ""


def sum_of(metrics: str, series: str) -> float:
    """The same in what /metrics said."""
    return sum(values_of(metrics, series))


def values_of(metrics: str, series: str) -> list[float]:
    """The values of a series, or of all of a metric, in what /metrics said."""
    return [float(value) for value in re.findall(rf"^{re.escape(series)}(?:{{[^}}]*}})? (\S+)$", metrics, re.MULTILINE)]


def refusal(folder: Path, settings: Mapping[str, Any], *arguments: str, code: int = 1, launch: Launch = forked) -> str:
    """The one line with which the worker refuses to start."""
    done = run_vitalcast("worker", *arguments, folder=folder, settings=settings, launch=launch)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    # Before it come only the worker's own log lines, as JSON.
    told = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("{")]
    assert len(told) == 1, done.stderr
    return told[0]
