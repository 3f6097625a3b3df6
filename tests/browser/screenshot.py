"""Pictures of the live page, made from the running system: a broker in memory, the worker, patients, the page.

`python -m tests.browser.screenshot FILE` writes the ward as the README shows it; with `--all` also the bed page and
the light theme, beside it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, Page

from stream_worker.embedded import embedded_broker
from stream_worker.sender import LagLimit, Sender
from stream_worker.settings import load_settings
from stream_worker.simulator.feed import Moment, admit, history, send
from tests.browser.chromium import chromium
from tests.launch import VITALCAST
from tests.worker_process import WorkerProcess, settings_environment

TOPICS: Final = ("vitals.readings", "vitals.forecasts", "vitals.alerts", "vitals.dead-letters")
MINUTES: Final = 150.0
ILL_FOR_S: Final = 11 * 60.0  # by then the patients' episodes are at their height
COLOURS: Final = 128  # no eye tells it from all, at a third of the size
SILENT_BED: Final = "bed-06"
SILENT_FOR_S: Final = 18 * 60.0


def moments(patients: int, now: float) -> Iterator[Moment]:
    """The last hours of a ward that is ill by now, one reading a minute; one bed stopped sending."""
    ward = admit(patients, seed=4, start=now - ILL_FOR_S)
    for at, patient in history(ward, until=now + 1, minutes=MINUTES):
        if patient.stay_id != SILENT_BED or at < now - SILENT_FOR_S:
            yield at, patient


@contextmanager
def live_page(patients: int) -> Iterator[str]:
    """The address of a page whose ward has settled."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        servers = stack.enter_context(embedded_broker(TOPICS))
        values = {"bootstrap_servers": servers, "delivery": "at_least_once"}
        worker = WorkerProcess(folder, values).start()
        stack.callback(worker.close)
        stop = threading.Event()
        settings = load_settings(None, **values)
        sender = Sender(settings, LagLimit(settings, stop))
        send(moments(patients, time.time()), sender, stop)
        sender.close()
        page = subprocess.Popen(
            [*VITALCAST, "view", "--port", "0"],
            env=settings_environment(values) | {"PYTHONUNBUFFERED": "1"},
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(page.wait)
        stack.callback(page.terminate)
        found = re.search(r"http://\S+", page.stdout.readline() if page.stdout else "")
        if found is None:
            raise RuntimeError("the page did not start")
        yield found[0]


def take(browser: Browser, address: str, target: Path, scheme: str, *, bed: bool = False) -> None:
    """Write one picture."""
    context = browser.new_context(
        viewport={"width": 1600, "height": 860},
        color_scheme="dark" if scheme == "dark" else "light",
        locale="en-GB",
        timezone_id="Europe/Zurich",
    )
    page = context.new_page()
    page.goto(address)
    _wait_until_settled(page)
    if bed:
        page.locator(".tile").first.click()
        page.wait_for_selector(".plot .main-svg")
        page.locator(".life").first.locator("summary").click()
        page.wait_for_timeout(3000)
    picture = Image.open(BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(COLOURS).save(target, optimize=True)
    context.close()


def _wait_until_settled(page: Page) -> None:
    page.wait_for_selector(".tile.high, .tile.medium", timeout=60_000)
    page.wait_for_timeout(12_000)  # the sparklines of all beds were renewed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--all", action="store_true", help="also the bed page and the light theme")
    parser.add_argument("--patients", type=int, default=8)
    wanted = parser.parse_args()
    with live_page(wanted.patients) as address, chromium() as browser:
        take(browser, address, wanted.target, "dark")
        if wanted.all:
            for scheme, bed in (("light", False), ("dark", True), ("light", True)):
                name = f"{wanted.target.stem}-{'bed-' if bed else ''}{scheme}.png"
                take(browser, address, wanted.target.with_name(name), scheme, bed=bed)


if __name__ == "__main__":
    main()
