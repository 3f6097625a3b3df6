"""Which readings could change an alert, told by columns; and the alert rules for those.

Nearly all readings of a ward change no alert. The screen errs on the side of looking: in what it lets pass unseen, no
rule would have noticed anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.signals import known_signals
from stream_worker.alerts import aggregate, life, rules, technical
from stream_worker.alerts.budget import Allowance
from stream_worker.alerts.life import Transition
from stream_worker.alerts.observation import Observation
from stream_worker.alerts.outlook import highest_outlooks, log_odds, outlooks
from stream_worker.alerts.rules import LimitRule
from stream_worker.columns import MICROSECONDS, Readings
from stream_worker.limits import SignalLimits, limits_of
from stream_worker.settings import Settings
from stream_worker.stays import NEVER, Extras, Slots, Stays
from stream_worker.window import Bools, Ints

Floats = NDArray[np.float64]

# Which signals are missed when they stop coming. A cuff measures when it is told to, a thermometer is often taken off.
_CONTINUOUS: Final = ("hr", "pulse", "resp", "spo2", "abp_sys", "abp_dia", "abp_mean")
_RATES: Final = ("hr", "pulse")


class Accepted(NamedTuple):
    """The accepted readings of a round, of n distinct stays; K known signals, of which V are forecast."""

    rows: Slots  # (n,) of `Readings`
    slots: Slots  # (n,)
    quanta: Ints  # (n, K)
    is_fresh: Bools  # (n, K) the newest of its signal, and not doubted by the device
    quantiles: Ints  # (n, V, H, Q) in quanta
    scores: Floats  # (n, V) of anomaly
    flags: Bools  # (n, V)


class _Profile(NamedTuple):
    """The limits of a stay, ready for the rules; V forecast signals."""

    rules: tuple[LimitRule, ...]
    low: Floats  # (V,) NaN where there is none
    high: Floats  # (V,)


class AlertScreen:
    """Runs the alert rules for the readings that may change an alert of their stay."""

    def __init__(self, settings: Settings, stays: Stays) -> None:
        self._stays = stays
        self._limits = settings.limits
        self._with_news2 = settings.news2
        self._per_day = settings.alert_budget_per_patient_day
        self._profile_of_unit: dict[str | None, _Profile] = {}
        layout = stays.layout
        names, manifest = layout.names, layout.manifest
        self._continuous = [names.index(name) for name in _CONTINUOUS]
        self._rates = [names.index(name) for name in _RATES]
        self._flatline = [names.index(name) for name in technical.FLATLINE_SIGNALS]
        defaults = limits_of(self._limits, None, {})
        self._low = np.array([_or_nan(defaults.get(name), "low") for name in names])
        self._high = np.array([_or_nan(defaults.get(name), "high") for name in names])
        self._column = {name: k for k, name in enumerate(names)}
        thresholds = [log_odds(defaults[n].forecast_probability if n in defaults else 1.0) for n in manifest.signals]
        self._outlook_from = np.array(thresholds) - rules.FORECAST_ONSET - 1e-6  # outlooks are rounded
        self._highest_outlook = highest_outlooks(manifest.quantile_levels)
        self._forecast_precision = layout.precision[layout.forecast][:, None, None]
        self._decimals = max(signal.decimals for signal in known_signals(manifest.inputs))

    def step(
        self, readings: Readings, accepted: Accepted, offsets: Ints, held: Counter[str]
    ) -> Iterator[tuple[int, list[Transition]]]:
        """Move the stays' alerts by one reading each; yields the transitions of the i-th, where there are any.

        held : counts what was held back, by reason.
        """
        stays = self._stays
        values = np.where(accepted.is_fresh, accepted.quanta * stays.layout.precision, np.nan)
        is_missed = self._misses_signal(readings.observed_us[accepted.rows], accepted.slots)
        reaches = self._reaches_limit(values, accepted.quantiles)
        needs_look = is_missed | reaches.any(axis=1) | self._may_change(readings, accepted, values)
        for i, (row, slot) in enumerate(zip(accepted.rows.tolist(), accepted.slots.tolist(), strict=True)):
            extras = stays.extras[slot]
            if readings.care_units[row] is not None:
                extras.care_unit = readings.care_units[row]
            if extras.limits or extras.care_unit in self._limits:
                reaches[i] = needs_look[i] = True  # the columns know the default limits only
        looked = np.flatnonzero(needs_look)
        if not len(looked):
            return
        profiles = [self._profile(stays.extras[slot]) for slot in accepted.slots[looked].tolist()]
        self._add_concerned(reaches, looked, accepted.slots[looked])
        observations = self._observations(readings, accepted, values, looked, is_missed, reaches[looked], profiles)
        for i, profile, seen in zip(looked.tolist(), profiles, observations, strict=True):
            slot = int(accepted.slots[i])
            extras = stays.extras[slot]
            if self._with_news2:
                aggregate.remember(
                    extras.news2_inputs, seen.at_us, seen.values, readings.observations.get(int(accepted.rows[i]))
                )
                suspects = technical.suspects(extras.alerts)
                seen.news2 = aggregate.score_of(extras.news2_inputs, seen.at_us, suspects, extras.spo2_scale)
            found = rules.findings(extras.alerts, seen, profile.rules)
            transitions = life.step(extras.alerts, found, seen.at_us, seen.last_at_us, int(offsets[i]), held)
            self._spend(slot, transitions)
            stays.has_alerts[slot] = extras.has_alerts
            if transitions:
                yield i, transitions

    def _spend(self, slot: int, transitions: Sequence[Transition]) -> None:
        """Count what was raised against the budget; what a stay raises beyond its allowance is not the ward's."""
        extras, per_day = self._stays.extras[slot], self._per_day
        budget = self._stays.budgets[int(self._stays.partition[slot])]
        for transition in transitions:
            if per_day and transition.state == "raised":
                allowance = extras.allowance or Allowance.full(per_day, transition.at_us)
                extras.allowance = allowance
                budget.raised += allowance.spend(transition.at_us, per_day)

    def _may_advise(self, slot: int, at_us: int) -> bool:
        allowance = self._stays.extras[slot].allowance
        return allowance is None or not self._per_day or allowance.at(at_us, self._per_day) >= 1.0

    def _profile(self, extras: Extras) -> _Profile:
        if extras.limits:
            return self._profile_for(limits_of(self._limits, extras.care_unit, extras.limits))
        if extras.care_unit not in self._profile_of_unit:
            if len(self._profile_of_unit) > 1000:  # a sender can make up any number of care units
                self._profile_of_unit.clear()
            limits = limits_of(self._limits, extras.care_unit, {})
            self._profile_of_unit[extras.care_unit] = self._profile_for(limits)
        return self._profile_of_unit[extras.care_unit]

    def _profile_for(self, limits: Mapping[str, SignalLimits]) -> _Profile:
        signals = self._stays.layout.manifest.signals
        low, high = (np.array([_or_nan(limits.get(name), side) for name in signals]) for side in ("low", "high"))
        return _Profile(rules.limit_rules(limits), low, high)

    # --- the screen ---

    def _misses_signal(self, observed_us: Ints, slots: Slots) -> Bools:
        """Whether a continuous signal has been away for as long as a fallen-off sensor, (n,)."""
        last_at = self._stays.head["last_at"][slots][:, self._continuous]
        silent_us = observed_us[:, None] - np.maximum(last_at, 0)
        is_off = (last_at != NEVER) & (silent_us >= technical.SENSOR_OFF_AFTER_S * MICROSECONDS)
        missed: Bools = (is_off & (silent_us < technical.SENSOR_OFF_UNTIL_S * MICROSECONDS)).any(axis=1)
        return missed

    def _may_change(self, readings: Readings, accepted: Accepted, values: Floats) -> Bools:
        """Whether an open alert, or a rule that knows no limit, may have something to say, (n,); values (n, K)."""
        if self._with_news2:  # its inputs come one by one
            return np.ones(len(accepted.rows), np.bool_)
        rows, slots = accepted.rows, accepted.slots
        may = self._stays.has_alerts[slots] | readings.implausible[rows].any(axis=1) | accepted.flags.any(axis=1)
        with np.errstate(invalid="ignore"):
            rates = values[:, self._rates]
            may |= np.abs(rates[:, 0] - rates[:, 1]) > technical.DISAGREEMENT_RATE
        changed_at = self._stays.head["changed_at"][slots][:, self._flatline]
        still_us = readings.observed_us[rows][:, None] - np.maximum(changed_at, 0)
        is_flat = accepted.is_fresh[:, self._flatline] & (still_us >= technical.FLATLINE_AFTER_S * MICROSECONDS)
        may |= is_flat.any(axis=1)
        return may

    def _reaches_limit(self, values: Floats, quantiles: Ints) -> Bools:
        """Whether a value (n, K) is beyond a default limit, or its forecast (n, V, H, Q) may announce that, (n, K)."""
        layout = self._stays.layout
        with np.errstate(invalid="ignore"):
            reaches: Bools = (values < self._low) | (values > self._high)
            forecast = values[:, layout.forecast]
            for side, limits, highest in zip(
                ("low", "high"), (self._low, self._high), self._highest_outlook, strict=True
            ):
                limit = limits[layout.forecast]
                quanta = (limit / layout.precision[layout.forecast])[:, None, None]
                outside = (quantiles < quanta if side == "low" else quantiles >= quanta).sum(axis=3)
                # A bound first: the distribution is worked out only where it may be enough.
                may = np.abs(forecast - limit) <= rules.FORECAST_REACH * limit
                may &= highest[outside].mean(axis=2) >= self._outlook_from
                row, v = np.nonzero(may)
                predicted = self._in_units(quantiles)[row, v]
                outlook = outlooks(predicted, layout.manifest.quantile_levels, limit[v], side)
                reaches[row, layout.forecast[v]] |= outlook >= self._outlook_from[v]
        return reaches

    def _in_units(self, quantiles: Ints) -> Floats:
        return np.round(quantiles * self._forecast_precision, 6)

    def _add_concerned(self, reaches: Bools, looked: Slots, slots: Slots) -> None:
        """Mark, for the readings looked at, the signals that have an alert or are about to."""
        for i, slot in zip(looked.tolist(), slots.tolist(), strict=True):
            for key in self._stays.extras[slot].alerts:
                if key[1] is not None:
                    reaches[i, self._column[key[1]]] = True

    # --- what the rules see ---

    def _observations(
        self,
        readings: Readings,
        accepted: Accepted,
        values: Floats,
        looked: Slots,
        is_missed: Bools,
        concerned: Bools,
        profiles: Sequence[_Profile],
    ) -> Iterator[Observation]:
        """Of the readings `looked` (m,) at, in order; `values` (n, K) are the usable ones of all.

        concerned : (m, K) signals whose limits may have something to say.
        """
        layout, slots, rows = self._stays.layout, accepted.slots[looked], accepted.rows[looked]
        names, signals = layout.names, layout.manifest.signals
        head = self._stays.head[slots]
        has_outlook = concerned[:, layout.forecast] & (head["last_at"][:, layout.forecast] != NEVER)
        columns = zip(
            readings.observed_us[rows].tolist(),
            np.round(values[looked], self._decimals).tolist(),
            np.round(head["last"] * layout.precision, self._decimals).tolist(),
            head["last_at"].tolist(),
            head["changed_at"][:, self._flatline].tolist(),
            readings.implausible[rows],
            accepted.scores[looked].tolist(),
            accepted.flags[looked],
            *(
                self._outlooks(accepted.quantiles[looked], profiles, side, has_outlook).tolist()
                for side in ("low", "high")
            ),
            concerned.tolist(),
            zip(slots.tolist(), is_missed[looked].tolist(), strict=True),
            strict=True,
        )
        for at_us, value, last, last_at, changed_at, implausible, score, flags, low, high, own, (
            slot,
            misses,
        ) in columns:
            yield Observation(
                at_us=at_us,
                values={name: v for name, v in zip(names, value, strict=True) if v == v},  # noqa: PLR0124 - not NaN
                last=dict(zip(names, last, strict=True)),
                last_at_us={name: at for name, at in zip(names, last_at, strict=True) if at != NEVER},
                changed_at_us=dict(zip(technical.FLATLINE_SIGNALS, changed_at, strict=True)),
                implausible=tuple(names[k] for k in np.flatnonzero(implausible)) if implausible.any() else (),
                scores={name: s for name, s in zip(signals, score, strict=True) if s == s},  # noqa: PLR0124
                flagged=tuple(signals[v] for v in np.flatnonzero(flags)) if flags.any() else (),
                regular=self._regular(slot) if misses else frozenset(),
                horizon_s=layout.manifest.horizons_s[-1],
                shift=self._stays.budgets[int(self._stays.partition[slot])].shift,
                concerned=frozenset(compress(names, own)),
                may_advise=self._may_advise(slot, at_us),
                outlooks={
                    (name, side): chance
                    for side, chances in (("low", low), ("high", high))
                    for name, chance in zip(signals, chances, strict=True)
                    if chance == chance  # noqa: PLR0124
                },
            )

    def _outlooks(self, quantiles: Ints, profiles: Sequence[_Profile], side: str, wanted: Bools) -> Floats:
        """Log-odds (m, V) to come to be beyond the stay's own limits; NaN without a limit, or where not `wanted`."""
        limits = np.array([getattr(profile, side) for profile in profiles])
        result = np.full(limits.shape, np.nan)
        given = wanted & ~np.isnan(limits)
        predicted = self._in_units(quantiles)[given]
        result[given] = outlooks(predicted, self._stays.layout.manifest.quantile_levels, limits[given], side)
        return result

    def _regular(self, slot: int) -> frozenset[str]:
        """The inputs that came in most of the window's steps up to their last one; all, if it is older than that."""
        layout, head, body = self._stays.layout, self._stays.head[slot], self._stays.body[slot]
        steps = layout.manifest.context_steps
        ages = (body["step"] - np.arange(steps)) % steps  # rows of the window, newest first
        observed = body["window"][ages] != layout.missing
        since = np.clip(body["step"] - head["last_at"][layout.inputs] // layout.step_us, 0, steps)
        share = observed.sum(axis=0) / np.maximum(steps - since, 1)
        is_regular = (share >= technical.REGULAR_SHARE) | (since == steps)
        return frozenset(
            signal.name for signal, regular in zip(layout.manifest.inputs, is_regular, strict=True) if regular
        )


def _or_nan(limits: SignalLimits | None, side: str) -> float:
    value = None if limits is None else getattr(limits, side)
    return np.nan if value is None else value
