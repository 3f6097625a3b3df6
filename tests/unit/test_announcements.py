"""What a forecast announces: when it is raised, for how long that stands, and when it is raised anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import isnan, nan

import pytest

from stream_worker.alerts import life, rules
from stream_worker.alerts.entries import AlertEntry, AlertKey
from stream_worker.alerts.life import Entries, Transition
from stream_worker.alerts.observation import Observation
from stream_worker.alerts.words import message_of
from stream_worker.limits import DEFAULT_LIMITS, SignalLimits
from stream_worker.times import MINUTE_US, SECOND_US

PRESSURE = DEFAULT_LIMITS.root["abp_mean"]


def low_limit(limits: SignalLimits) -> rules.LimitRules:
    """The rules of a low mean pressure alone."""
    return rules.LimitRules.of(r for r in rules.limit_rules({"abp_mean": limits}).each if r.side == "low")


RULES = low_limit(PRESSURE)
WITHOUT_LIMIT = rules.limit_rules({"abp_mean": PRESSURE.changed({"low": None})})
BAR = RULES.each[0].threshold


def seen_at(
    minute: int, value: float, ahead: float | None, may_advise: bool = True, *, anomaly: bool = False, flat_s: int = 0
) -> Observation:
    """What rules see of a mean pressure whose log-odds to fall below its limit are `ahead`; None: there is none."""
    at_us, values = minute * MINUTE_US, {} if isnan(value) else {"abp_mean": value}
    return Observation(
        at_us=at_us,
        values=values,
        last=values,
        last_at_us={"abp_mean": at_us},
        changed_at_us={"abp_mean": at_us - flat_s * SECOND_US},
        implausible=(),
        scores={"abp_mean": 1.0 if anomaly else 0.5},
        flagged=("abp_mean",) if anomaly else (),
        outlooks={} if ahead is None else {("abp_mean", "low"): ahead},
        horizon_s=3600,
        may_advise=may_advise,
    )


def announced(
    readings: Sequence[tuple[float, float]],
    *,
    may_advise: bool = True,
    held: Counter[str] | None = None,
    then: tuple[int, rules.LimitRules] = (10**9, RULES),
    entries: Entries | None = None,
) -> list[tuple[int, Transition]]:
    """The forecast alerts that (mean pressure, log-odds), one a minute, leave; with their minutes.

    then : the minute from which on other rules hold, and those.
    """
    entries = {} if entries is None else entries
    found = []
    for minute, (value, ahead) in enumerate(readings):
        in_force = then[1] if minute >= then[0] else RULES
        seen = seen_at(minute, value, None if in_force is WITHOUT_LIMIT else ahead, may_advise or minute < 30)
        moved = rules.look(entries, seen, in_force, minute, held or Counter())
        found += [(minute, transition) for transition in moved if transition.key.kind == "forecast_limit"]
    return found


def test_a_threat_to_a_limit_that_is_lifted_is_over() -> None:
    found = announced([(72, BAR + 0.1)] * 10, then=(5, WITHOUT_LIMIT))
    assert [(minute, t.state, t.clear_reason) for minute, t in found] == [
        (1, "raised", None),
        (5, "cleared", "recovered"),
    ]
    entries: Entries = {}
    announced([(60, BAR + 0.1)] * 5 + [(90, BAR - 9)] * 3000, then=(5, WITHOUT_LIMIT), entries=entries)
    assert entries == {}  # and what was known of values below it is forgotten


def test_another_limit_is_told_in_the_open_announcement() -> None:
    told = announced([(77, BAR + 1)] * 5, then=(2, low_limit(PRESSURE.changed({"low": 75.0}))))
    assert [(minute, t.state, t.evidence["limit"]) for minute, t in told] == [(1, "raised", 65), (2, "updated", 75)]


def test_what_comes_true_under_an_open_limit_alert_is_superseded_by_that() -> None:
    course = [*[(60.0, BAR + 1)] * 6, *[(66.0, BAR + 1)] * 30, *[(58.0, BAR + 3)] * 30]
    (_, raised), (minute, cleared) = announced(course)
    assert (raised.state, cleared.state, cleared.clear_reason) == ("raised", "cleared", "superseded")
    assert minute == 36 + 4  # the limit's delay after it fell again
    assert cleared.superseded_by == (AlertKey("limit", "abp_mean", "low"), 4)
    assert cleared.lead_time_s == 60 * 36 - raised.at_us / 1e6


def test_an_announcement_of_what_is_beyond_its_limit_outlasts_a_value_that_is_missing() -> None:
    slow = low_limit(PRESSURE.changed({"delay_s": 1740.0}))
    course = [*[(72.0, BAR + 1)] * 2, *[(60.0, BAR + 1)] * 18, (nan, BAR), *[(60.0, BAR + 1)] * 14]
    (_, raised), (minute, cleared) = announced(course, then=(0, slow))
    assert (raised.state, minute, cleared.clear_reason) == ("raised", 31, "superseded")


def test_an_anomaly_of_a_sensor_that_cannot_be_believed_is_held_back() -> None:
    held = Counter[str]()
    flat: Entries = {AlertKey("technical", "abp_mean", None, "flatline"): AlertEntry(0, raised_offset=0)}
    states = [
        transition.key.kind
        for minute in range(5)
        for transition in rules.look(flat, seen_at(minute, 80, BAR - 9, anomaly=True, flat_s=1000), RULES, minute, held)
    ]
    assert (states, held) == ([], {"suspect": 1})


def test_a_threat_that_goes_on_is_announced_anew_when_its_time_is_over() -> None:
    found = announced([*[(72.0, BAR + 0.1)] * 30, *[(72.0, BAR + 1.5)] * 30])
    assert [(minute, t.state, t.clear_reason, t.revision) for minute, t in found] == [
        (1, "raised", None, 0),
        (30, "updated", None, 1),
        (56, "cleared", "superseded", 2),
        (56, "raised", None, 0),
    ]
    first, _, ended, anew = (transition for _, transition in found)
    assert ended.raised_offset == first.raised_offset == 1
    assert ended.superseded_by == (anew.key, anew.raised_offset) == (first.key, 56)
    assert anew.since_us == anew.at_us  # how far ahead it was counts from here
    assert ended.lead_time_s is None  # nothing came true
    assert message_of(ended)[0].endswith("is raised anew")


def test_what_was_just_there_is_not_announced_at_once() -> None:
    ((minute, raised),) = announced([*[(60.0, BAR + 0.1)] * 10, *[(72.0, BAR + 0.1)] * 30])
    assert (minute, raised.state) == (9 + 23, "raised")  # known_s


def test_after_a_silence_nothing_is_known_of_the_value_before() -> None:
    entries: Entries = {}
    announced([(60.0, BAR + 0.1)] * 10, entries=entries)
    assert any(entry.known is not None for entry in entries.values())
    life.lose_data(entries, 9 * MINUTE_US, 900, 9)
    assert all(entry.known is None for entry in entries.values())
    entries.clear()  # and of the signal alone
    announced([*[(60.0, BAR + 0.1)] * 10, *[(nan, BAR)] * 20], entries=entries)
    assert all(entry.known is None for entry in entries.values())


def test_how_far_ahead_it_was_counts_from_when_it_was_raised() -> None:
    course = [*[(72.0, BAR - 0.5)] * 50, *[(72.0, BAR + 0.1)] * 2, *[(60.0, BAR + 0.1)] * 8]
    (raised_at, raised), (_, cleared) = announced(course)
    assert (raised_at, raised.since_us) == (50, 0)
    assert (cleared.clear_reason, cleared.lead_time_s) == ("superseded", 120.0)


def test_what_the_budget_holds_back_is_not_announced_anew_and_stays_open() -> None:
    held = Counter[str]({"seen": 0})
    assert [t.state for _, t in announced([(72, BAR + 0.1)] * 120, may_advise=False, held=held)] == ["raised"]
    assert held["budget"] == 1


@pytest.mark.parametrize("below", [0.1, 2])
def test_a_threat_that_ends_is_cleared_and_its_next_waits(below: float) -> None:
    course = [*[(72.0, BAR + 0.1)] * 10, *[(72.0, BAR - below)] * 10, *[(72.0, BAR + 0.1)] * 40]
    found = announced(course)
    assert [(minute, t.state, t.clear_reason) for minute, t in found] == [
        (1, "raised", None),
        (10, "cleared", "recovered"),
        (56, "raised", None),
    ]


@pytest.mark.parametrize(
    ("values", "raised"),
    [
        ([82, 77, 77], 1),  # seen coming, told of at its first value within reach
        ([90, 77, 77], 2),  # too far off to be a threat: the first within reach has to be sustained
        ([82, 82, 82], None),  # never within reach
    ],
)
def test_a_fall_is_told_of_once_it_is_within_reach(values: list[float], raised: int | None) -> None:
    found = announced([(value, BAR + 0.1) for value in values])
    assert [minute for minute, _ in found] == ([] if raised is None else [raised])
