"""NEWS2 as on the chart of the Royal College of Physicians (2017), for every column, and for what is not known."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.alerts.news2 import INPUTS, Known, news2, whole

WELL: dict[str, Any] = {
    "resp": 16,
    "spo2": 97,
    "oxygen": "air",
    "systolic": 120,
    "pulse": 70,
    "consciousness": "A",
    "temp": 37.0,
}


def score(scale: Literal[1, 2] = 1, **changed: Any) -> int:
    """The score of somebody who is well but for `changed`; all inputs are known."""
    found = news2(Known(**{**WELL, **changed}), scale)
    assert found.lower == found.upper
    assert not found.missing
    return found.lower


# Each column of the chart by its ends.
CHART: dict[str, dict[int, tuple[Any, ...]]] = {
    "resp": {3: (1, 8, 25, 60), 1: (9, 11), 0: (12, 20), 2: (21, 24)},
    "spo2": {3: (50, 91), 2: (92, 93), 1: (94, 95), 0: (96, 100)},
    "systolic": {3: (40, 90, 220, 280), 2: (91, 100), 1: (101, 110), 0: (111, 219)},
    "pulse": {3: (20, 40, 131, 250), 1: (41, 50, 91, 110), 0: (51, 90), 2: (111, 130)},
    "temp": {3: (30.0, 35.0), 1: (35.1, 36.0, 38.1, 39.0), 0: (36.1, 38.0), 2: (39.1, 42.0)},
    "consciousness": {0: ("A",), 3: ("C", "V", "P", "U")},
    "oxygen": {0: ("air",), 2: ("supplemental",)},
}


@pytest.mark.parametrize(
    ("name", "value", "points"),
    [(name, value, points) for name, rows in CHART.items() for points, values in rows.items() for value in values],
)
def test_each_column_gives_its_points(name: str, value: Any, points: int) -> None:
    assert score(**{name: value}) == points


@pytest.mark.parametrize(
    ("spo2", "on_air", "on_oxygen"),
    [
        *((83, 3, 3), (84, 2, 2), (85, 2, 2), (86, 1, 1), (87, 1, 1), (88, 0, 0), (92, 0, 0)),
        *((93, 0, 1), (94, 0, 1), (95, 0, 2), (96, 0, 2), (97, 0, 3), (100, 0, 3)),
    ],
)
def test_on_scale_2_much_oxygen_in_the_blood_counts_only_if_it_is_given(spo2: int, on_air: int, on_oxygen: int) -> None:
    assert score(2, spo2=spo2) == on_air
    assert score(2, spo2=spo2, oxygen="supplemental") == on_oxygen + 2
    unknown = news2(Known(**{**WELL, "spo2": spo2, "oxygen": None}), 2)
    assert (unknown.lower, unknown.upper) == (on_air, on_oxygen + 2)


@pytest.mark.parametrize(
    ("value", "rounded"), [(8.4, 8), (8.5, 9), (90.49, 90), (91.5, 92), (24.5, 25), (380.9999999999, 381), (0.5, 1)]
)
def test_streamed_values_are_rounded_to_the_nearest_whole_number_halves_up(value: float, rounded: int) -> None:
    assert whole(value) == rounded


def test_temperature_is_rounded_to_tenths() -> None:
    assert [score(temp=t) for t in (38.04, 38.05, 39.04, 39.05, 35.04, 35.05)] == [0, 1, 1, 2, 3, 1]


@pytest.mark.parametrize(
    ("changed", "priority"),
    [
        ({}, None),
        ({"resp": 22, "pulse": 115}, None),  # 4, no single 3
        ({"resp": 26}, "medium"),  # a single 3
        ({"resp": 22, "pulse": 115, "spo2": 95}, "medium"),  # 5
        ({"resp": 26, "pulse": 135, "spo2": 95}, "high"),  # 7
    ],
)
def test_the_chart_says_how_pressing_it_is(changed: dict[str, Any], priority: str | None) -> None:
    assert news2(Known(**{**WELL, **changed})).priority == priority


def test_what_is_not_known_never_alarms() -> None:
    nothing = news2(Known())
    assert (nothing.lower, nothing.upper, nothing.missing, nothing.priority) == (0, 20, INPUTS, None)


known = st.builds(
    Known,
    **{name: st.sampled_from([v for values in rows.values() for v in values]) for name, rows in CHART.items()},
)


@given(known, st.sets(st.sampled_from(INPUTS)), st.sampled_from([1, 2]))
def test_the_range_holds_the_score_whatever_the_missing_inputs_are(
    everything: Known, forgotten: set[str], scale: Literal[1, 2]
) -> None:
    score = news2(everything, scale).lower
    some = Known(**{name: None if name in forgotten else getattr(everything, name) for name in INPUTS})
    found = news2(some, scale)
    assert found.lower <= score <= found.upper
    assert set(found.missing) == forgotten
    assert 0 <= found.lower <= found.upper <= 20
