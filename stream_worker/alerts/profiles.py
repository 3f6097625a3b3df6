"""The limits of each stay, ready for the rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.reading import LimitRange
from stream_worker.alerts.outlook import log_odds
from stream_worker.alerts.rules import FORECAST_ONSET, LimitRules, limit_rules
from stream_worker.limits import AlertLimits, SignalLimits, limits_of

MAX_PROFILES: Final = 1000  # remembered at once: a sender can make up any number of care units


class Profile(NamedTuple):
    """The limits of a stay; K known signals, of which V are forecast."""

    rules: LimitRules
    low: NDArray[np.float64]  # (K,) NaN where there is none
    high: NDArray[np.float64]  # (K,)
    outlook_from: NDArray[np.float64]  # (V,) log-odds from which a forecast may have something to say


class Profiles:
    """Profiles by care unit, and those of stays with limits of their own."""

    def __init__(self, limits: Mapping[str, AlertLimits], names: Sequence[str], signals: Sequence[str]) -> None:
        """`names` are the known signals, `signals` those forecast, in order."""
        self._limits = limits
        self._names = names
        self._signals = signals
        self._profile = lru_cache(MAX_PROFILES)(self._make)

    @property
    def units(self) -> Collection[str]:
        """Care units that have limits of their own."""
        return self._limits.keys()

    def of(self, care_unit: str | None, own: Mapping[str, LimitRange]) -> Profile:
        """The profile of a stay in `care_unit` that has limits of its `own`."""
        return self._profile(care_unit, tuple(own.items()))

    def _make(self, care_unit: str | None, own: tuple[tuple[str, LimitRange], ...]) -> Profile:
        limits = limits_of(self._limits, care_unit, dict(own))
        low, high = (_limit_values(limits, self._names, side) for side in ("low", "high"))
        thresholds = [log_odds(limits[n].forecast_probability if n in limits else 1.0) for n in self._signals]
        outlook_from = np.array(thresholds) - FORECAST_ONSET - 1e-6  # outlooks are rounded
        return Profile(limit_rules(limits), low, high, outlook_from)


def _limit_values(limits: Mapping[str, SignalLimits], names: Sequence[str], side: str) -> NDArray[np.float64]:
    """The limits of the signals on one side, NaN where there is none."""
    values = (None if name not in limits else getattr(limits[name], side) for name in names)
    return np.array([np.nan if value is None else value for value in values])
