"""NEWS2, the National Early Warning Score 2 (Royal College of Physicians 2017), from whatever of it is known.

The chart is for whole numbers (temperature: tenths); a streamed value is rounded to the nearest one, halves up, before
it is looked up. What is not known can be anything, so the score is a range; only its lower end may alarm.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import Final, Literal, NamedTuple

from schemas.alert import Priority

# Upper ends of the chart's columns, and the points of each column; the last one has no upper end.
_RESP: Final = ((8, 11, 20, 24), (3, 1, 0, 2, 3))
_SPO2_1: Final = ((91, 93, 95), (3, 2, 1, 0))
_SPO2_2_AIR: Final = ((83, 85, 87), (3, 2, 1, 0))
_SPO2_2_OXYGEN: Final = ((83, 85, 87, 92, 94, 96), (3, 2, 1, 0, 1, 2, 3))
_SYSTOLIC: Final = ((90, 100, 110, 219), (3, 2, 1, 0, 3))
_PULSE: Final = ((40, 50, 90, 110, 130), (3, 1, 0, 1, 2, 3))
_TEMP_TENTHS: Final = ((350, 360, 380, 390), (3, 1, 0, 1, 2))

INPUTS: Final = ("resp", "spo2", "oxygen", "systolic", "pulse", "consciousness", "temp")
_WORST: Final = {"oxygen": 2}  # points of an input that is not known, at most; 3 for the others

URGENT: Final = 5  # the chart's thresholds: 5 or 6 asks for an urgent response, 7 or more for an emergency one,
EMERGENCY: Final = 7
RED: Final = 3  # and three points for a single input for an urgent review of the patient


class Known(NamedTuple):
    """The newest usable inputs; None: not known."""

    resp: float | None = None
    spo2: float | None = None
    oxygen: Literal["air", "supplemental"] | None = None
    systolic: float | None = None
    pulse: float | None = None
    consciousness: Literal["A", "C", "V", "P", "U"] | None = None
    temp: float | None = None


@dataclass(frozen=True, slots=True)
class News2:
    """A score: at least `lower`, at most `upper`, and why."""

    lower: int
    upper: int
    points: Mapping[str, int]  # of the inputs that are known
    missing: tuple[str, ...]

    @property
    def priority(self) -> Priority | None:
        """How pressing it is for sure; None: no alarm."""
        if self.lower >= EMERGENCY:
            return "high"
        return "medium" if self.lower >= URGENT or RED in self.points.values() else None


def news2(known: Known, spo2_scale: Literal[1, 2] = 1) -> News2:
    """The score of what is known. `spo2_scale` 2 is for a target of 88 to 92 %, prescribed for hypercapnic failure."""
    ranges = {
        "resp": _range(known.resp, _RESP),
        "spo2": _spo2(known.spo2, known.oxygen, spo2_scale),
        "oxygen": None if known.oxygen is None else (2, 2) if known.oxygen == "supplemental" else (0, 0),
        "systolic": _range(known.systolic, _SYSTOLIC),
        "pulse": _range(known.pulse, _PULSE),
        "consciousness": None if known.consciousness is None else (0, 0) if known.consciousness == "A" else (3, 3),
        "temp": _range(None if known.temp is None else 10 * known.temp, _TEMP_TENTHS),
    }
    bounds = {name: ranges[name] or (0, _WORST.get(name, 3)) for name in INPUTS}
    return News2(
        lower=sum(low for low, _ in bounds.values()),
        upper=sum(high for _, high in bounds.values()),
        points={name: low for name, (low, high) in bounds.items() if low == high},
        missing=tuple(name for name in INPUTS if ranges[name] is None),
    )


Chart = tuple[tuple[int, ...], tuple[int, ...]]


def whole(value: float) -> int:
    """The nearest whole number, halves up; a tenth of noise in a float's last digit does not count."""
    return floor(round(value, 6) + 0.5)


def _range(value: float | None, chart: Chart) -> tuple[int, int] | None:
    if value is None:
        return None
    upper_ends, points = chart
    found = points[bisect_left(upper_ends, whole(value))]
    return found, found


def _spo2(spo2: float | None, oxygen: str | None, scale: int) -> tuple[int, int] | None:
    """On scale 2 a high saturation is a fault only with oxygen: not knowing which leaves a range."""
    if spo2 is None or scale == 1:
        return _range(spo2, _SPO2_1)
    charts = {"air": (_SPO2_2_AIR,), "supplemental": (_SPO2_2_OXYGEN,)}.get(oxygen or "", (_SPO2_2_AIR, _SPO2_2_OXYGEN))
    found = [found for chart in charts if (found := _range(spo2, chart))]
    return min(low for low, _ in found), max(high for _, high in found)
