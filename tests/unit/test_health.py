"""The worker's HTTP, apart from what it answers."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from stream_worker import health


async def _answer_to(sent: bytes) -> bytes:
    """What comes back until the worker closes the connection."""
    bound = health.bind("127.0.0.1", 0)
    runner = await health.serve(bound, health.Health(), CollectorRegistry())
    reader, writer = await asyncio.open_connection(*bound.getsockname())
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await runner.cleanup()
    return answer


def test_connections_that_ask_nothing_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "IDLE_S", 0.2)
    assert asyncio.run(_answer_to(b"GET /")) == b""
