"""Records that are taken again for their state alone, and state that cannot be used."""

from __future__ import annotations

import asyncio
from typing import Any

import faust
from aiokafka import TopicPartition

from stream_worker import health
from stream_worker.agent import ReadingsAgent
from stream_worker.chunks import Work
from stream_worker.metrics import Metrics
from stream_worker.stay_store import StayStore
from stream_worker.stays import HEAD, Stays
from tests.records import NOW_US, Changelog, FakeRecord, new_pipeline, process, reading, records


def test_what_is_ahead_of_the_clock_is_judged_by_when_each_record_came() -> None:
    start_ms = NOW_US // 1000 - 3_600_000
    times_s = [(0, 0), (900, 1), (60, 60), (1200, 1200)]  # observed, came: the second was 15 min ahead
    stream = [FakeRecord(i, reading("s", at), start_ms + 1000 * came) for i, (at, came) in enumerate(times_s)]
    live, redone, changelogs = new_pipeline(), new_pipeline(), [Changelog(), Changelog()]
    for record in stream:
        changelogs[0].apply(live.process({0: [record]}, record.timestamp * 1000)[0])
    again = redone.process({0: stream}, NOW_US, is_redone=True)[0]
    changelogs[1].apply(again)
    assert again.outcomes == {"accepted": 3, "rejected": 1}
    assert changelogs[1].newest == changelogs[0].newest


class KeptLane:
    """A lane of partition 0 that keeps the state of the work it is given."""

    published_until = 0
    partition = TopicPartition("vitals.readings", 0)

    def __init__(self, changelog: Changelog) -> None:
        self._changelog = changelog

    def put(self, work: Work) -> None:
        result: Any = work
        self._changelog.apply(result)

    async def room(self) -> None:
        """There is."""

    async def drain(self) -> None:
        """It has."""


def start(changelog: Changelog) -> tuple[ReadingsAgent, Stays]:
    """A worker's agent, its state read from the changelog."""
    pipeline = new_pipeline()
    agent = ReadingsAgent(pipeline.settings, pipeline, Metrics(pipeline.model, "0"), health.Health())
    app = faust.App("app", broker="memory://")
    store = StayStore(app, app.Table("stays"), pipeline.stays, None, agent.on_recovered)
    store.forget_all()
    store.load(0, changelog.newest.items())
    store.on_loaded(frozenset({0}), 0.0)
    return agent, pipeline.stays


def test_state_that_cannot_be_used_is_removed_when_it_is_made_again() -> None:
    """A stay whose readings are no longer kept made every assignment begin with the oldest reading there is."""
    changelog = Changelog()
    changelog.apply(process(new_pipeline(), records([reading("gone", 60 * i) for i in range(5)])))
    changelog.newest[HEAD + b"gone"] = b"\x01" + changelog.newest[HEAD + b"gone"][1:]
    agent, stays = start(changelog)
    assert len(stays) == 0
    kept: Any = records([reading("here", 60 * i) for i in range(5)], first_offset=5)
    lane: Any = KeptLane(changelog)
    agent.lanes = {lane.partition: lane}
    asyncio.run(agent.process({lane.partition: kept}))
    assert not [key for key in changelog.newest if key.endswith(b"gone")]
    _, after = start(changelog)
    assert (len(after), after.next_offsets) == (1, {0: 10})
