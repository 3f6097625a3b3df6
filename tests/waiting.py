"""Waiting for the thing, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

PAUSE_S: Final = 0.1


def eventually(condition: Callable[[], bool], within_s: float, told: Callable[[], str] = str) -> None:
    """Return once the condition holds; after `within_s` fail with what is `told` then."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"not within {within_s:g} s: {told()}"
        time.sleep(PAUSE_S)
