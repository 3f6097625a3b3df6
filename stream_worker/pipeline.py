"""What a chunk of records does to the stays, and what it leaves: the pure core of the worker.

No Kafka, no clock: records in, outputs and changed state out. Records of one stay are taken in their order; the k-th
readings of all stays in a chunk go through together, as columns.

    decode -> reject (future, empty) -> classify (duplicate, late) -> score -> close steps -> place -> forecast -> alert
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model.predictor import Predictor
from schemas.codec import InvalidReading
from schemas.reading import StayEvent
from schemas.signals import known_signals
from stream_worker import alerting, anomaly, window
from stream_worker.alerting import Transition
from stream_worker.chain import Chain, in_quanta
from stream_worker.columns import MICROSECONDS, ReadingDecoder, Readings, to_us
from stream_worker.forecast_text import Numbers
from stream_worker.limits import SignalLimits, limits_of
from stream_worker.outputs import Forecasts, OutputEncoder
from stream_worker.scoring import Tally
from stream_worker.settings import Settings
from stream_worker.stays import NEVER, Extras, Slots, Stays
from stream_worker.window import ACCEPTED, DUPLICATE, LATE, Bools, Ints


class Record(Protocol):
    """A Kafka record, as aiokafka gives it."""

    offset: int
    timestamp: int  # milliseconds
    key: bytes | None
    value: bytes | None


OutputRecord = tuple[bytes | None, bytes]


@dataclass(slots=True)
class ChunkResult:
    """What a chunk left. The counts are for metrics, to be shown once it is durable."""

    forecasts: list[OutputRecord] = field(default_factory=list)
    alerts: list[OutputRecord] = field(default_factory=list)
    dead_letters: list[OutputRecord] = field(default_factory=list)
    state: dict[bytes, bytes | None] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    dead_letter_reasons: Counter[str] = field(default_factory=Counter)
    ignored_values: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    alert_transitions: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # kind, priority, state
    alerts_held: Counter[str] = field(default_factory=Counter)  # by alerting.HoldReason
    lead_times_s: list[float] = field(default_factory=list)
    scored: Tally | None = None
    newest_us: int | None = None

    def see(self, newest_us: int) -> None:
        """A stay's newest observed_at."""
        if self.newest_us is None or newest_us > self.newest_us:
            self.newest_us = newest_us


class _RoundForecasts(NamedTuple):
    """The forecasts of a round, with the rows of their records in the chunk."""

    rows: Slots
    issued_us: Ints
    statuses: NDArray[np.str_]
    numbers: Numbers


class _Round(NamedTuple):
    """Readings of distinct stays, to be taken together: rows of `Readings`, and the slots of their stays."""

    rows: Slots
    slots: Slots


# Which signals are missed when they stop coming. A cuff measures when it is told to, a thermometer is often taken off.
_CONTINUOUS: Final = ("hr", "pulse", "resp", "spo2", "abp_sys", "abp_dia", "abp_mean")
_RATES: Final = ("hr", "pulse")


class Pipeline:
    """Takes chunks of one worker's partitions; changes `stays` in place."""

    def __init__(self, settings: Settings, predictor: Predictor, stays: Stays) -> None:
        manifest = predictor.manifest
        if settings.grace_s > manifest.step_s:
            raise ValueError(f"grace_s must not be longer than the model's step of {manifest.step_s} s")
        self.stays = stays
        self.chain = Chain(stays, predictor)
        self._settings = settings
        self._layout = stays.layout
        self._signals = known_signals(manifest.inputs)
        self._decoder = ReadingDecoder(self._signals, settings.max_message_bytes)
        self.encoder = OutputEncoder(stays.layout, settings.readings_topic, with_payload=settings.dead_letter_payload)
        self._grace_us = int(settings.grace_s * MICROSECONDS)
        self._reset_us = int(settings.reset_after_s * MICROSECONDS)
        self._stale_us = int(settings.stale_after_s * MICROSECONDS)
        self._limits_of_unit: dict[str | None, dict[str, SignalLimits]] = {}
        names = self._layout.names
        self.continuous = [names.index(name) for name in _CONTINUOUS]
        self.rates = [names.index(name) for name in _RATES]
        self.flatline = [names.index(name) for name in sorted(alerting.FLATLINE_SIGNALS)]
        defaults = self.limits_for(Extras())
        self.low = np.array([_or_nan(defaults.get(name), "low") for name in names])
        self.high = np.array([_or_nan(defaults.get(name), "high") for name in names])
        forecast = self._layout.forecast
        self._low_forecast = (self.low / self._layout.precision)[forecast][:, None, None]
        self._high_forecast = (self.high / self._layout.precision)[forecast][:, None, None]
        self._outlook_from = np.array(
            [alerting.log_odds(defaults[n].forecast_probability if n in defaults else 1.0) for n in manifest.signals]
        )
        self._highest_outlook = alerting.highest_outlooks(manifest.quantile_levels)
        self.precision_of_forecast = self._layout.precision[self._layout.forecast][:, None, None]
        self.decimals_of_all = max(signal.decimals for signal in self._signals)

    # --- chunks ---

    def process(self, batches: Mapping[int, Sequence[Record]], now_us: int) -> dict[int, ChunkResult]:
        """Take the next records of some partitions, all at once: the more stays go together, the less each costs."""
        next_offsets = self.stays.next_offsets
        new = {
            # A broker that lost our offsets hands old records over again.
            partition: [record for record in records if record.offset >= next_offsets.get(partition, 0)]
            for partition, records in batches.items()
        }
        new = {partition: records for partition, records in new.items() if records}
        if not new:
            return {}
        chunk = _Chunk(self, new, now_us)
        chunk.run()
        for partition, records in new.items():
            next_offsets[partition] = records[-1].offset + 1
            key, value = self.stays.encode_partition(partition)
            chunk.results[partition].state[key] = value
        return chunk.results

    # --- timers ---

    def check_silence(self, partition: int, now_us: int) -> ChunkResult:
        """Raise no_data for stays that have been silent too long, and forget those that have been for much longer.

        Silence is counted from when a reading arrived, not from when it was observed: a replay of old recordings is
        not silent. To be called only while the partition is caught up.
        """
        stays, settings = self.stays, self._settings
        slots = stays.in_partition(partition)
        silent_s = now_us / MICROSECONDS - stays.head["ingested_ms"][slots] / 1000
        chunk = _Chunk(self, {partition: ()}, now_us)
        for slot in slots[silent_s >= settings.evict_after_s].tolist():
            chunk.evict(slot)
        for slot in slots[(silent_s >= settings.stale_after_s) & (silent_s < settings.evict_after_s)].tolist():
            chunk.lose_data(slot)
        chunk.finish()
        return chunk.results[partition]

    def limits_for(self, extras: Extras) -> dict[str, SignalLimits]:
        if extras.limits:
            return limits_of(self._settings.limits, extras.care_unit, extras.limits)
        if extras.care_unit not in self._limits_of_unit:
            if len(self._limits_of_unit) > 1000:  # a sender can make up any number of care units
                self._limits_of_unit.clear()
            self._limits_of_unit[extras.care_unit] = limits_of(self._settings.limits, extras.care_unit, {})
        return self._limits_of_unit[extras.care_unit]

    def may_cross(self, quantiles: Ints) -> Bools:
        """Of forecasts (n, V, H, Q) in quanta: whether one could announce a default limit, (n,). Errs on that side."""
        low, high = self._highest_outlook
        below = (quantiles < self._low_forecast).sum(axis=3)
        above = (quantiles > self._high_forecast).sum(axis=3)
        outlook = np.maximum(low[below].mean(axis=2), high[above].mean(axis=2))
        may: Bools = (outlook >= self._outlook_from).any(axis=1)
        return may


def _or_nan(limits: SignalLimits | None, side: str) -> float:
    value = None if limits is None else getattr(limits, side)
    return np.nan if value is None else value


class _Chunk:
    """One chunk on its way through the pipeline."""

    def __init__(self, pipeline: Pipeline, batches: Mapping[int, Sequence[Record]], now_us: int) -> None:
        self.p = pipeline
        self.stays = pipeline.stays
        self.results = {partition: ChunkResult() for partition in batches}
        self.records = [record for records in batches.values() for record in records]
        self.partitions = np.repeat(list(batches), [len(records) for records in batches.values()])
        self.offsets = np.array([record.offset for record in self.records], np.int64)
        self.timestamps_ms = np.array([record.timestamp for record in self.records], np.int64)
        self.now_us = now_us
        self.latest_us = now_us + int(pipeline._settings.max_future_s * MICROSECONDS)
        self.changed_heads: set[int] = set()
        self.changed_bodies: set[int] = set()
        self.changed_scorings: set[int] = set()
        self.outcomes = np.full(len(self.records), "", "U9")
        self.stay_ids: dict[int, str] = {}  # by row
        self.forecasts: list[_RoundForecasts] = []
        self.dead_letters: list[tuple[int, OutputRecord]] = []  # with their rows
        self.alerts: list[tuple[int, int, OutputRecord]] = []  # partition, the row that caused it, the record

    def run(self) -> None:
        """Take all records."""
        readings, events, invalid, ignored = self.p._decoder.decode([record.value for record in self.records])
        for row, error in invalid:
            self._reject(row, error)
        self.stay_ids = dict(zip(readings.rows.tolist(), readings.stay_ids, strict=True))
        is_usable = self._reject_unusable(readings)
        for row, event in [*events, (len(self.records), None)]:
            # Everything before the event, then the event: a stay's records take effect in their order.
            before = np.flatnonzero(is_usable & (readings.rows < row))
            is_usable[before] = False
            self._take(readings, before)
            if event is not None:
                self._apply(row, event)
        self.finish()
        shown = next(iter(self.results.values()))  # what is counted for the whole chunk is shown with any part of it
        shown.ignored_values = ignored
        shown.scored = self.p.chain.take_tally()

    def _result(self, row: int) -> ChunkResult:
        return self.results[int(self.partitions[row])]

    # --- rejected ---

    def _reject(self, row: int, error: InvalidReading) -> None:
        record = self.records[row]
        partition, result = int(self.partitions[row]), self._result(row)
        letter = self.p.encoder.dead_letter(partition, record.offset, record.key, record.value, error, self.now_us)
        self.dead_letters.append((row, letter))
        result.dead_letter_reasons[error.reason] += 1
        self.outcomes[row] = "late" if error.reason == "late" else "rejected"

    def _reject_unusable(self, readings: Readings) -> Bools:
        """Dead letters for readings from the future and without any value; the mask of the others."""
        is_future = readings.observed_us > self.latest_us
        is_empty = ~readings.observed.any(axis=1) & ~is_future
        for i in np.flatnonzero(is_future).tolist():
            self._reject(int(readings.rows[i]), InvalidReading("future", "observed_at is ahead of the clock"))
        for i in np.flatnonzero(is_empty).tolist():
            self._reject(int(readings.rows[i]), InvalidReading("empty", "no usable value of a known signal"))
        return ~is_future & ~is_empty

    # --- readings ---

    def _take(self, readings: Readings, rows: Slots) -> None:
        for round_ in self._rounds(readings, rows):
            self._take_round(readings, round_)

    def _rounds(self, readings: Readings, rows: Slots) -> Iterator[_Round]:
        """The first reading of each stay, then the second of each that has one, and so on."""
        if not len(rows):
            return
        partitions = self.partitions[readings.rows[rows]].tolist()
        find_or_add, stay_ids = self.stays.find_or_add, readings.stay_ids
        slots = np.array([find_or_add(p, stay_ids[i]) for p, i in zip(partitions, rows.tolist(), strict=True)])
        order = np.argsort(slots, kind="stable")
        in_order = slots[order]
        is_first = np.r_[True, in_order[1:] != in_order[:-1]]
        starts = np.flatnonzero(is_first)
        rank = np.empty(len(rows), np.intp)
        rank[order] = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
        by_rank = np.argsort(rank, kind="stable")
        for part in np.split(by_rank, np.searchsorted(rank[by_rank], np.arange(1, rank.max() + 1))):
            yield _Round(rows[part], slots[part])

    def _take_round(self, readings: Readings, round_: _Round) -> None:
        rows, slots = round_
        observed_us, fingerprints = readings.observed_us[rows], readings.fingerprints[rows]
        self._reset_after_gap(slots, observed_us, readings.rows[rows])
        outcome = window.classify(
            self.stays, slots, observed_us, fingerprints, self.offsets[readings.rows[rows]], self.p._grace_us
        )
        self.outcomes[readings.rows[rows[outcome == DUPLICATE]]] = "duplicate"
        for i in np.flatnonzero(outcome == LATE).tolist():
            self._reject(int(readings.rows[rows[i]]), InvalidReading("late", "its step is closed already"))
        accepted = outcome == ACCEPTED
        if not accepted.all():
            rows, slots = rows[accepted], slots[accepted]
        if len(rows):
            self._accept(readings, rows, slots)

    def _reset_after_gap(self, slots: Slots, observed_us: Ints, chunk_rows: Slots) -> None:
        """Tell of silences that these readings end, and start stays anew after the longest of them."""
        newest = self.stays.head["newest"][slots]
        gap_us = np.where(newest == NEVER, 0, observed_us - newest)
        for i in np.flatnonzero(gap_us >= self.p._stale_us).tolist():
            slot = int(slots[i])
            self.lose_data(slot, int(chunk_rows[i]))
            if gap_us[i] > self.p._reset_us:
                self.stays.start_anew(slot)

    def _accept(self, readings: Readings, rows: Slots, slots: Slots) -> None:
        stays, layout, head = self.stays, self.stays.layout, self.stays.head
        observed_us, observed = readings.observed_us[rows], readings.observed[rows]
        newest_before = head["newest"][slots]
        newest = np.maximum(newest_before, observed_us)
        step = observed_us // layout.step_us
        newest_step = newest // layout.step_us
        quanta = np.rint(np.where(observed, readings.values[rows], 0.0) / layout.precision).astype(np.int64)
        is_fresh = observed & (observed_us[:, None] >= head["last_at"][slots]) & ~readings.questionable[rows]

        closed = self.p.chain.close_until(slots, window.last_closed_step(newest, self.p._grace_us, layout.step_us))
        is_scored = is_fresh[:, layout.forecast] & (step == newest_step)[:, None]
        values = np.where(is_scored, quanta[:, layout.forecast] * layout.precision[layout.forecast], np.nan)
        scores = anomaly.score_readings(stays, slots, step, values)
        window.place(stays, slots, observed_us, quanta, observed, readings.fingerprints[rows])
        quantiles = in_quanta(self.p.chain.provisional(slots), layout)
        anomaly.expect(stays, slots, newest_step, quantiles[:, :, 0])
        self._await_truth(slots, newest_before, newest_step, quantiles, quanta, is_fresh)

        chunk_rows = readings.rows[rows]
        head["offset"][slots] = self.offsets[chunk_rows]
        head["ingested_ms"][slots] = self.timestamps_ms[chunk_rows]
        self.changed_heads.update(slots.tolist())
        self.changed_bodies.update(closed.tolist())
        self.changed_bodies.update(slots[newest_before == NEVER].tolist())
        self.outcomes[chunk_rows] = "accepted"
        for partition, newest_us in zip(self.partitions[chunk_rows].tolist(), newest.tolist(), strict=True):
            self.results[partition].see(newest_us)

        flags = scores >= anomaly.FLAG_SCORE
        if self.p._settings.emit == "reading":
            self._add_forecasts(chunk_rows, slots, newest, quantiles, scores, flags)
        elif len(closed):
            n = np.flatnonzero(np.isin(slots, closed))
            self._add_forecasts(chunk_rows[n], slots[n], newest[n], quantiles[n], scores[n], flags[n])
        self._alert(readings, rows, slots, quanta, is_fresh, quantiles, scores, flags)

    def _await_truth(
        self, slots: Slots, newest_before: Ints, newest_step: Ints, quantiles: Ints, quanta: Ints, is_fresh: Bools
    ) -> None:
        """Have the forecast that opens a step scored when it comes due: one a step, whatever the rate of readings."""
        layout = self.stays.layout
        opens = (newest_before == NEVER) | (newest_step > newest_before // layout.step_us)
        if opens.any():
            last, counts = quanta[opens][:, layout.forecast], is_fresh[opens][:, layout.forecast]
            kept = self.p.chain.await_truth(slots[opens], newest_step[opens], quantiles[opens], last, counts)
            self.changed_scorings.update(kept.tolist())

    def _add_forecasts(
        self, chunk_rows: Slots, slots: Slots, newest: Ints, quantiles: Ints, scores: NDArray[np.float64], flags: Bools
    ) -> None:
        stays, layout, head = self.stays, self.stays.layout, self.stays.head
        first_step = newest // layout.step_us - layout.manifest.context_steps + 1
        last_at = head["last_at"][slots][:, layout.forecast]
        last = head["last"][slots][:, layout.forecast].astype(np.int64)
        observed = last_at >= (first_step * layout.step_us)[:, None]
        is_stale = last_at.max(axis=1) < newest - self.p._stale_us
        is_warm = stays.is_filled[slots].sum(axis=1) >= self.p._settings.min_observed_steps
        statuses = np.where(is_stale, "stale", np.where(is_warm, "ok", "warming_up"))
        numbers = Numbers(quantiles, last, last_at, observed, scores, flags)
        self.forecasts.append(_RoundForecasts(chunk_rows, newest, statuses, numbers))

    # --- alerts ---

    def _alert(
        self,
        readings: Readings,
        rows: Slots,
        slots: Slots,
        quanta: Ints,
        is_fresh: Bools,
        quantiles: Ints,
        scores: NDArray[np.float64],
        flags: Bools,
    ) -> None:
        """Run the alert rules for the readings that can change something; nearly all cannot, and columns tell."""
        layout, head = self.stays.layout, self.stays.head
        values = np.where(is_fresh, quanta * layout.precision, np.nan)
        observed_us = readings.observed_us[rows][:, None]
        implausible = readings.implausible[rows]
        needs_look = self.stays.has_alerts[slots] | implausible.any(axis=1) | flags.any(axis=1)
        with np.errstate(invalid="ignore"):
            needs_look |= ((values < self.p.low) | (values > self.p.high)).any(axis=1)
            needs_look |= self.p.may_cross(quantiles)
            rates = values[:, self.p.rates]
            needs_look |= np.abs(rates[:, 0] - rates[:, 1]) > alerting.DISAGREEMENT_RATE
        last_at = head["last_at"][slots][:, self.p.continuous]
        silent_us = observed_us - np.maximum(last_at, 0)
        is_off = (last_at != NEVER) & (silent_us >= alerting.SENSOR_OFF_AFTER_S * MICROSECONDS)
        is_missed = (is_off & (silent_us < alerting.SENSOR_OFF_UNTIL_S * MICROSECONDS)).any(axis=1)
        needs_look |= is_missed
        still_us = observed_us - np.maximum(head["changed_at"][slots][:, self.p.flatline], 0)
        is_flat = is_fresh[:, self.p.flatline] & (still_us >= alerting.FLATLINE_AFTER_S * MICROSECONDS)
        needs_look |= is_flat.any(axis=1)
        for i, (row, slot) in enumerate(zip(rows.tolist(), slots.tolist(), strict=True)):
            extras = self.stays.extras[slot]
            if readings.care_units[row] is not None:
                extras.care_unit = readings.care_units[row]
            if not (needs_look[i] or extras.limits or extras.care_unit in self.p._settings.limits):
                continue
            regular = self._regular(slot) if is_missed[i] else frozenset[str]()
            observation = self._observation(readings, row, slot, values[i], regular, quantiles[i], scores[i], flags[i])
            chunk_row = int(readings.rows[row])
            offset = int(self.offsets[chunk_row])
            held = self._result(chunk_row).alerts_held
            transitions = alerting.step(extras.alerts, observation, self.p.limits_for(extras), offset, held)
            self.stays.has_alerts[slot] = extras.has_alerts
            self._publish(slot, transitions, offset, chunk_row)

    def _observation(
        self,
        readings: Readings,
        row: int,
        slot: int,
        values: NDArray[np.float64],
        regular: frozenset[str],
        quantiles: Ints,
        scores: NDArray[np.float64],
        flags: Bools,
    ) -> alerting.Observation:
        """What the alert rules see; values (K,), quantiles (V, H, Q), scores and flags (V,)."""
        p, manifest = self.p, self.stays.layout.manifest
        names, signals = self.stays.layout.names, manifest.signals
        last_at = self.stays.head["last_at"][slot].tolist()
        changed_at = self.stays.head["changed_at"][slot].tolist()
        rounded = np.round(values, p.decimals_of_all).tolist()
        predicted = np.round(quantiles * p.precision_of_forecast, 6).tolist()
        implausible = readings.implausible[row]
        return alerting.Observation(
            at_us=int(readings.observed_us[row]),
            values={name: value for name, value in zip(names, rounded, strict=True) if not isnan(value)},
            last_at_us={names[k]: last_at[k] for k in p.continuous if last_at[k] != NEVER},
            changed_at_us={names[k]: changed_at[k] for k in p.flatline},
            implausible=frozenset(names[k] for k in np.flatnonzero(implausible)) if implausible.any() else frozenset(),
            scores={name: score for name, score in zip(signals, scores.tolist(), strict=True) if not isnan(score)},
            flagged=frozenset(name for name, flag in zip(signals, flags.tolist(), strict=True) if flag),
            regular=regular,
            horizons_s=manifest.horizons_s,
            levels=manifest.quantile_levels,
            quantiles={
                name: predicted[v] for v, name in enumerate(signals) if last_at[self.stays.layout.forecast[v]] != NEVER
            },
        )

    def _regular(self, slot: int) -> frozenset[str]:
        """The inputs that came in most of the window's steps up to their last one; all, if it is older than that."""
        layout, head, body = self.stays.layout, self.stays.head[slot], self.stays.body[slot]
        steps = layout.manifest.context_steps
        ages = (body["step"] - np.arange(steps)) % steps  # rows of the window, newest first
        observed = body["window"][ages] != layout.missing
        since = np.clip(body["step"] - head["last_at"][layout.inputs] // layout.step_us, 0, steps)
        share = observed.sum(axis=0) / np.maximum(steps - since, 1)
        is_regular = (share >= alerting.REGULAR_SHARE) | (since == steps)
        return frozenset(
            signal.name for signal, regular in zip(layout.manifest.inputs, is_regular, strict=True) if regular
        )

    def _publish(self, slot: int, transitions: list[Transition], offset: int, row: int) -> None:
        partition = int(self.stays.partition[slot])
        result, encode = self.results[partition], self.p.encoder.alert
        stay_id, care_unit = self.stays.ids[slot], self.stays.extras[slot].care_unit
        for transition in transitions:
            record = encode(partition, offset, stay_id, care_unit, transition, self.now_us)
            self.alerts.append((partition, row, record))
            result.alert_transitions[transition.key.kind, transition.priority, transition.state] += 1
            if transition.lead_time_s is not None:
                result.lead_times_s.append(transition.lead_time_s)

    def lose_data(self, slot: int, row: int = -1) -> None:
        """Raise the stay's no_data alert, unless it is open already."""
        extras, head = self.stays.extras[slot], self.stays.head
        newest_us = int(head["newest"][slot])
        if alerting.NO_DATA in extras.alerts or newest_us == NEVER:
            return
        offset = int(head["offset"][slot])
        transitions = alerting.lose_data(extras.alerts, newest_us, self.p._settings.stale_after_s, offset)
        self.stays.has_alerts[slot] = True
        self.changed_heads.add(slot)
        self._publish(slot, transitions, offset, row)

    # --- stay events ---

    def _apply(self, row: int, event: StayEvent) -> None:
        at_us = to_us(event.at)
        if at_us > self.latest_us:
            self._reject(row, InvalidReading("future", "the event is ahead of the clock"))
            return
        offset = int(self.offsets[row])
        partition = int(self.partitions[row])
        slot = self.stays.find(partition, event.stay_id)
        if slot is not None and offset <= self.stays.head["offset"][slot]:
            return
        self.outcomes[row] = "event"
        if event.event == "ended":
            if slot is not None:
                self._end(slot, at_us, offset, row, "stay_ended")
            return
        slot = self.stays.find_or_add(partition, event.stay_id)
        extras = self.stays.extras[slot]
        if event.event == "limits" and event.limits is not None:
            extras.limits = {**extras.limits, **event.limits}
        elif event.spo2_scale is not None:
            extras.spo2_scale = event.spo2_scale
        self.stays.head["offset"][slot] = offset
        self.stays.head["ingested_ms"][slot] = self.timestamps_ms[row]
        self.changed_heads.add(slot)
        self.changed_bodies.add(slot)

    def _end(self, slot: int, at_us: int, offset: int, row: int, reason: Any) -> None:
        self._publish(slot, alerting.close(self.stays.extras[slot].alerts, at_us, reason), offset, row)
        for key in self.stays.keys_of(self.stays.ids[slot]):
            self.results[int(self.stays.partition[slot])].state[key] = None
        self.changed_heads.discard(slot)
        self.changed_bodies.discard(slot)
        self.changed_scorings.discard(slot)
        self.stays.remove(slot)

    def evict(self, slot: int) -> None:
        """Forget a stay of which nothing has come for very long."""
        newest_us = int(self.stays.head["newest"][slot])
        if newest_us == NEVER:  # only events came
            newest_us = int(self.stays.head["ingested_ms"][slot]) * 1000
        at_us = newest_us + int(self.p._settings.evict_after_s * MICROSECONDS)
        self._end(slot, at_us, int(self.stays.head["offset"][slot]), -1, "data_lost")

    # --- what is left ---

    def finish(self) -> None:
        """Encode what is left, each kind in the order of what caused it."""
        if self.forecasts:
            self._encode_forecasts()
        for row, record in sorted(self.dead_letters, key=lambda item: item[0]):
            self._result(row).dead_letters.append(record)
        for partition, _, record in sorted(self.alerts, key=lambda item: item[1]):
            self.results[partition].alerts.append(record)
        for slot, record in self.stays.encode(self.changed_heads, self.changed_bodies, self.changed_scorings):
            self.results[int(self.stays.partition[slot])].state.update([record])
        for partition, result in self.results.items():
            names, numbers = np.unique(self.outcomes[self.partitions == partition], return_counts=True)
            result.outcomes.update(dict(zip(names.tolist(), numbers.tolist(), strict=True)))
            del result.outcomes[""]  # records that were done before

    def _encode_forecasts(self) -> None:
        """All rounds at once: the columns are longer, and each message costs less."""
        rows, issued_us, statuses, numbers = zip(*self.forecasts, strict=True)
        chunk_rows = np.concatenate(rows)
        order = np.argsort(chunk_rows, kind="stable")
        chunk_rows = chunk_rows[order]
        forecasts = Forecasts(
            partitions=self.partitions[chunk_rows],
            offsets=self.offsets[chunk_rows],
            stay_ids=[self.stay_ids[row] for row in chunk_rows.tolist()],
            issued_us=np.concatenate(issued_us)[order],
            statuses=np.concatenate(statuses)[order],
            numbers=Numbers._make(np.concatenate(column)[order] for column in zip(*numbers, strict=True)),
        )
        encoded = self.p.encoder.forecasts(forecasts, self.now_us)
        for row, record, status in zip(chunk_rows.tolist(), encoded, forecasts.statuses.tolist(), strict=True):
            result = self._result(row)
            result.forecasts.append(record)
            result.statuses[status] += 1
