"""Which readings could change an alert, told by columns; and the alert rules for those.

Nearly all readings of a ward change no alert. The screen errs on the side of looking: in what it lets pass unseen, no
rule would have noticed anything.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import compress
from typing import Final, NamedTuple

import numpy as np

from model.arrays import Bools, Floats, Ints
from schemas.reading import Observations
from schemas.signals import known_signals
from stream_worker import window
from stream_worker.alerts import life, news2_alert, rules, technical
from stream_worker.alerts.budget import Allowance, Budget, pass_time
from stream_worker.alerts.life import Transition
from stream_worker.alerts.observation import Accepted, Observation, Row
from stream_worker.alerts.outlook import highest_outlooks, outlooks
from stream_worker.alerts.profiles import Profile, Profiles
from stream_worker.alerts.rules import LimitRules
from stream_worker.columns import Readings
from stream_worker.settings import Settings
from stream_worker.stays import Slots, Stays
from stream_worker.times import NEVER, SECOND_US

_RATES: Final = ("hr", "pulse")


class Changed(NamedTuple):
    """What the i-th of the accepted readings did to its stay's alerts, as of the record at `offset`."""

    i: int
    offset: int
    transitions: list[Transition]


class AlertScreen:
    """Runs the alert rules for the readings that may change an alert of their stay."""

    def __init__(self, settings: Settings, stays: Stays) -> None:
        self._stays = stays
        self._with_news2 = settings.news2
        self._per_day = settings.alert_budget_per_patient_day
        self._stale_after_s = settings.stale_after_s
        layout = stays.layout
        names, manifest = layout.names, layout.manifest
        self._profiles = Profiles(settings.limits, names, manifest.signals)
        self._sensors = [names.index(name) for name in technical.SENSOR_SIGNALS]
        self._rates = [names.index(name) for name in _RATES]
        self._flatline = [names.index(name) for name in technical.FLATLINE_SIGNALS]
        self._column = {name: k for k, name in enumerate(names)}
        self._forecast_column = {name: v for v, name in enumerate(manifest.signals)}
        self._highest_outlook = highest_outlooks(manifest.quantile_levels)
        self._decimals = max(signal.decimals for signal in known_signals(manifest.inputs))

    def step(self, readings: Readings, accepted: Accepted, held: Counter[str]) -> Iterator[Changed]:
        """Move the stays' alerts by readings in their order, which may be several of a stay.

        held : counts what was held back, by reason.
        """
        stays, slots, names = self._stays, accepted.slots, self._stays.layout.names
        values = np.where(accepted.is_fresh, accepted.quanta * stays.layout.precision, np.nan)
        units = self._care_units(readings, accepted)
        reaches = self._reaches_limit(values, accepted.quantiles, [self._profiles.of(None, {})])
        if own := self._with_own_limits(units, slots):
            profiles = self._profiles_of(units, slots, own)
            reaches[own] = self._reaches_limit(values[own], accepted.quantiles[own], profiles)
        needs_look = reaches.any(axis=1) | self._may_change(readings, accepted, values)
        # A stay that has alerts is looked at whatever comes, and it may come to have some on the way.
        looked = np.flatnonzero(np.isin(slots, slots[needs_look | stays.has_alerts[slots]]))
        profiles = self._profiles_of(units, slots, looked.tolist())
        all_seen = self._observations(readings, accepted, values, looked, reaches, profiles)
        budget_steps = self._budget_steps(accepted)
        for i, profile, seen in zip(looked.tolist(), profiles, all_seen, strict=True):
            while budget_steps and budget_steps[0][0] <= i:
                budget_steps.popleft()[1].step(self._per_day)
            slot = int(slots[i])
            if accepted.silent_since[i] != NEVER:
                before = int(accepted.offsets_before[i])
                yield Changed(i, before, self.lose_data(slot, int(accepted.silent_since[i]), before))
            stays.extras[slot].care_unit = units[i]
            if needs_look[i] or stays.has_alerts[slot]:
                offset, charted = int(accepted.offsets[i]), readings.observations.get(int(accepted.rows[i]))
                limits = profile.rules.concerning(self._with_alerts(slot).union(compress(names, reaches[i].tolist())))
                yield Changed(i, offset, self._look(slot, seen, limits, charted, offset, held))
        for _, budget in budget_steps:
            budget.step(self._per_day)
        if any(readings.care_units):
            for slot, unit in zip(slots.tolist(), units, strict=True):
                stays.extras[slot].care_unit = unit

    def lose_data(self, slot: int, newest_us: int, offset: int) -> list[Transition]:
        """Raise the stay's no_data alert, unless it is open: its last reading, at `offset`, was at `newest_us`."""
        extras = self._stays.extras[slot]
        if life.NO_DATA in extras.alerts:
            return []
        self._stays.has_alerts[slot] = True
        return life.lose_data(extras.alerts, newest_us, self._stale_after_s, offset)

    def _look(
        self,
        slot: int,
        seen: Observation,
        limits: LimitRules,
        charted: Observations | None,
        offset: int,
        held: Counter[str],
    ) -> list[Transition]:
        """Run the rules on one reading, of its stay as the readings before have left it."""
        extras, score_of = self._stays.extras[slot], None
        seen.shift = self.shift(int(self._stays.partition[slot]))
        seen.may_advise = self._may_advise(slot, seen.at_us)
        seen.care_unit = extras.care_unit
        if self._with_news2:
            inputs = extras.news2_inputs
            news2_alert.remember(inputs, seen.at_us, seen.values, charted)
            score_of = partial(news2_alert.score_of, inputs, seen.at_us, extras.spo2_scale)
        transitions = rules.look(extras.alerts, seen, limits, offset, held, score_of)
        self._spend(slot, transitions)
        self._stays.has_alerts[slot] = extras.has_alerts
        return transitions

    # --- stays ---

    def _care_units(self, readings: Readings, accepted: Accepted) -> list[str | None]:
        """Where each reading's stay is, as of that reading."""
        extras, newest, units = self._stays.extras, dict[int, str | None](), []
        if not any(readings.care_units):
            return [extras[slot].care_unit for slot in accepted.slots.tolist()]
        is_newest = readings.observed_us[accepted.rows] == accepted.newest
        columns = (accepted.rows.tolist(), accepted.slots.tolist(), is_newest.tolist())
        for row, slot, is_stays_newest in zip(*columns, strict=True):
            unit = readings.care_units[row]
            if unit is None or not is_stays_newest:
                unit = newest[slot] if slot in newest else extras[slot].care_unit
            newest[slot] = unit
            units.append(unit)
        return units

    def _with_own_limits(self, units: list[str | None], slots: Slots) -> list[int]:
        """The readings for which other limits than the defaults hold."""
        extras, known = self._stays.extras, self._profiles.units
        return [
            i
            for i, (unit, slot) in enumerate(zip(units, slots.tolist(), strict=True))
            if unit in known or extras[slot].limits
        ]

    def _profiles_of(self, units: list[str | None], slots: Slots, readings: list[int]) -> list[Profile]:
        """The limits that hold for some of the readings."""
        extras = self._stays.extras
        return [
            self._profiles.of(units[i], extras[slot].limits)
            for i, slot in zip(readings, slots[readings].tolist(), strict=True)
        ]

    # --- the budget ---

    def _budget_steps(self, accepted: Accepted) -> deque[tuple[int, Budget]]:
        """Whose controller moves before which of the readings."""
        steps: list[tuple[int, Budget]] = []
        partitions = self._stays.partition[accepted.slots]
        for partition in np.unique(partitions).tolist() if self._per_day else ():
            own, budget = np.flatnonzero(partitions == partition), self._stays.budgets[partition]
            steps += [(int(own[at]), budget) for at in pass_time(budget, accepted.monitored_us[own])]
        return deque(sorted(steps, key=lambda step: step[0]))

    def shift(self, partition: int) -> float:
        """By how much the budget raises the thresholds of advice in a partition now, log-odds."""
        return self._stays.budgets[partition].shift if self._per_day else 0.0

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

    # --- the screen ---

    def _may_change(self, readings: Readings, accepted: Accepted, values: Floats) -> Bools:
        """Whether a rule that knows no limit may have something to say, (n,); values (n, K)."""
        if self._with_news2:  # its inputs come one by one
            return np.ones(len(accepted.rows), np.bool_)
        rows = accepted.rows
        may: Bools = accepted.flags.any(axis=1) | (accepted.silent_since != NEVER)
        may |= readings.implausible[rows].any(axis=1)
        silent_us = window.time_since(accepted.last_at[:, self._sensors], readings.observed_us[rows][:, None])
        is_off: Bools = np.asarray(silent_us >= technical.SENSOR_OFF_AFTER_S * SECOND_US)
        may |= np.asarray(is_off & (silent_us < technical.SENSOR_OFF_UNTIL_S * SECOND_US)).any(axis=1)
        with np.errstate(invalid="ignore"):
            rates = values[:, self._rates]
            may |= np.abs(rates[:, 0] - rates[:, 1]) > technical.DISAGREEMENT_RATE
        still_us = window.time_since(accepted.changed_at[:, self._flatline], readings.observed_us[rows][:, None])
        is_flat = accepted.is_fresh[:, self._flatline] & (still_us >= technical.FLATLINE_AFTER_S * SECOND_US)
        may |= is_flat.any(axis=1)
        return may

    def _reaches_limit(self, values: Floats, quantiles: Ints, profiles: Sequence[Profile]) -> Bools:
        """Whether a value (n, K) is beyond its limit, or its forecast (n, V, H, Q) may announce that, (n, K).

        profiles : n, or one for all.
        """
        layout = self._stays.layout
        low, high = (np.array([getattr(profile, side) for profile in profiles]) for side in ("low", "high"))
        forecast, precision = values[:, layout.forecast], layout.precision[layout.forecast]
        outlook_from = np.broadcast_to([profile.outlook_from for profile in profiles], forecast.shape)
        with np.errstate(invalid="ignore"):
            reaches: Bools = (values < low) | (values > high)
            for side, limits, highest in zip(("low", "high"), (low, high), self._highest_outlook, strict=True):
                limit = np.broadcast_to(limits[:, layout.forecast], forecast.shape)
                row, v = np.nonzero(np.abs(forecast - limit) <= rules.FORECAST_WATCH * np.abs(limit))
                # A bound first: the distribution is worked out only where it may be enough.
                near, quanta = quantiles[row, v], (limit / precision)[row, v, None, None]
                outside = (near < quanta if side == "low" else near >= quanta).sum(axis=2)
                may = highest[outside].mean(axis=1) >= outlook_from[row, v]
                if may.any():
                    row, v = row[may], v[may]
                    predicted = self._in_units(near[may], v)
                    outlook = outlooks(predicted, layout.manifest.quantile_levels, limit[row, v], side)
                    reaches[row, layout.forecast[v]] |= outlook >= outlook_from[row, v]
        return reaches

    def _in_units(self, quantiles: Ints, v: Ints) -> Floats:
        """Quantiles (m, H, Q) of the signals `v` (m,) in their units."""
        layout = self._stays.layout
        return np.round(quantiles * layout.precision[layout.forecast][v, None, None], 6)

    # --- what the rules see ---

    def _observations(
        self,
        readings: Readings,
        accepted: Accepted,
        values: Floats,
        looked: Slots,
        reaches: Bools,
        profiles: Sequence[Profile],
    ) -> Iterator[Observation]:
        """The readings `looked` (m,) at, of profiles (m,); values and reaches are (n, K), of all readings.

        `_look` fills in what the readings before one may change.
        """
        layout, rows = self._stays.layout, accepted.rows[looked]
        names, signals = layout.names, layout.manifest.signals
        is_known = accepted.last_at[looked][:, layout.forecast] != NEVER
        wanted = self._ever_concerned(accepted.slots[looked], reaches[looked])[:, layout.forecast] & is_known
        columns = (
            readings.observed_us[rows],
            np.round(values[looked], self._decimals),
            np.round(accepted.last[looked] * layout.precision, self._decimals),
            accepted.last_at[looked],
            accepted.changed_at[looked],
            readings.implausible[rows],
            accepted.scores[looked],
            accepted.flags[looked],
            *(self._outlooks(accepted.quantiles[looked], profiles, side, wanted) for side in ("low", "high")),
        )
        for at_us, value, last, last_at, changed_at, implausible, scores, flags, low, high in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            yield Observation(
                at_us=at_us,
                values=Row(self._column, value),
                last=Row(self._column, last),
                last_at_us=Row(self._column, last_at, NEVER),
                changed_at_us=Row(self._column, changed_at),
                implausible=tuple(compress(names, implausible)),
                scores=Row(self._forecast_column, scores),
                flagged=tuple(compress(signals, flags)),
                horizon_s=layout.manifest.horizons_s[-1],
                outlooks={
                    (name, side): chance
                    for side, chances in (("low", low), ("high", high))
                    for name, chance in zip(signals, chances, strict=True)
                    if chance == chance  # noqa: PLR0124 - not NaN
                },
            )

    def _ever_concerned(self, slots: Slots, reaches: Bools) -> Bools:
        """Signals of each reading's stay (m, K) that have an alert or, in these readings, may come to have one."""
        stays, stay = np.unique(slots, return_inverse=True)
        concerned = np.zeros((len(stays), reaches.shape[1]), np.bool_)
        np.logical_or.at(concerned, stay, reaches)
        for own, slot in zip(concerned, stays.tolist(), strict=True):
            own[[self._column[signal] for signal in self._with_alerts(slot)]] = True
        of_readings: Bools = concerned[stay]
        return of_readings

    def _with_alerts(self, slot: int) -> set[str]:
        return {key.signal for key in self._stays.extras[slot].alerts if key.signal is not None}

    def _outlooks(self, quantiles: Ints, profiles: Sequence[Profile], side: str, wanted: Bools) -> Floats:
        """Log-odds (m, V) to come to be beyond the stay's own limits; NaN without a limit, or where not `wanted`."""
        layout = self._stays.layout
        of_all = np.array([getattr(profile, side) for profile in profiles]).reshape(len(profiles), len(layout.names))
        limits: Floats = of_all[:, layout.forecast]
        result = np.full(limits.shape, np.nan)
        given = wanted & ~np.isnan(limits)
        if not given.any():
            return result
        predicted = self._in_units(quantiles[given], np.nonzero(given)[1])
        result[given] = outlooks(predicted, layout.manifest.quantile_levels, limits[given], side)
        return result
