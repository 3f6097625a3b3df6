"""The worker's clock was a day ahead for two seconds, and every stay was ended, with its state; an hour: no_data."""

from __future__ import annotations

import pytest

from stream_worker import agent as agent_module
from tests.records import NOW_US, NotedLane, new_agent, new_pipeline, process, reading, records

HOUR_S = 3600


def silent_at(monkeypatch: pytest.MonkeyPatch, *clock_s: int) -> tuple[int, list[bytes]]:
    """The stays that are left of one, and what was told of it, when timers ran at these times of the clock."""
    pipeline, lane = new_pipeline(), NotedLane()
    process(pipeline, records([reading("s", 0)]))
    agent = new_agent(pipeline, lane)
    for at_s in clock_s:
        monkeypatch.setattr(agent_module, "now_us", lambda at_us=NOW_US + at_s * 1_000_000: at_us)
        agent.tick(lambda partition: 0)
    told = [value or b"" for work in lane.works for _, value in work.outputs["vitals.alerts"]]
    return len(pipeline.stays), [alert for alert in told if b"heartbeat" not in alert]


@pytest.mark.parametrize("ahead_s", [HOUR_S, 25 * HOUR_S])
def test_a_clock_that_is_ahead_for_a_moment_takes_nobody_for_silent(
    monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    assert silent_at(monkeypatch, 0, 1, ahead_s, ahead_s + 1, ahead_s + 2, 3, 4) == (1, [])


def test_who_has_been_silent_when_the_worker_starts_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stays, told = silent_at(monkeypatch, HOUR_S, HOUR_S + 1)
    assert stays == 1
    assert b"no_data" in told[0]
