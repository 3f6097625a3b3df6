"""Where a transaction took longer than from one heartbeat to the next, a lane never emptied: nothing was fetched."""

from __future__ import annotations

import asyncio
from typing import Any

from stream_worker.chunks import Work
from tests.lanes import new_lane

BEAT = Work(outputs={}, state={}, next_offset=None)


async def drain_among_heartbeats() -> list[str]:
    """Drain a lane into which another heartbeat comes with each transaction."""
    durable: list[str] = []
    lane: Any = new_lane("unused:9092")

    async def write(_batch: list[Work]) -> None:
        lane.put(BEAT)
        await asyncio.sleep(0)

    lane._write = write
    writer = asyncio.create_task(lane._write_forever())
    lane.put(BEAT)
    await asyncio.sleep(0)
    assert lane.stalled_s
    lane.put(Work(outputs={}, state={}, next_offset=None, on_durable=lambda: durable.append("chunk")))
    async with asyncio.timeout(5):
        await lane.drain()
    writer.cancel()
    await lane.close()
    return durable


def test_a_lane_is_drained_of_what_was_queued_though_heartbeats_go_on() -> None:
    assert asyncio.run(drain_among_heartbeats()) == ["chunk"]
