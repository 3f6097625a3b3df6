"""Two ways to start `vitalcast` as a process of its own.

`spawned` runs the command as a user does: 5 s of CPU, nearly all of them for importing torch where it does. `forked`
takes one: it runs the same `main`, in a copy of a process that has imported everything and does nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Final, Protocol

from stream_worker.cli import main

VITALCAST: Final = (sys.executable, "-m", "stream_worker.cli")

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["stream_worker.app", __name__])


class Running(Protocol):
    """A process that was started: the part of `subprocess.Popen` that tests use."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...


Launch = Callable[[Sequence[str], Mapping[str, str], Path, Path, Path], Running]


def spawned(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path, errors: Path
) -> Running:
    """Run `vitalcast` with `arguments` in `folder`; what it writes is added to two files, which may be one."""
    with output.open("ab") as stdout, errors.open("ab") as stderr:
        return subprocess.Popen(
            [*VITALCAST, *arguments],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )


def forked(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path, errors: Path
) -> Running:
    """The same, from the process that has imported everything."""
    return _Fork(arguments, environment, folder, output, errors)


def import_ahead() -> None:
    """Start the process that `forked` copies, which is ready some seconds later."""
    forkserver.ensure_running()


class _Fork:
    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path, errors: Path
    ) -> None:
        # daemon: whoever forgets to end it does not make the tests wait for it
        given = arguments, dict(environment), folder, output, errors
        self._process = _FORKS.Process(target=_run, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired("vitalcast", timeout or 0.0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)


def _run(arguments: Sequence[str], environment: dict[str, str], folder: Path, output: Path, errors: Path) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for standard, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), standard)
    sys.argv = ["vitalcast", *arguments]
    main()
