"""A worker that had been suspended took every stay for silent: it did not know yet what had come meanwhile."""

from __future__ import annotations

import pytest

from stream_worker import agent as agent_module
from tests.records import NOW_US, FakeRecord, NotedLane, new_agent, new_pipeline, process, reading, records


def test_nobody_is_silent_before_it_is_known_what_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, lane, told = new_pipeline(), NotedLane(), []
    process(pipeline, records([reading("s", 0)]))
    agent = new_agent(pipeline, lane)
    for at_s in (0, 1, 3600, 3601):
        if at_s == 3601:  # what had come is taken by then, of another stay
            meanwhile = FakeRecord(1, reading("t", 3600), timestamp=NOW_US // 1000 + 3_600_000)
            pipeline.process({0: [meanwhile]}, NOW_US + 3_601_000_000)
        monkeypatch.setattr(agent_module, "now_us", lambda at_us=NOW_US + at_s * 1_000_000: at_us)
        agent.tick(lambda partition: 0)
        alerts = [value or b"" for work in lane.works for _, value in work.outputs["vitals.alerts"]]
        told.append(any(b"no_data" in alert for alert in alerts))
    assert told == [False, False, False, True]
