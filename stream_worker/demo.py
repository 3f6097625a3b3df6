"""`vitalcast demo`: a broker in memory, a worker, patients and the ward in terminal and browser, all ended together.

The worker is the same command that runs in production, as a process of its own; only the broker differs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final, NamedTuple

from rich.console import Console

from schemas.recordings import find_recordings
from stream_worker import watch
from stream_worker.embedded import embedded_broker
from stream_worker.health import PortTakenError, bind
from stream_worker.playback import Playback, PlayState
from stream_worker.replay import replay, tracks_of, with_values
from stream_worker.sender import LagLimit, Sender
from stream_worker.settings import Settings, load_settings
from stream_worker.simulator.feed import admit, history, live, send
from stream_worker.stopping import stop_after, stop_on_signals
from stream_worker.terminal_keys import pressed_keys
from stream_worker.threads import Beside
from stream_worker.view.board import Board
from stream_worker.view.command import address_of, listening
from stream_worker.view.link import Link, page_board
from stream_worker.view.server import serving
from stream_worker.ward_feed import WardFeed
from stream_worker.ward_words import hours

HOST: Final = "127.0.0.1"
HISTORY_MIN: Final = 120.0
ALL_RECORDS: Final = 1_000_000  # of a partition: more than the broker in memory keeps of what was sent meanwhile
# The worker loads torch and the model, joins the group (3 s on the embedded broker) and is ready: about 8 s alone.
READY_WITHIN_S: Final = 90.0
WORKER_PORT: Final = 9464
STOP_WITHIN_S: Final = 3.0  # then it is killed: Ctrl-C promises an end within 5 s


class DemoError(Exception):
    """A part of the demo failed; the message is one line for the user."""


class Demo(NamedTuple):
    """What to show."""

    recordings: Path | None
    patients: int
    speed: float
    port: int | None  # None: WORKER_PORT, or a free one
    seed: int
    model: Path | None
    duration_s: float | None
    page: bool


def run_demo(demo: Demo, console: Console) -> None:
    """Run the demo until Ctrl-C, SIGTERM, or its duration, counted from the worker's start, is over.

    Nothing is left behind but, after a failure, the worker's log.

    Raises: DemoError, RecordingError, SettingsError.
    """
    recordings: list[Path] = []
    if demo.recordings is not None:
        recordings = with_values(find_recordings(demo.recordings))[: demo.patients]
    # Settings for a real broker must not reach into the demo, nor from here into its worker.
    for name in [name for name in os.environ if name.startswith("VITALCAST_")]:
        del os.environ[name]
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals(second_interrupts=False))
        folder = stack.enter_context(_folder())
        topics = ("vitals.readings", "vitals.forecasts", "vitals.alerts", "vitals.dead-letters")
        servers = stack.enter_context(embedded_broker(topics))
        settings = _settings(demo, servers, folder)
        footer = _where_things_are(settings)
        console.print("\n".join(footer), soft_wrap=True)
        playback = Playback(demo.speed, start_s=HISTORY_MIN * 60) if recordings else None
        feeder = stack.enter_context(closing(_Feeder(demo, recordings, playback, settings, stop)))
        worker = stack.enter_context(closing(_Worker(settings, folder)))
        keys = stack.enter_context(pressed_keys())

        def check() -> None:
            feeder.check()
            worker.check()
            if playback is not None:
                turn(playback, keys())

        with console.status("Starting the worker: loading the model, joining the group"):
            worker.wait_until_ready(stop, check)
        stack.enter_context(stop_after(demo.duration_s, stop))
        feed = stack.enter_context(closing(WardFeed(settings, ALL_RECORDS)))
        # The live page is served from here, beside the table and from the same ward.
        ward = page_board(settings)
        if demo.page:
            address = stack.enter_context(_page(settings, ward, playback))
            console.print(f"Live page: {address}")
            footer = [f"Live page: {address}", *footer]

        def foot() -> list[str]:
            return footer if playback is None else [replay_line(playback.state), *footer]

        stack.callback(worker.ask_to_end)  # before all else, which ends beside it
        watch.show(ward, feed, stop, console=console, footer=foot, check=check)
    readings, forecasts = feed.read[settings.readings_topic], feed.read[settings.forecasts_topic]
    console.print(f"Ended after {readings} readings, {forecasts} forecasts.")


def turn(playback: Playback, keys: str) -> None:
    """What the keys of the live page do too: P, + and -."""
    for key in keys:
        match key:
            case "p" | "P":
                (playback.pause if playback.state.is_playing else playback.play)()
            case "+" | "=":
                playback.faster()
            case "-":
                playback.slower()


def replay_line(state: PlayState) -> str:
    """How the replay stands, and what turns it."""
    how = "ended" if state.has_ended else "playing" if state.is_playing else "PAUSED"
    return f"Recording {hours(state.at_s)} · {how} at {state.speed:g}× · keys: P pause or play, + faster, - slower"


@contextmanager
def _page(settings: Settings, board: Board, playback: Playback | None) -> Iterator[str]:
    """The live page, at its usual port or, if that is taken, at a free one; yields its address."""
    try:
        bound = listening(settings, settings.view_port)
    except PortTakenError:
        bound = listening(settings, 0)
    with bound, serving(settings, board, Link(), bound, playback):
        yield address_of(settings.view_host, bound.getsockname()[1])


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for the worker's settings and log; kept if the worker fails, so that its log can be read."""
    folder = Path(mkdtemp(prefix="vitalcast-demo-"))
    is_kept = False
    try:
        yield folder
    except DemoError:
        is_kept = True
        raise
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def _settings(demo: Demo, servers: str, folder: Path) -> Settings:
    """The demo's settings, written to the file that the worker reads too.

    Raises: SettingsError, PortTakenError if the port that was asked for is.
    """
    try:
        bound = bind(HOST, WORKER_PORT if demo.port is None else demo.port)
    except PortTakenError as error:
        if demo.port is not None:
            raise PortTakenError(f"--port {demo.port} is taken; leave it out, and a free one is used") from error
        bound = bind(HOST, 0)
    with bound:
        port = bound.getsockname()[1]
    values: Mapping[str, Any] = {
        "bootstrap_servers": servers,
        # The embedded broker loses offsets in transactions. A crash of the worker may repeat forecasts here.
        "delivery": "at_least_once",
        "http_host": HOST,
        "http_port": port,
        **({} if demo.model is None else {"model": str(demo.model.resolve())}),
    }
    path = _config(folder)
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()), encoding="utf-8")
    return load_settings(path)


def _config(folder: Path) -> Path:
    return folder / "vitalcast.toml"


def _where_things_are(settings: Settings) -> list[str]:
    """In lines, for the start and for the foot of the live table."""
    return [
        f"Kafka {settings.bootstrap_servers} (topics vitals.*) · metrics http://{HOST}:{settings.http_port}/metrics",
        "at_least_once: the broker in memory gives no crash guarantee · Ctrl-C ends",
    ]


class _Worker:
    """The worker's process and its log."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._health = f"http://{HOST}:{settings.http_port}/health/ready"
        self._log = folder / "worker.log"
        command = [sys.executable, "-m", "stream_worker.tethered", "worker", "--config", str(_config(folder))]
        environment = {**os.environ, "TMPDIR": str(folder)}  # what the worker leaves there goes with the folder
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches the demo alone, which then ends the worker in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,  # held open: the worker ends when this process does, however it does
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises: DemoError if the worker has ended."""
        code = self._process.poll()
        if code is None:
            return
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        reasons = [line for line in lines if line.startswith("vitalcast: ")]
        reason = reasons[-1].removeprefix("vitalcast: ") if reasons else f"exit code {code}"
        raise DemoError(f"the worker ended: {reason} (its log: {self._log})")

    def wait_until_ready(self, stop: threading.Event, check: Callable[[], None]) -> None:
        """Return once it is ready, or `stop` is set. Raises: DemoError if it ends or takes too long."""
        end = time.monotonic() + READY_WITHIN_S
        while not stop.wait(0.2) and not self._is_ready():
            check()
            if time.monotonic() > end:
                raise DemoError(f"the worker was not ready within {READY_WITHIN_S:.0f} s; its log is {self._log}")

    def ask_to_end(self) -> None:
        """Let it finish its work in hand and leave."""
        self._process.terminate()

    def close(self) -> None:
        """Return once it has left; kill it if that takes too long."""
        self.ask_to_end()
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self._health, timeout=2):  # noqa: S310 - loopback
                return True
        except (urllib.error.URLError, OSError):
            return False


class _Feeder:
    """Patients or recordings, sent by a thread, held back at the worker's lag."""

    def __init__(
        self,
        demo: Demo,
        recordings: Sequence[Path],
        playback: Playback | None,
        settings: Settings,
        stop: threading.Event,
    ) -> None:
        self._demo = demo
        self._recordings = recordings
        self._playback = playback
        self._stop = stop
        self._sender = Sender(settings, LagLimit(settings, stop))
        self._thread = Beside("feeder", self._run)
        self._thread.start()

    def check(self) -> None:
        """Raises: what stopped the feeder, if anything did."""
        if self._thread.fault is not None:
            raise self._thread.fault

    def close(self) -> None:
        """Stop sending."""
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        if self._recordings:
            tracks = tracks_of(self._recordings, "begin_together")
            replay(tracks, self._sender, playback=self._playback, stop=self._stop)
        else:
            self._simulate()

    def _simulate(self) -> None:
        start = time.time()
        ward = admit(self._demo.patients, seed=self._demo.seed, start=start)
        send(history(ward, until=start, minutes=HISTORY_MIN), self._sender, self._stop)
        send(live(ward, start=start, rate=1.0), self._sender, self._stop)
