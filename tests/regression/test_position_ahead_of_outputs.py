"""While a lane was full, heartbeats of the others committed a position whose outputs were not in any lane yet."""

from __future__ import annotations

import asyncio
from typing import Any

from stream_worker.agent import ReadingsAgent
from tests.records import NotedLane, new_agent, new_pipeline, reading, records


class FullLane(NotedLane):
    """It never has room."""

    async def room(self) -> None:
        await asyncio.Event().wait()


async def chunk_then_tick(agent: ReadingsAgent, lanes: list[FullLane]) -> None:
    """A chunk of both partitions that waits for room, and what the timers do meanwhile."""
    chunk: Any = {lane.partition: records([reading("s", 60, {"hr": 80})]) for lane in lanes}
    waiting = asyncio.create_task(agent.process(chunk))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    agent.tick(lambda partition: 1)
    waiting.cancel()


def test_no_lane_commits_a_position_before_it_has_the_outputs() -> None:
    pipeline, lanes = new_pipeline(), [FullLane(0), FullLane(1)]
    agent = new_agent(pipeline, *lanes)
    asyncio.run(chunk_then_tick(agent, lanes))
    for lane in lanes:
        chunk, heartbeat = lane.works
        assert len(chunk.outputs["vitals.forecasts"]) == 1
        assert chunk.next_offset == heartbeat.next_offset == 1
        assert len(heartbeat.outputs["vitals.alerts"]) == 1
