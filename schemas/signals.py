"""The vital signs Vitalcast knows: name, UCUM unit, plausible range, precision. The only place they are written.

Plausible ranges bound what an adult can show and live, not what is healthy: outside them a number is an artefact or a
device's "no value" code. They follow the cleaning ranges of public ICU benchmarks (MIMIC-Extract, Wang et al. 2020;
YAIB, van de Water et al. 2023), widened so that real extremes pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

_WRITTEN: Final = {"mm[Hg]": "mmHg", "Cel": "°C"}  # what people write otherwise than UCUM


class Signal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One vital sign: its canonical unit, the closed range of plausible values, and the precision it is written in."""

    name: str
    unit: str
    low: float
    high: float
    precision: float = 0.1
    label: str = ""

    @property
    def title(self) -> str:
        """The name a clinician reads: the label, or the wire name where there is none."""
        return self.label or self.name

    @property
    def written_unit(self) -> str:
        """The unit as people write it."""
        return _WRITTEN.get(self.unit, self.unit)

    @property
    def scale(self) -> tuple[str, float, float, float]:
        """What two definitions of the signal must agree on: unit, plausible range, precision."""
        return self.unit, self.low, self.high, self.precision

    @property
    def decimals(self) -> int:
        """Digits after the point at this precision: 1 for 0.1, 0 for 1."""
        text = f"{self.precision:.9f}".rstrip("0")
        return len(text.partition(".")[2])


VITALS: Final = (
    Signal(name="hr", unit="/min", low=20, high=250, label="Heart rate"),
    Signal(name="pulse", unit="/min", low=20, high=250, label="Pulse rate"),
    Signal(name="resp", unit="/min", low=1, high=80, label="Respiratory rate"),
    Signal(name="spo2", unit="%", low=40, high=100, label="Oxygen saturation"),
    Signal(name="abp_sys", unit="mm[Hg]", low=30, high=280, label="Systolic arterial pressure"),
    Signal(name="abp_dia", unit="mm[Hg]", low=10, high=200, label="Diastolic arterial pressure"),
    Signal(name="abp_mean", unit="mm[Hg]", low=20, high=220, label="Mean arterial pressure"),
    Signal(name="nibp_sys", unit="mm[Hg]", low=30, high=280, label="Systolic cuff pressure"),
    Signal(name="nibp_dia", unit="mm[Hg]", low=10, high=200, label="Diastolic cuff pressure"),
    Signal(name="nibp_mean", unit="mm[Hg]", low=20, high=220, label="Mean cuff pressure"),
    Signal(name="temp", unit="Cel", low=25, high=45, label="Temperature"),
)
VITALS_BY_NAME: Final[Mapping[str, Signal]] = {signal.name: signal for signal in VITALS}

# The arterial line measures all three at once, so a contradiction between them discredits all three.
ARTERIAL_TRIPLE: Final = ("abp_sys", "abp_dia", "abp_mean")
# A mean is computed from the wave and rounded apart from its extremes: it may lie this far outside them (mmHg).
ARTERIAL_MEAN_SLACK: Final = 2.0

# "No value" as monitors write it: outside every plausible range, listed so that they are counted as what they are.
SENTINELS: Final = frozenset({-999.0, -99.9, -100.0, -1.0, -10000.0, 8388607.0, 0.0})

# UCUM units readings may use, by canonical unit: value in canonical unit = value * factor + offset.
# 1 kPa = 7.50062 mmHg (conventional millimetre of mercury, ISO 80000-4).
CONVERSIONS: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "/min": {"/min": (1.0, 0.0), "{beats}/min": (1.0, 0.0), "{breaths}/min": (1.0, 0.0)},
    "%": {"%": (1.0, 0.0)},
    "mm[Hg]": {"mm[Hg]": (1.0, 0.0), "kPa": (7.50062, 0.0)},
    "Cel": {"Cel": (1.0, 0.0), "[degF]": (5.0 / 9.0, -160.0 / 9.0), "K": (1.0, -273.15)},
}


# Words for a value that can be used, though the device doubts the second; any other word says that there is none.
USABLE: Final = frozenset({None, "good", "questionable"})


def canonical(
    signal: Signal, value: float, unit: str | None, quality: str | None
) -> float | Literal["unit", "invalid"]:
    """A value as sent in the signal's canonical unit (None: sent in it), or why it cannot be used."""
    if unit is None or unit == signal.unit:
        return value if quality in USABLE else "invalid"
    conversion = CONVERSIONS.get(signal.unit, {}).get(unit)
    if conversion is None:
        return "unit"
    if quality not in USABLE:
        return "invalid"
    converted = value * conversion[0] + conversion[1]
    # "No value" is written alike in any unit, but 0 may be a value in some.
    return value if value in SENTINELS and not signal.low <= converted <= signal.high else converted


def is_arterial_triple_consistent(sys: Any, dia: Any, mean: Any) -> Any:
    """Whether the three pressures of one arterial line can be true together: numbers, or arrays elementwise."""
    return (dia < sys) & (dia - ARTERIAL_MEAN_SLACK <= mean) & (mean <= sys + ARTERIAL_MEAN_SLACK)


def plausible(values: Mapping[str, float | None]) -> dict[str, float]:
    """Those of `values`, in canonical units, that are of a vital sign, in its range, and no contradictory triple."""
    found = {
        name: value
        for name, value in values.items()
        if value is not None and (signal := VITALS_BY_NAME.get(name)) and signal.low <= value <= signal.high
    }
    triple = [found.get(name) for name in ARTERIAL_TRIPLE]
    if None in triple or is_arterial_triple_consistent(*triple):
        return found
    return {name: value for name, value in found.items() if name not in ARTERIAL_TRIPLE}


NAME_RULE: Final = "a signal's name must be printable, without quotation marks and backslashes"


def is_name(text: str) -> bool:
    """Whether a signal may be called so: JSON has it as it is."""
    return bool(text) and text.isprintable() and not set(text) & {'"', "\\"}


def known_signals(declared: Iterable[Signal] = ()) -> tuple[Signal, ...]:
    """The table above, then what a model artifact declares beyond it. An artifact cannot redefine a vital sign.

    Raises: ValueError if `declared` gives a vital sign another unit or range.
    """
    extra = []
    for signal in declared:
        vital = VITALS_BY_NAME.get(signal.name)
        if vital is None:
            extra.append(signal)
        elif vital.scale != signal.scale:
            raise ValueError(
                f"signal {signal.name!r} is declared with another unit, range or precision than the contract's"
            )
    return (*VITALS, *extra)
