"""Clocks that are ahead, behind or jump, and days that come twice: every record has its defined outcome, counted.

In process, with the worker's own pipeline: time is an argument here, and outcomes are counted before Kafka sees them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

import pytest

from stream_worker.pipeline import Pipeline
from tests.records import NOW_US, new_pipeline, process, reading, records

MINUTE, HOUR = 60, 3600  # tests.records counts seconds from an hour before NOW
GRACE_S, MAX_FUTURE_S = 10, 300


def outcomes(values: Iterable[bytes], pipeline: Pipeline | None = None, first_offset: int = 0) -> Counter[str]:
    """What the records become, in chunks as a worker takes them."""
    taken, pipeline = list(values), pipeline or new_pipeline(grace_s=GRACE_S, max_future_s=MAX_FUTURE_S)
    counts: Counter[str] = Counter()
    for first in range(0, len(taken), 500):
        result = process(pipeline, records(taken[first : first + 500], first_offset + first))
        counts += result.outcomes
        assert len(result.forecasts) == result.outcomes["accepted"]
        assert len(result.dead_letters) == result.outcomes["late"] + result.outcomes["rejected"]
    assert counts.total() == len(taken)
    return counts


def test_a_whole_day_replayed_twice_changes_nothing() -> None:
    day = [reading("s", minute * MINUTE - 24 * HOUR, {"hr": 80}) for minute in range(1440)]
    pipeline = new_pipeline(grace_s=GRACE_S)
    assert outcomes(day, pipeline) == {"accepted": 1440}
    state = pipeline.stays.head[pipeline.stays.find(0, "s")].tobytes()
    # The newest is 23:59:00: with the grace, 23:58 is still open, and its reading is recognised as a repeat.
    assert outcomes(day, pipeline, first_offset=1440) == {"late": 1438, "duplicate": 2}
    assert pipeline.stays.head[pipeline.stays.find(0, "s")].tobytes() == state


def test_a_thousand_stays_out_of_order_within_the_grace_lose_nothing() -> None:
    chance = random.Random(5)
    sent = [(second, stay) for second in range(0, 48, 4) for stay in range(1000)]
    # Whoever is overtaken is overtaken by less than the grace.
    sent.sort(key=lambda one: one[0] + chance.uniform(0, GRACE_S - 0.001))
    values = [reading(f"s-{stay}", second, {"hr": 60 + stay % 100}) for second, stay in sent]
    assert outcomes(values) == {"accepted": 12_000}


@pytest.mark.parametrize("ahead_s", [-23 * HOUR, -2 * HOUR, MAX_FUTURE_S - 1])
def test_a_clock_that_is_wrong_but_steady_is_as_good_as_any(ahead_s: int) -> None:
    values = [reading("s", HOUR + ahead_s + (minute - 59) * MINUTE, {"hr": 80}) for minute in range(60)]
    assert outcomes(values) == {"accepted": 60}


@pytest.mark.parametrize("epoch", ["1904-01-01T00:00:00Z", "1969-12-31T23:59:00Z"])
def test_a_clock_that_counts_from_before_1970_monitors_as_long_as_any(epoch: str) -> None:
    ahead_s = int(datetime.fromisoformat(epoch).timestamp() - NOW_US / 1_000_000)
    pipelines = [new_pipeline(grace_s=GRACE_S) for _ in range(2)]
    for pipeline, shift_s in zip(pipelines, (ahead_s, -2 * HOUR), strict=True):
        values = [reading("s", HOUR + shift_s + minute * MINUTE, {"hr": 80}) for minute in range(90)]
        assert outcomes(values, pipeline) == {"accepted": 90}
    monitored = [pipeline.stays.budgets[0].monitored_us for pipeline in pipelines]
    assert monitored == [89 * 60_000_000] * 2


def test_a_clock_that_is_further_ahead_than_max_future_is_refused_and_moves_no_time() -> None:
    ahead = [reading("s", HOUR + MAX_FUTURE_S + 1 + second, {"hr": 80}) for second in range(60)]
    in_time = [reading("s", HOUR - 60 + second, {"hr": 81}) for second in range(60)]
    mixed = [one for pair in zip(ahead, in_time, strict=True) for one in pair]
    assert outcomes(mixed) == {"rejected": 60, "accepted": 60}


def test_a_clock_that_jumps_ahead_and_back_costs_what_was_overtaken() -> None:
    def minutes(first: int, last: int) -> list[bytes]:
        return [reading("s", minute * MINUTE, {"hr": 80 + minute % 7}) for minute in range(first, last)]

    # 20 minutes ahead for five readings, then right again: the minutes up to there are closed.
    counts = outcomes([*minutes(0, 20), *minutes(40, 45), *minutes(20, 60)])
    # 44:00 is the newest: 43 and 44 are open. Those of 43 and 44 that come again are repeats.
    assert counts == {"accepted": 20 + 5 + 15, "late": 23, "duplicate": 2}


def test_one_time_with_several_values_is_several_readings_and_with_the_same_a_repeat() -> None:
    at = HOUR - 30
    several = [reading("s", at, {"hr": 80 + i}) for i in range(6)]
    devices = [reading("s", at, {"hr": 80}, device_id=f"mon-{i}") for i in range(2)]
    assert outcomes([*several, *devices, *several, *devices]) == {"accepted": 8, "duplicate": 8}  # so many are known
    one_more = reading("s", at, {"hr": 90})
    assert outcomes([*several, *devices, one_more, several[0]]) == {"accepted": 10}


def test_the_same_stay_by_two_devices_an_hour_apart_is_late_on_one() -> None:
    right = [reading("s", HOUR - (20 - minute) * MINUTE, {"hr": 80}, device_id="a") for minute in range(20)]
    behind = [reading("s", -(20 - minute) * MINUTE, {"hr": 90}, device_id="b") for minute in range(20)]
    mixed = [one for pair in zip(right, behind, strict=True) for one in pair]
    assert outcomes(mixed) == {"accepted": 20, "late": 20}
    assert NOW_US % 60_000_000 == 0  # the minutes above are those of the clock
