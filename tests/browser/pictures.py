"""Where the browser tests leave pictures of what they saw, for people to look at after a run; not in the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from playwright.sync_api import Page

PICTURES: Final = Path(__file__).parents[2] / "build" / "screenshots"


def keep_picture(page: Page, name: str) -> None:
    """Write what the page shows now to build/screenshots/NAME.png."""
    page.wait_for_timeout(500)  # charts follow the theme one by one
    page.screenshot(path=PICTURES / f"{name}.png")
