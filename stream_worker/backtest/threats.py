"""What the early-warning rule of one limit saw at every reading, and what it would have done at another threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Floats, Ints
from stream_worker.alerts import rules
from stream_worker.alerts.life import Entries
from stream_worker.alerts.observation import Accepted, Observation
from stream_worker.alerts.rules import RESTS, Rests
from stream_worker.alerts.screen import AlertScreen, Changed
from stream_worker.backtest.episodes import HYPOTENSION
from stream_worker.columns import Readings
from stream_worker.limits import SignalLimits
from stream_worker.settings import Settings
from stream_worker.stays import Stays
from stream_worker.times import MINUTE_US, NEVER


class Threats(NamedTuple):
    """The readings of one stay, (n,) each: when, the value (NaN: none), the log-odds that it comes to be beyond."""

    at_us: Ints
    values: Floats
    ahead: Floats
    quantiles: NDArray[np.float32]  # (n, H, Q) of the forecast made then


class ThreatScreen(AlertScreen):
    """Keeps what the rule for hypotension sees, besides doing its work."""

    def __init__(self, settings: Settings, stays: Stays) -> None:
        super().__init__(settings, stays)
        signal, forecast = HYPOTENSION.signal, stays.layout.manifest.signals
        self._known = stays.layout.names.index(signal)
        self._forecast = forecast.index(signal) if signal in forecast else None
        self._seen: list[tuple[NDArray[np.str_], Ints, Floats, Floats, NDArray[np.float32]]] = []

    def step(self, readings: Readings, accepted: Accepted, held: Counter[str]) -> Iterator[Changed]:
        """As the worker's."""
        if self._forecast is not None:
            self._keep(readings, accepted, self._forecast)
        yield from super().step(readings, accepted, held)

    def _keep(self, readings: Readings, accepted: Accepted, v: int) -> None:
        layout, k = self._stays.layout, self._known
        profiles = [self._profiles.of(None, {})] * len(accepted.rows)
        wanted = accepted.last_at[:, layout.forecast] != NEVER
        ahead = self._outlooks(accepted.quantiles, profiles, HYPOTENSION.side, wanted)
        values = np.round(accepted.quanta[:, k] * layout.precision[k], self._decimals)
        self._seen.append(
            (
                np.array([self._stays.ids[slot] for slot in accepted.slots.tolist()]),
                readings.observed_us[accepted.rows],
                np.where(accepted.is_fresh[:, k], values, np.nan),
                ahead[:, v],
                (accepted.quantiles[:, v] * layout.precision[k]).astype(np.float32),
            )
        )

    def threats(self) -> dict[str, Threats]:
        """By stay."""
        if not self._seen:
            return {}
        stay_ids, *columns = (np.concatenate(column) for column in zip(*self._seen, strict=True))
        order = np.argsort(stay_ids, kind="stable")
        names, firsts = np.unique(stay_ids[order], return_index=True)
        parts = [np.split(column[order], firsts[1:]) for column in columns]
        return {str(name): Threats(*part) for name, *part in zip(names, *parts, strict=True)}


def announced_at(threats: Threats, limits: SignalLimits, rests: Rests = RESTS) -> list[tuple[float, float]]:
    """When the rules would have raised and cleared forecast alerts with `limits`, in minutes since the epoch."""
    signal, side = HYPOTENSION.signal, HYPOTENSION.side
    own = [rule for rule in rules.limit_rules({signal: limits}, rests).each if rule.side == side]
    if not own:
        return []  # the limit is lifted
    of_side = rules.LimitRules.of(own)
    bar = own[0].threshold - rules.FORECAST_ONSET
    entries: Entries = {}
    times: list[tuple[float, float]] = []
    columns = zip(*(column.tolist() for column in threats[:3]), strict=True)
    last_us = 0
    for at_us, value, ahead in columns:
        is_seen = value == value  # noqa: PLR0124 - not NaN
        last_us = at_us if is_seen else last_us
        if not entries and not (ahead >= bar or (is_seen and any(rule.is_beyond(value) for rule in own))):
            continue  # no rule would notice, and most readings are so
        values = {signal: value} if is_seen else {}
        at, outlooks = {signal: last_us}, {(signal, str(side)): ahead}
        seen = Observation(at_us, values, values, at, {signal: at_us}, (), {}, (), outlooks, 0)
        for moved in rules.look(entries, seen, of_side, 0, Counter()):
            if moved.key.kind != "forecast_limit":
                continue
            if moved.state == "raised":
                times.append((at_us / MINUTE_US, np.inf))
            elif moved.state == "cleared":
                times[-1] = (times[-1][0], at_us / MINUTE_US)
    return times
