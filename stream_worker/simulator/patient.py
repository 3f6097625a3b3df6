"""One synthetic patient: correlated vital signs that drift, breathe with the time of day, and react to episodes.

Pure: the same seed and the same times give the same values.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from schemas.signals import VITALS_BY_NAME
from stream_worker.simulator.episodes import Episode, Script

CUFF_EVERY_S: Final = 900.0  # common charting interval in intensive care
TEMP_EVERY_S: Final = 60.0
DAY_S: Final = 86_400.0
# Share of the circadian swing by time of day: lowest at 4 o'clock, when pressure and heart rate are.
NADIR_S: Final = 4 * 3600.0

# Slow wandering around the baseline: standard deviation and time constant (Ornstein-Uhlenbeck), chosen so that minute
# to minute changes resemble those of the recordings this project is tested on.
DRIFT: Final = {
    "abp_mean": (4.5, 1200.0),
    "pulse_pressure": (4.0, 1800.0),
    "hr": (4.0, 900.0),
    "resp": (1.6, 600.0),
    "spo2": (0.8, 900.0),
    "temp": (0.12, 7200.0),
}
FLICKER: Final = {"abp_mean": 1.0, "pulse_pressure": 1.2, "hr": 1.0, "resp": 0.9, "spo2": 0.3, "temp": 0.03}
CIRCADIAN: Final = {"abp_mean": 4.0, "hr": 4.0, "resp": 1.0, "temp": 0.25}
# When pressure wanders down by 1 mmHg, the heart speeds up by this much (baroreflex).
BAROREFLEX: Final = -0.35


class Baseline(NamedTuple):
    """The patient at rest, units of schemas.signals; temp is measured continuously in some beds only."""

    abp_mean: float
    pulse_pressure: float
    hr: float
    resp: float
    spo2: float
    temp: float
    has_temp_probe: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Baseline:
        """An adult in intensive care, stable."""
        return cls(
            abp_mean=float(rng.uniform(74, 92)),
            pulse_pressure=float(rng.uniform(42, 62)),
            hr=float(rng.uniform(66, 94)),
            resp=float(rng.uniform(13, 19)),
            spo2=float(rng.uniform(95.5, 98.5)),
            temp=float(rng.uniform(36.5, 37.4)),
            has_temp_probe=bool(rng.random() < 0.5),
        )


class Patient:
    """A stay and its monitor; `step` advances it."""

    def __init__(self, stay_id: str, kind: str, start: float, seed: tuple[int, ...]) -> None:
        self.stay_id = stay_id
        self._rng = np.random.default_rng(seed)
        self._baseline = Baseline.draw(self._rng)
        self._script = Script(kind, start, self._rng)
        self._drift = {name: float(self._rng.normal(0, sd)) for name, (sd, _) in DRIFT.items()}
        self._at: float | None = None
        self._next_cuff = -math.inf
        self._next_temp = -math.inf

    def step(self, at: float) -> dict[str, float]:
        """What the monitor shows at epoch second `at` (not before the previous one); absent = not observed."""
        elapsed = 0.0 if self._at is None else max(at - self._at, 0.0)
        self._at = at
        self._wander(elapsed)
        episode = self._script.at(at)
        body = self._body(at, episode)
        values = self._observe(at, body)
        if episode is not None:
            self._disturb(values, episode, elapsed, at)
        return {name: _as_monitors_write(name, value) for name, value in values.items()}

    def _wander(self, elapsed: float) -> None:
        for name, (sd, tau) in DRIFT.items():
            kept = math.exp(-elapsed / tau)
            self._drift[name] = kept * self._drift[name] + sd * math.sqrt(1 - kept * kept) * float(self._rng.normal())

    def _body(self, at: float, episode: Episode | None) -> dict[str, float]:
        """The true state: baseline, time of day, drift with its couplings, the episode, and a little noise."""
        swing = -math.cos(2 * math.pi * ((at - NADIR_S) % DAY_S) / DAY_S)
        strength = 0.0 if episode is None else episode.strength(at)
        shift = {} if episode is None else episode.effect.shift
        body = {
            name: getattr(self._baseline, name)
            + CIRCADIAN.get(name, 0.0) * swing
            + self._drift[name]
            + strength * shift.get(name, 0.0)
            + FLICKER[name] * float(self._rng.normal())
            for name in DRIFT
        }
        body["hr"] += BAROREFLEX * self._drift["abp_mean"]
        if episode is not None:
            body["hr"] += strength * episode.effect.irregular_pulse * float(self._rng.normal())
        body["spo2"] = min(body["spo2"], 100.0)
        return body

    def _observe(self, at: float, body: dict[str, float]) -> dict[str, float]:
        """What the devices measure of it; the arterial triple is consistent by construction."""
        pressure = max(body["abp_mean"], 28.0)
        pulse_pressure = max(min(body["pulse_pressure"], 0.9 * pressure), 12.0)
        dia = pressure - pulse_pressure / 3
        values = {
            "hr": body["hr"],
            "pulse": body["hr"] + 0.6 * float(self._rng.normal()),
            "resp": body["resp"],
            "spo2": body["spo2"],
            "abp_sys": dia + pulse_pressure,
            "abp_dia": dia,
            "abp_mean": pressure,
        }
        if self._baseline.has_temp_probe and at >= self._next_temp:
            self._next_temp = at + TEMP_EVERY_S
            values["temp"] = body["temp"]
        if at >= self._next_cuff:
            self._next_cuff = at + CUFF_EVERY_S
            bias = 3.0 * float(self._rng.normal())
            for part in ("sys", "dia", "mean"):
                values[f"nibp_{part}"] = values[f"abp_{part}"] + bias
        return values

    def _disturb(self, values: dict[str, float], episode: Episode, elapsed: float, at: float) -> None:
        """What goes wrong between patient and monitor: hidden signals and artefacts."""
        strength = episode.strength(at)
        if strength > 0.5:
            for name in episode.effect.hides:
                values.pop(name, None)
        rate = strength * episode.effect.artefacts_per_min * min(elapsed, 60.0) / 60.0
        if self._rng.random() < rate:
            self._add_artefact(values)

    def _add_artefact(self, values: dict[str, float]) -> None:
        match int(self._rng.integers(4)):
            case 0:  # fast flush of the arterial line: all three at the flush bag's pressure
                values.update(abp_sys=278.0, abp_dia=262.0, abp_mean=270.0)
            case 1:  # motion on the impedance leads
                values["resp"] = float(self._rng.uniform(45, 75))
            case 2:  # a loose electrode counts noise as beats
                values["hr"] = float(self._rng.uniform(170, 230))
            case _:  # the device's code for "no value"
                values["spo2"] = -100.0


def _as_monitors_write(name: str, value: float) -> float:
    """Whole numbers except temperature, kept in the plausible range unless it is a device code."""
    if value < 0:
        return value
    signal = VITALS_BY_NAME[name]
    return float(round(min(max(value, signal.low), signal.high), 1 if name == "temp" else 0))
