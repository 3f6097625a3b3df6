"""Where an input partition is read on, for everything that can be lost between the log, the state and the group."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition

from stream_worker.chunks import WorkerError
from stream_worker.chunks.position import InputLog, Start, start_of

PARTITION = TopicPartition("readings", 3)


def log(begin: int, end: int, committed: int | None, is_newer_than_state: bool = False) -> InputLog:
    """A partition that holds `begin` to `end`."""
    return InputLog(begin, end, committed, is_newer_than_state)


@pytest.mark.parametrize(
    ("found", "state_end", "start"),
    [
        pytest.param(log(0, 0, None), None, Start(0, 0, 0), id="nothing there yet"),
        pytest.param(log(40, 90, None), None, Start(40, 0, 0), id="a new group on an old topic"),
        pytest.param(log(0, 90, 50), 50, Start(50, 0, 0), id="a restart"),
        pytest.param(log(0, 90, 40), 50, Start(50, 0, 0), id="state ahead of the group: it holds what is out"),
        pytest.param(log(0, 90, 50), None, Start(0, 50, 0), id="changelog lost"),
        pytest.param(log(0, 90, 50), 20, Start(20, 50, 0), id="an old copy of the changelog"),
        pytest.param(log(30, 90, 50), 20, Start(30, 50, 0), id="an old copy, and old readings are gone"),
        pytest.param(log(70, 90, 50), 50, Start(70, 0, 20), id="retention was faster than the worker"),
        pytest.param(log(70, 90, 50), None, Start(70, 0, 20), id="and the changelog is lost too"),
        pytest.param(log(0, 90, None), 50, Start(50, 0, 0), id="the group's offsets have expired"),
        pytest.param(log(70, 90, None, True), 50, Start(70, 0, 20), id="expired, and the old readings too"),
        pytest.param(log(50, 90, None, True), 50, Start(50, 0, 0), id="expired, and just the readings in the state"),
    ],
)
def test_reading_goes_on_where_the_state_ends(found: InputLog, state_end: int | None, start: Start) -> None:
    assert start_of(PARTITION, found, state_end) == start


@pytest.mark.parametrize(
    ("found", "state_end"),
    [
        pytest.param(log(0, 10, None, True), 50, id="made anew"),
        pytest.param(log(0, 10, 50), 50, id="truncated"),
        pytest.param(log(0, 10, 50), None, id="truncated, and the changelog is lost"),
        pytest.param(log(0, 90, None, True), 50, id="made anew and grown past the state"),
    ],
)
def test_another_log_than_that_of_the_state_is_refused(found: InputLog, state_end: int | None) -> None:
    with pytest.raises(WorkerError, match="made anew"):
        start_of(PARTITION, found, state_end)


def test_another_topic_than_that_of_the_state_is_refused() -> None:
    with pytest.raises(WorkerError, match="made from: that is topic before"):
        start_of(PARTITION, log(0, 90, None), 50, "before")
    assert start_of(PARTITION, log(0, 90, None), 50, "readings") == Start(50, 0, 0)
