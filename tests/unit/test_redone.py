"""Records that are taken again for their state alone, and state that cannot be used."""

from __future__ import annotations

import asyncio
from typing import Any

import faust
from aiokafka import TopicPartition

from stream_worker.agent import ReadingsAgent
from stream_worker.chunks import Work
from stream_worker.stay_store import StayStore
from stream_worker.stays import HEAD, Stays
from tests.records import NOW_US, Changelog, FakeRecord, event, new_agent, new_pipeline, process, reading, records


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


def empty_store() -> tuple[StayStore, ReadingsAgent]:
    """Where a worker keeps its stays, before anything is read, and its agent."""
    pipeline = new_pipeline()
    agent = new_agent(pipeline)
    app = faust.App("app", broker="memory://")
    store = StayStore(app, app.Table("stays"), pipeline.stays, None, agent.on_recovered)
    store.forget_all()
    return store, agent


def start(changelog: Changelog) -> tuple[ReadingsAgent, Stays]:
    """A worker's agent, its state read from the changelog."""
    store, agent = empty_store()
    store.load(0, changelog.newest.items())
    store.on_loaded(frozenset({0}), 0.0)
    return agent, store.stays


def test_a_stay_that_has_ended_is_not_there_after_a_restart_though_the_changelog_still_tells_of_it() -> None:
    pipeline = new_pipeline()
    before, after = (
        process(pipeline, records(sent, first_offset))
        for first_offset, sent in ((0, [reading("here", 0), reading("gone", 0)]), (2, [event("gone", 60, "ended")]))
    )
    store, _ = empty_store()
    for result in (before, after):  # a part of it by each fetch
        store.load(0, result.state.items())
    store.on_loaded(frozenset({0}), 0.0)
    assert [store.stays.ids[slot] for slot in store.stays.in_partition(0)] == ["here"]


def test_what_was_read_of_a_partition_before_it_was_taken_away_is_forgotten() -> None:
    store, _ = empty_store()
    for partition in (0, 1):
        result = process(new_pipeline(), records([reading("s", 0)]), partition)
        store.load(partition, result.state.items())
        if partition == 0:  # a rebalance in the midst of it
            store.forget_all()
    store.on_loaded(frozenset({1}), 0.0)
    assert list(store.positions) == [1]


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


def test_the_time_that_stays_take_to_join_is_part_of_a_recovery() -> None:
    result = process(new_pipeline(), records([reading(f"s-{number}", 0) for number in range(100)]))
    store, agent = empty_store()
    store.load(0, result.state.items())
    store.on_loaded(frozenset({0}), 100.0)
    samples = (sample for metric in agent.metrics.recovery.collect() for sample in metric.samples)
    (read_and_joined_s,) = (sample.value for sample in samples if sample.name.endswith("_sum"))
    assert read_and_joined_s > 100.0
