"""Fixtures of the browser tests: one Chromium for all, a served ward and a page of it for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.browser.chromium import chromium, chromium_path
from tests.browser.ward import Served, served
from tests.conftest import missing_tool

PATIENCE_MS = 30_000  # a loaded machine is slow to draw
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; without it the test is skipped, and in CI it fails."""
    if chromium_path() is None:
        missing_tool("chromium", "apt-get install chromium")
    with chromium() as running:
        yield running


@pytest.fixture
def live() -> Iterator[Served]:
    """A served ward, empty, whose worker lives."""
    with served() as ward, ward.worker():
        yield ward


@pytest.fixture
def page(browser: Browser, live: Served) -> Iterator[Page]:
    """A page of the ward. The test fails if the browser has anything to complain about."""
    context = browser.new_context(viewport={"width": 1600, "height": 900}, locale="en-GB", timezone_id="Europe/Zurich")
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    opened.on("console", note)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(live.address)
    yield opened
    context.close()
    assert complaints == []
