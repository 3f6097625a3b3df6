"""Courses of patients that meet every alert rule: stretches of values near and beyond limits, gaps, doubts, events.

In `wards` nearly every reading has something to say; in `calm_wards` most have not, and one signal at a time is odd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from hypothesis import strategies as st

from tests.records import event, reading

# Around the limits of mean pressure (65, 50), saturation (90, 85), heart rate (50, 130, 40, 150); one far from all.
VALUES = {
    "abp_mean": (45.0, 49.9, 60.0, 64.9, 66.5, 68.0, 80.0),
    "spo2": (84.0, 89.5, 90.5, 97.0),
    "hr": (39.0, 49.0, 80.0, 131.0, 155.0),
    "pulse": (50.0, 80.0),
    "resp": (7.0, 15.0, 32.0),
    "abp_sys": (68.0, 85.0, 120.0, 185.0),
    "abp_dia": (40.0, 90.0),
    "temp": (37.0, 40.0),
}
BEGIN_S = -400_000.0  # so that all of it has happened by the tests' clock
vitals = st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in VALUES.items()}).filter(bool)
doubts = st.sampled_from([{}, {}, {}, {"quality": {"abp_mean": "questionable"}}, {"care_unit": "icu-2"}])
stretches = st.tuples(vitals, st.integers(1, 9), st.sampled_from([1, 20, 60, 60, 60, 130, 700, 2000]), doubts)
own_limits = st.sampled_from(
    [
        {"abp_mean": {"low": 70}},
        {"abp_mean": {"low": 55}},
        {"abp_mean": {"low": None}},
        {"hr": {"high": None}},
        {"spo2": {"low": 95, "high": None}},
    ]
)
steps = st.one_of(stretches, stretches, stretches, stretches, own_limits, st.just("ended"))


def course(stay_id: str, parts: list[Any], wobble: bool) -> list[tuple[float, bytes]]:
    """The records of one stay with the seconds they belong to. `wobble`: values do not stand still."""
    at, records = BEGIN_S, []
    for part in parts:
        if part == "ended":
            records.append((at, event(stay_id, at, "ended")))
        elif isinstance(part, dict):
            records.append((at, event(stay_id, at, "limits", limits=part)))
        else:
            values, count, every_s, more = part
            for i in range(count):
                shift = i % 2 / 10 if wobble else 0.0
                records.append((at, reading(stay_id, at, {k: v + shift for k, v in values.items()}, **more)))
                at += every_s
    return records


def _merge(courses: list[list[tuple[float, bytes]]]) -> list[bytes]:
    return [record for _, record in sorted((item for one in courses for item in one), key=lambda item: item[0])]


def wards(stays: int = 2) -> st.SearchStrategy[list[bytes]]:
    """The records of several stays side by side, each in its order."""
    one = st.tuples(st.lists(steps, min_size=1, max_size=5), st.booleans())
    return st.lists(one, min_size=1, max_size=stays).map(
        lambda courses: _merge([course(f"s{i}", parts, wobble) for i, (parts, wobble) in enumerate(courses)])
    )


CALM: Final = {
    "hr": 80.0, "pulse": 80.0, "resp": 15.0, "spo2": 97.0, "abp_sys": 120.0, "abp_dia": 60.0, "abp_mean": 80.0
}  # fmt: skip
# What is odd of the i-th reading of a stretch; None: left out. The rest is calm.
ODD: Final[Mapping[str, Callable[[int], Mapping[str, float | None]]]] = {
    "nothing": lambda _: {},
    "beyond a limit": lambda i: {"resp": 32.0 + i % 2 / 10},
    "far beyond a limit": lambda i: {"spo2": 82.0 + i % 2 / 10},
    "on the way to a limit": lambda i: {"abp_mean": max(80.0 - i, 67.0) + i % 2 / 10},
    "up and down within its limits": lambda i: dict.fromkeys(("hr", "pulse"), 80.0 + i % 2 * 25),
    "flat": lambda _: {"abp_dia": 60.0},
    "missing": lambda _: {"spo2": None},
    "in disagreement": lambda i: {"pulse": 110.0 + i % 2 / 10},
    "impossible": lambda _: {"hr": 999.0},
}
# At most two and a half hours, half an hour, seven minutes: a sensor is off after an hour, a line flat after a quarter.
calm_stretches = st.tuples(st.sampled_from(sorted(ODD)), st.integers(1, 30), st.sampled_from([300, 60, 15]))
# After a stretch, now and then: a silence of so many seconds, other limits, the end of the stay.
turns = st.sampled_from([*[None] * 12, 1000.0, 1000.0, 8000.0, {"abp_mean": {"low": 70}}, "ended"])


def calm_course(stay_id: str, parts: list[Any]) -> list[tuple[float, bytes]]:
    """The records of one stay with the seconds they belong to; no value stands still unless that is what is odd."""
    at, records = BEGIN_S, []
    for (odd, count, every_s), turn in [(("nothing", 5, 60), None), *parts]:
        for i in range(count):
            values = {**{name: value + i % 2 / 10 for name, value in CALM.items()}, **ODD[odd](i)}
            records.append((at, reading(stay_id, at, {k: v for k, v in values.items() if v is not None})))
            at += every_s
        if turn == "ended":
            records.append((at, event(stay_id, at, "ended")))
        elif isinstance(turn, dict):
            records.append((at, event(stay_id, at, "limits", limits=turn)))
        elif isinstance(turn, float):
            at += turn
    return records


def calm_wards(stays: int = 2) -> st.SearchStrategy[list[bytes]]:
    """As `wards`, but mostly calm."""
    one = st.lists(st.tuples(calm_stretches, turns), min_size=1, max_size=5)
    return st.lists(one, min_size=1, max_size=stays).map(
        lambda courses: _merge([calm_course(f"s{i}", parts) for i, parts in enumerate(courses)])
    )
