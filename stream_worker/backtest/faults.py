"""Faults put into real recordings at known times: what a sensor, a line or a mixed-up cable does to the numbers.

Sizes are clinical, not multiples of a stay's own noise: what must be found does not depend on who is looked at. The
three arterial pressures come from one transducer and fail together; single ones that contradict the others, and values
out of range, are refused before anything is scored.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from model.arrays import Floats
from schemas.signals import ARTERIAL_TRIPLE, VITALS

Values = dict[str, Floats]  # by signal, (T,) a value a minute, NaN where there is none

FaultKind = Literal["spike", "flatline", "step", "drift", "swap"]

EVERY_MIN: Final = 240  # one fault in each such part of a stay: the forecasts recover in between
LEAD_MIN: Final = 60  # of it stay as recorded
# Until a fault is over. A drift takes as long to come as to go, so that no jump at its end gives it away.
DURATION_MIN: Final[dict[FaultKind, int]] = {"spike": 1, "flatline": 45, "step": 45, "drift": 120, "swap": 45}
# What one sensor gives, and the smallest error worth finding; the largest is twice that. Saturation only falls.
SENSORS: Final[dict[tuple[str, ...], float]] = {("hr",): 25.0, ("resp",): 8.0, ("spo2",): 5.0, ARTERIAL_TRIPLE: 20.0}
SWAPS: Final = (("hr", "resp"), ("hr", "spo2"), ("hr", "abp_mean"))
_OBSERVED: Final = 0.75  # of the minutes before a fault and within it
_LIMITS: Final = {signal.name: (signal.low, signal.high) for signal in VITALS}


class Fault(NamedTuple):
    """What goes wrong with some signals in the minutes [start, end) of a recording; `size` in their unit."""

    kind: FaultKind
    signals: tuple[str, ...]
    start: int
    end: int
    size: float


def plan(values: Values, rng: np.random.Generator) -> list[Fault]:
    """Faults for a recording, at least LEAD_MIN apart, where their signals were observed."""
    minutes = len(values["hr"])
    faults = [_draw(begin, rng) for begin in range(0, minutes - EVERY_MIN + 1, EVERY_MIN)]
    return [fault for fault in faults if all(_is_observed(values[name], fault) for name in fault.signals)]


def _draw(begin: int, rng: np.random.Generator) -> Fault:
    kind: FaultKind = get_args(FaultKind)[rng.integers(len(get_args(FaultKind)))]
    sensors = list(SENSORS)
    signals = SWAPS[rng.integers(len(SWAPS))] if kind == "swap" else sensors[rng.integers(len(sensors))]
    size = SENSORS.get(signals, 0.0) * rng.uniform(1, 2) * rng.choice([-1, 1])
    start = begin + int(rng.integers(LEAD_MIN, EVERY_MIN - DURATION_MIN["drift"]))
    return Fault(kind, signals, start, start + DURATION_MIN[kind], -abs(size) if signals == ("spo2",) else size)


def _is_observed(values: Floats, fault: Fault) -> bool:
    seen = ~np.isnan(values)
    lead, within = seen[fault.start - LEAD_MIN : fault.start], seen[fault.start : fault.end]
    return bool(seen[fault.start] and lead.mean() >= _OBSERVED and within.mean() >= _OBSERVED)


def inject(values: Values, faults: list[Fault]) -> Values:
    """The recording with its faults; what was not observed stays so."""
    faulty = {name: column.copy() for name, column in values.items()}
    for fault in faults:
        during = slice(fault.start, fault.end)
        for name in fault.signals:
            faulty[name][during] = _spoilt(values, name, fault)
    return faulty


def _spoilt(values: Values, name: str, fault: Fault) -> Floats:
    """What a faulty signal shows from `fault.start` to `fault.end`."""
    true = values[name][fault.start : fault.end]
    if fault.kind == "flatline":
        before = values[name][: fault.start]
        shown = np.full(len(true), before[~np.isnan(before)][-1])
    elif fault.kind == "swap":
        other = next(signal for signal in fault.signals if signal != name)
        shown = values[other][fault.start : fault.end]
    elif fault.kind == "drift":
        shown = true + fault.size * (1 - np.abs(np.linspace(-1, 1, len(true))))
    else:
        shown = true + fault.size
    return np.where(np.isnan(true), np.nan, np.round(np.clip(shown, *_LIMITS[name]), 1))
