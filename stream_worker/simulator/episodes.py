"""Scripted deteriorations: what happens to a patient, when, and how strongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np


class Effect(NamedTuple):
    """What an episode at full strength adds to the patient's physiology (units of schemas.signals), and hides."""

    shift: Mapping[str, float] = {}
    hides: frozenset[str] = frozenset()
    irregular_pulse: float = 0.0  # beat-to-beat noise of hr and pulse, /min
    artefacts_per_min: float = 0.0


# Shapes follow textbook presentations; sizes are chosen to cross the default alert limits from most baselines.
EFFECTS: Final[Mapping[str, Effect]] = {
    "stable": Effect(),
    # Vasodilation: pressure falls, heart and lungs compensate, fever.
    "septic_hypotension": Effect(
        {"abp_mean": -36.0, "pulse_pressure": -8.0, "hr": 34.0, "resp": 9.0, "spo2": -2.0, "temp": 1.4}
    ),
    # Airway or lung: saturation falls, breathing and heart speed up.
    "desaturation": Effect({"spo2": -15.0, "resp": 11.0, "hr": 16.0, "abp_mean": 4.0}),
    # Fast atrial fibrillation: abrupt, irregular, and the heart fills badly.
    "tachyarrhythmia": Effect({"hr": 68.0, "abp_mean": -12.0, "pulse_pressure": -12.0}, irregular_pulse=9.0),
    # The finger probe fell off: its two signals vanish, the patient is well.
    "sensor_off": Effect(hides=frozenset({"spo2", "pulse"})),
    # A restless patient and a flushed line: single impossible or implausible values.
    "artefacts": Effect(artefacts_per_min=2.5),
}
ABRUPT: Final = frozenset({"tachyarrhythmia", "sensor_off", "artefacts"})

# What the beds of a ward go through, in turn: two of eight stay well, so that a viewer sees calm beside trouble.
SCRIPT: Final = (
    "septic_hypotension",
    "stable",
    "desaturation",
    "tachyarrhythmia",
    "sensor_off",
    "stable",
    "artefacts",
    "septic_hypotension",
)


class Episode(NamedTuple):
    """One deterioration: it develops over `onset_s`, lasts `hold_s` and resolves over `recovery_s`. Epoch seconds."""

    kind: str
    start: float
    onset_s: float
    hold_s: float
    recovery_s: float

    @property
    def effect(self) -> Effect:
        """What it does at full strength."""
        return EFFECTS[self.kind]

    @property
    def end(self) -> float:
        """When the patient is well again."""
        return self.start + self.onset_s + self.hold_s + self.recovery_s

    def strength(self, at: float) -> float:
        """0 before and after, 1 while it holds, along a smooth S in between."""
        since = at - self.start
        if since < self.onset_s:
            return _smooth_step(since / self.onset_s)
        return 1.0 - _smooth_step((since - self.onset_s - self.hold_s) / self.recovery_s)


def _smooth_step(x: float) -> float:
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


class Script:
    """The episodes of one bed: the first begins within minutes of `start`, the next after a calm of 15 to 30 min."""

    def __init__(self, kind: str, start: float, rng: np.random.Generator) -> None:
        self._kind = kind
        self._rng = rng
        self._current = self._next(start + float(rng.uniform(20, 120)))

    def at(self, at: float) -> Episode | None:
        """The episode that acts at `at`, if any. Times must not go back."""
        if at > self._current.end:
            self._current = self._next(self._current.end + float(self._rng.uniform(900, 1800)))
        return self._current if at >= self._current.start else None

    def _next(self, start: float) -> Episode:
        is_abrupt = self._kind in ABRUPT
        onset_s = self._rng.uniform(10, 30) if is_abrupt else self._rng.uniform(180, 330)
        recovery_s = self._rng.uniform(20, 60) if is_abrupt else self._rng.uniform(240, 420)
        return Episode(self._kind, start, float(onset_s), float(self._rng.uniform(420, 720)), float(recovery_s))
