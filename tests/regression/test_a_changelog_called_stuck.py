"""From 5 min on, every 7 s, an error line for each changelog partition: Faust expects them to be fetched for ever."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from stream_worker.chunks.fetching import FetchThread


def test_faust_watches_over_no_partition_that_is_not_fetched(caplog: pytest.LogCaptureFixture) -> None:
    thread: Any = FetchThread.__new__(FetchThread)
    state = SimpleNamespace(timestamp=None)
    assignment = SimpleNamespace(active=True, state_value=lambda _partition: state)
    subscriptions = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
    thread._consumer = SimpleNamespace(_fetcher=SimpleNamespace(_subscriptions=subscriptions))
    thread.log = logging.getLogger("faust")
    thread.time_started, thread.tp_fetch_request_timeout_secs = 0.0, 300.0
    changelog = TP("vitalcast-stays-changelog", 0)

    async def look() -> None:
        thread.verify_event_path(301.0, changelog)

    asyncio.run(look())
    assert caplog.text == ""
    thread._verify_aiokafka_event_path(301.0, changelog)  # what is left out
    assert "has not sent fetch request" in caplog.text
