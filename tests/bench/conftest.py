"""Benchmarks measure the command as a user starts it."""

from __future__ import annotations

import pytest

from tests.launch import Launch, spawned


@pytest.fixture
def launch() -> Launch:
    """How `start_worker` starts them."""
    return spawned
