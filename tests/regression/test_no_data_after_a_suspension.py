"""A worker that had been suspended took every stay for silent: it did not know yet what had come meanwhile."""

from __future__ import annotations

from typing import Any, cast

import pytest
from aiokafka import TopicPartition

from stream_worker import agent as agent_module
from stream_worker.agent import ReadingsAgent
from stream_worker.chunks import Work
from stream_worker.health import Health
from stream_worker.metrics import Metrics
from tests.records import NOW_US, new_pipeline, process, reading, records

PARTITION = TopicPartition("vitals.readings", 0)


class Lane:
    """Notes the alerts that it is given."""

    partition = PARTITION
    published_until = 0
    stalled_s = 0.0

    def __init__(self) -> None:
        self.alerts: list[bytes] = []

    def put(self, work: Work) -> None:
        self.alerts += [value or b"" for _, value in work.outputs["vitals.alerts"]]


def test_nobody_is_silent_before_it_is_known_what_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, lane, told = new_pipeline(), Lane(), []
    process(pipeline, records([reading("s", 0)]))
    agent = ReadingsAgent(pipeline.settings, pipeline, Metrics(pipeline.model, "test"), Health())
    agent.partitions, agent.lanes = frozenset({0}), {PARTITION: cast(Any, lane)}
    for at_s in (0, 1, 3600, 3601):
        monkeypatch.setattr(agent_module, "now_us", lambda at_us=NOW_US + at_s * 1_000_000: at_us)
        agent.tick(lambda partition: 0)
        told.append(any(b"no_data" in alert for alert in lane.alerts))
    assert told == [False, False, False, True]
