"""What a chunk of records does to the stays, and what it leaves: the pure core of the worker.

No Kafka, no clock: records in, outputs and changed state out. Records of one stay are taken in their order; the k-th
readings of all stays in a chunk go through together, as columns: a round.

    chunk   decode -> reject (future, empty)
    rounds  classify (duplicate, late) -> score -> close steps -> place -> forecast
    chunk   write forecasts -> alert -> write dead letters, state
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from model.arrays import Bools, Ints
from model.predictor import Predictor
from schemas.alert import ClearReason
from schemas.dead_letter import Reason, Rejection
from schemas.reading import LimitRange, StayEvent
from schemas.signals import known_signals
from stream_worker import anomaly, window
from stream_worker.alerts import life
from stream_worker.alerts.life import Transition
from stream_worker.alerts.observation import Accepted
from stream_worker.alerts.screen import AlertScreen
from stream_worker.chain import Chain, in_quanta
from stream_worker.columns import ReadingDecoder, Readings
from stream_worker.forecast_text import Numbers
from stream_worker.limits import can_add
from stream_worker.outputs import Forecasts, OutputEncoder
from stream_worker.scoring import Tally
from stream_worker.settings import Settings, SettingsError
from stream_worker.stays import Extras, Slots, Stays
from stream_worker.times import NEVER, SECOND_US, to_us
from stream_worker.window import ACCEPTED, DUPLICATE, LATE


class Record(Protocol):
    """A Kafka record, as aiokafka gives it."""

    offset: int
    timestamp: int  # milliseconds
    timestamp_type: int
    key: bytes | None
    value: bytes | None


OutputRecord = tuple[bytes | None, bytes]

LOG_APPEND_TIME: Final = 1  # a record's timestamp_type: the broker stamped it, not its sender
SKEW_MS: Final = 5000  # clocks that are kept differ by less


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
    alerts_held: Counter[str] = field(default_factory=Counter)  # by alerts.life.HoldReason
    lead_times_s: list[float] = field(default_factory=list)
    scored: Tally | None = None
    newest_us: int = NEVER  # newest observed_at of the stays that had an accepted reading


class Pipeline:
    """Takes chunks of one worker's partitions, and keeps their `stays`.

    publishes : False for a model in the shadow: its forecasts are made and scored, and that is all that leaves it.
    """

    def __init__(self, settings: Settings, predictor: Predictor, *, publishes: bool = True) -> None:
        manifest = predictor.manifest
        if settings.grace_s > manifest.step_s:
            raise SettingsError(f"grace_s: must not be longer than the model's step of {manifest.step_s} s")
        steps, window = settings.min_observed_steps, manifest.context_steps
        if steps > window and "min_observed_steps" in settings.model_fields_set:
            raise SettingsError(f"min_observed_steps: must not be more than the {window} steps of the model's window")
        self.stays = Stays(manifest, predictor.initial_state(1))
        self.publishes = publishes
        self.settings = settings
        self._use(predictor)
        self.decoder = ReadingDecoder(known_signals(manifest.inputs), settings.max_message_bytes)
        self.grace_us = int(settings.grace_s * SECOND_US)
        self.reset_us = int(settings.reset_after_s * SECOND_US)
        self.stale_us = int(settings.stale_after_s * SECOND_US)
        self.steps_to_warm_up = min(steps, window)  # the default suits longer ones
        self.screen = AlertScreen(settings, self.stays)
        self._arrived_until_ms: dict[int, int] = {}  # by partition: when the newest record that was taken came

    # --- the model ---

    def change_model(self, predictor: Predictor) -> int:
        """Go on with another model of the same task, on states primed from the stays' windows; returns how many.

        Raises: ValueError if the other model is made for another task; then nothing has changed.
        """
        self.stays.change_model(predictor.manifest, predictor.initial_state(1))
        self._use(predictor)
        return self.chain.prime_outdated()

    def _use(self, predictor: Predictor) -> None:
        settings = self.settings
        self.model = predictor.manifest
        self.chain = Chain(self.stays, predictor, is_adaptive=settings.calibration == "adaptive")
        self.encoder = OutputEncoder(
            self.stays.layout,
            settings.readings_topic,
            calibration=settings.calibration,
            with_payload=settings.dead_letter_payload,
        )

    # --- chunks ---

    def process(
        self, batches: Mapping[int, Sequence[Record]], now_us: int, *, is_redone: bool = False
    ) -> dict[int, ChunkResult]:
        """Take the next records of some partitions, all at once: the more stays go together, the less each costs.

        is_redone : they were taken before, and only their state is made again: judged as of when they came, not now.
        """
        next_offsets = self.stays.next_offsets
        new = {
            # A broker that lost our offsets hands old records over again.
            partition: [record for record in records if record.offset >= next_offsets.get(partition, 0)]
            for partition, records in batches.items()
        }
        new = {partition: records for partition, records in new.items() if records}
        if not new:
            return {}
        chunk = _Chunk(self, new, now_us, is_redone=is_redone)
        chunk.run()
        believed_until_ms = now_us // 1000 + SKEW_MS
        rows = slice(0)
        for partition, records in new.items():
            rows = slice(rows.stop, rows.stop + len(records))
            next_offsets[partition] = records[-1].offset + 1
            self.stays.topics[partition] = self.settings.readings_topic
            arrived_ms = chunk.arrived_ms[rows]
            if records[0].timestamp_type != LOG_APPEND_TIME:
                # A time that is yet to come is of a sender with a wrong clock; ours may be a little behind.
                arrived_ms = arrived_ms[chunk.timestamps_ms[rows] <= believed_until_ms]
            self._arrived_until_ms[partition] = int(arrived_ms.max(initial=self._arrived_until_ms.get(partition, 0)))
            result = chunk.results[partition]
            result.newest_us = int(chunk.newest_us[rows].max())
            key, value = self.stays.encode_partition(partition)
            result.state[key] = value
        return chunk.results

    # --- timers ---

    @property
    def arrived_until_us(self) -> int:
        """When the newest record that was taken arrived; 0 if none was."""
        return 1000 * max(self._arrived_until_ms.values(), default=0)

    def check_silence(
        self, partition: int, now_us: int, *, until_us: int | None = None, is_caught_up: bool = True
    ) -> ChunkResult:
        """Raise no_data for stays that have been silent too long, and forget those that have been for much longer.

        Silence is counted from when a reading arrived, not from when it was observed: a replay of old recordings is
        not silent. It is counted until `until_us` (None: now), or, where records wait, until the newest that was taken
        arrived.
        """
        stays, settings = self.stays, self.settings
        slots = stays.in_partition(partition)
        until_ms = (now_us if until_us is None else until_us) // 1000
        if not is_caught_up:
            until_ms = min(until_ms, self._arrived_until_ms.get(partition, 0))
        silent_ms = until_ms - stays.head["ingested_ms"][slots]
        chunk = _Chunk(self, {partition: ()}, now_us)
        is_stale = silent_ms >= 1000 * settings.stale_after_s
        for slot, stay_silent_ms in zip(slots[is_stale].tolist(), silent_ms[is_stale].tolist(), strict=True):
            # An event keeps a stay, but is no reading: what is known of its signals is lost all the same.
            if min(stay_silent_ms, until_ms - stays.extras[slot].event_ms) >= 1000 * settings.evict_after_s:
                chunk.evict(slot)
            else:
                chunk.lose_data(slot)
        chunk.finish()
        return chunk.results[partition]


def _rounds(rows: Slots, slots: Slots) -> Iterator[tuple[Slots, Slots]]:
    """Rows and slots of the first reading of each stay, then of the second of each that has one, and so on."""
    if not len(rows):
        return
    order = np.argsort(slots, kind="stable")
    in_order = slots[order]
    is_first = np.r_[True, in_order[1:] != in_order[:-1]]
    starts = np.flatnonzero(is_first)
    rank = np.empty(len(rows), np.intp)
    rank[order] = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
    by_rank = np.argsort(rank, kind="stable")
    for part in np.split(by_rank, np.searchsorted(rank[by_rank], np.arange(1, rank.max() + 1))):
        yield rows[part], slots[part]


class _Chunk:
    """One chunk on its way through the pipeline. Its records are numbered through: a row is one of them."""

    readings: Readings  # of `run`: a timer has none

    def __init__(
        self, pipeline: Pipeline, batches: Mapping[int, Sequence[Record]], now_us: int, *, is_redone: bool = False
    ) -> None:
        self.pipeline = pipeline
        self.stays = pipeline.stays
        self.results = {partition: ChunkResult() for partition in batches}
        self.records = [record for records in batches.values() for record in records]
        self.partitions = np.repeat(list(batches), [len(records) for records in batches.values()])
        self.offsets = np.array([record.offset for record in self.records], np.int64)
        self.timestamps_ms = np.array([record.timestamp for record in self.records], np.int64)
        # A sender may have stamped a record with a time that is yet to come: it came now at the latest.
        self.arrived_ms = np.minimum(self.timestamps_ms, now_us // 1000)
        self.now_us = now_us
        judged_us = self.arrived_ms * 1000 if is_redone else np.full(len(self.records), now_us)
        self.latest_us = judged_us + int(pipeline.settings.max_future_s * SECOND_US)  # observed_at, for each record
        self.rejections: dict[int, Rejection] = {}  # by row
        self.outcomes = np.full(len(self.records), "", "U9")
        self.newest_us = np.full(len(self.records), NEVER)  # of the stay, once an accepted reading is placed
        self.alerts_held: Counter[str] = Counter()

    def run(self) -> None:
        """Take all records."""
        decode = self.pipeline.decoder.decode
        self.readings, events, invalid, ignored = decode([record.value for record in self.records])
        self.rejections.update(invalid)
        is_usable = self._reject_unusable()
        for row, event in [*events, (len(self.records), None)]:
            # Everything before the event, then the event: a stay's records take effect in their order.
            before = np.flatnonzero(is_usable[:row])
            is_usable[before] = False
            self._take(before)
            if event is not None:
                self._apply(row, event)
        self.finish()
        shown = next(iter(self.results.values()))  # what is counted for the whole chunk is shown with any part of it
        shown.ignored_values = ignored
        shown.alerts_held = self.alerts_held
        shown.scored = self.pipeline.chain.take_tally()

    # --- rejected ---

    def _reject(self, rows: Slots, reason: Reason, detail: str) -> None:
        self.rejections.update(dict.fromkeys(rows.tolist(), Rejection(reason, detail)))

    def _reject_unusable(self) -> Bools:
        """Reject readings from the future and without any value; the mask of the other readings."""
        readings = self.readings
        is_future = readings.is_reading & (readings.observed_us > self.latest_us)
        is_empty = readings.is_reading & ~readings.observed.any(axis=1) & ~is_future
        self._reject(np.flatnonzero(is_future), "future", "observed_at is ahead of the clock")
        self._reject(np.flatnonzero(is_empty), "empty", "no usable value of a known signal")
        return readings.is_reading & ~is_future & ~is_empty

    # --- readings ---

    def _take(self, rows: Slots) -> None:
        find_or_add, stay_ids, partitions = self.stays.find_or_add, self.readings.stay_ids, self.partitions[rows]
        stays = zip(partitions.tolist(), rows.tolist(), strict=True)
        slots = np.array([find_or_add(partition, stay_ids[row]) for partition, row in stays], np.intp)
        in_time = self._reject_late(rows, slots)
        taken = [self._take_round(*one) for one in _rounds(rows[in_time], slots[in_time])]
        if rounds := [accepted for accepted in taken if accepted is not None]:
            accepted = Accepted.in_order(rounds)
            self._publish_forecasts(accepted)
            self._alert(accepted)

    def _reject_late(self, rows: Slots, slots: Slots) -> Bools:
        """Reject readings that are late whatever comes before them in the chunk; the mask of the others.

        A stay's clock only goes ahead. A day sent twice would otherwise take a round for each reading of a stay.
        """
        newest, offset = (self.stays.head[name][slots] for name in ("newest", "offset"))
        step_us = self.stays.layout.step_us
        late = window.is_late(newest, self.readings.observed_us[rows], self.pipeline.grace_us, step_us)
        late &= self.offsets[rows] > offset  # the others were taken before
        self._reject_as_late(rows[late])
        in_time: Bools = ~late
        return in_time

    def _reject_as_late(self, rows: Slots) -> None:
        self._reject(rows, "late", "its step is closed already")

    def _take_round(self, rows: Slots, slots: Slots) -> Accepted | None:
        """Readings of distinct stays, taken together."""
        observed_us, fingerprints = self.readings.observed_us[rows], self.readings.fingerprints[rows]
        silent_since = self._reset_after_gap(slots, observed_us)
        outcome = window.classify(
            self.stays, slots, observed_us, fingerprints, self.offsets[rows], self.pipeline.grace_us
        )
        self.outcomes[rows[outcome == DUPLICATE]] = "duplicate"
        self._reject_as_late(rows[outcome == LATE])
        accepted = outcome == ACCEPTED
        if not accepted.all():
            rows, slots, silent_since = rows[accepted], slots[accepted], silent_since[accepted]
        return self._accept(rows, slots, silent_since) if len(rows) else None

    def _reset_after_gap(self, slots: Slots, observed_us: Ints) -> Ints:
        """Start stays anew after the longest silences.

        Returns (n,) when the silence began that a reading ends; NEVER if it was too short for an alert.
        """
        newest = self.stays.head["newest"][slots]
        gap_us = np.where(newest == NEVER, 0, observed_us - newest)
        for slot in slots[gap_us > self.pipeline.reset_us].tolist():
            self.stays.start_anew(slot)
            self.stays.scoring_changed[slot] = True
        silent_since: Ints = np.where(gap_us >= self.pipeline.stale_us, newest, NEVER)
        return silent_since

    def _accept(self, rows: Slots, slots: Slots, silent_since: Ints) -> Accepted | None:
        stays, layout, head, readings = self.stays, self.stays.layout, self.stays.head, self.readings
        observed_us, observed = readings.observed_us[rows], readings.observed[rows]
        newest_before = head["newest"][slots]
        newest = np.maximum(newest_before, observed_us)
        advance_us = np.where(newest_before == NEVER, 0, newest - newest_before)
        offsets_before = head["offset"][slots]
        step = observed_us // layout.step_us
        newest_step = newest // layout.step_us
        quanta = np.rint(np.where(observed, readings.values[rows], 0.0) / layout.precision).astype(np.int64)
        is_fresh = observed & (observed_us[:, None] >= head["last_at"][slots]) & ~readings.questionable[rows]

        closed_until = window.last_closed_step(newest, self.pipeline.grace_us, layout.step_us)
        closes_step = self.pipeline.chain.close_until(slots, closed_until)
        is_scored = is_fresh[:, layout.forecast] & (step == newest_step)[:, None]
        values = np.where(is_scored, quanta[:, layout.forecast] * layout.precision[layout.forecast], np.nan)
        scores = anomaly.score_readings(stays, slots, step, values)
        doubted = readings.questionable[rows][:, layout.forecast]
        if doubted.any():
            self.pipeline.chain.doubt(slots, step, doubted)
        window.place(stays, slots, observed_us, quanta, observed, readings.fingerprints[rows])
        quantiles = in_quanta(self.pipeline.chain.provisional(slots), layout)
        anomaly.expect(stays, slots, newest_step, quantiles[:, :, 0])
        self._await_truth(slots, newest_before, newest_step, quantiles, quanta, is_fresh)

        head["offset"][slots] = self.offsets[rows]
        head["ingested_ms"][slots] = self.arrived_ms[rows]
        stays.head_changed[slots] = True
        self.outcomes[rows] = "accepted"
        self.newest_us[rows] = newest
        if not self.pipeline.publishes:
            return None
        return Accepted(
            rows=rows,
            slots=slots,
            offsets=self.offsets[rows],
            offsets_before=offsets_before,
            silent_since=silent_since,
            # A silence is not monitored time.
            monitored_us=np.where(advance_us < self.pipeline.stale_us, advance_us, 0),
            newest=newest,
            closes_step=closes_step,
            is_warm=stays.is_filled[slots].sum(axis=1) >= self.pipeline.steps_to_warm_up,
            quanta=quanta,
            is_fresh=is_fresh,
            quantiles=quantiles,
            scores=scores,
            flags=scores >= anomaly.FLAG_SCORE,
            last=head["last"][slots],
            last_at=head["last_at"][slots],
            changed_at=head["changed_at"][slots],
        )

    def _await_truth(
        self, slots: Slots, newest_before: Ints, newest_step: Ints, quantiles: Ints, quanta: Ints, is_fresh: Bools
    ) -> None:
        """Keep the forecast of the first reading in a step to be scored: one a step, whatever the rate of readings."""
        layout = self.stays.layout
        opens = (newest_before == NEVER) | (newest_step > newest_before // layout.step_us)
        if opens.any():
            last, counts = quanta[opens][:, layout.forecast], is_fresh[opens][:, layout.forecast]
            self.pipeline.chain.await_truth(slots[opens], newest_step[opens], quantiles[opens], last, counts)

    def _publish_forecasts(self, accepted: Accepted) -> None:
        """Write the forecasts of all rounds at once: the columns are longer, and each message costs less."""
        if self.pipeline.settings.emit == "step":
            accepted = accepted.where(accepted.closes_step)
            if not len(accepted.rows):
                return
        layout, newest = self.stays.layout, accepted.newest
        last, last_at = accepted.last[:, layout.forecast].astype(np.int64), accepted.last_at[:, layout.forecast]
        first_step = newest // layout.step_us - layout.manifest.context_steps + 1
        is_observed = last_at >= (first_step * layout.step_us)[:, None]
        is_stale = last_at.max(axis=1) < newest - self.pipeline.stale_us
        forecasts = Forecasts(
            partitions=self.partitions[accepted.rows],
            offsets=accepted.offsets,
            stay_ids=[self.readings.stay_ids[row] for row in accepted.rows.tolist()],
            issued_us=newest,
            statuses=np.where(is_stale, "stale", np.where(accepted.is_warm, "ok", "warming_up")),
            numbers=Numbers(accepted.quantiles, last, last_at, is_observed, accepted.scores, accepted.flags),
        )
        encoded = self.pipeline.encoder.forecasts(forecasts, self.now_us)
        for partition, status, record in zip(
            forecasts.partitions.tolist(), forecasts.statuses.tolist(), encoded, strict=True
        ):
            self.results[partition].forecasts.append(record)
            self.results[partition].statuses[status] += 1

    # --- alerts ---

    def _alert(self, accepted: Accepted) -> None:
        for changed in self.pipeline.screen.step(self.readings, accepted, self.alerts_held):
            self._publish(int(accepted.slots[changed.i]), changed.transitions, changed.offset)

    def _publish(self, slot: int, transitions: list[Transition], offset: int) -> None:
        partition = int(self.stays.partition[slot])
        result, encode = self.results[partition], self.pipeline.encoder.alert
        stay_id, care_unit = self.stays.ids[slot], self.stays.extras[slot].care_unit
        for transition in transitions:
            result.alerts.append(encode(partition, offset, stay_id, care_unit, transition, self.now_us))
            result.alert_transitions[transition.key.kind, transition.priority, transition.state] += 1
            if transition.lead_time_s is not None:
                result.lead_times_s.append(transition.lead_time_s)

    def lose_data(self, slot: int) -> None:
        """Raise the no_data alert of a stay that has been silent, unless it is open already."""
        newest_us, offset = (int(self.stays.head[name][slot]) for name in ("newest", "offset"))
        if newest_us != NEVER and (transitions := self.pipeline.screen.lose_data(slot, newest_us, offset)):
            self.stays.head_changed[slot] = True
            self._publish(slot, transitions, offset)

    # --- stay events ---

    def _apply(self, row: int, event: StayEvent) -> None:
        offset = int(self.offsets[row])
        partition = int(self.partitions[row])
        slot = self.stays.find(partition, event.stay_id)
        if slot is not None and offset <= max(self.stays.head["offset"][slot], self.stays.extras[slot].event_offset):
            return
        if event.event == "limits" and event.limits is not None and not self._can_apply(slot, event.limits):
            why = "limits of an unknown signal, that contradict those in force, or that no value can reach"
            self.rejections[row] = Rejection("schema", why)
            return
        at_us = to_us(event.at)
        if at_us > self.latest_us[row]:
            self.rejections[row] = Rejection("future", "the event is ahead of the clock")
            return
        self.outcomes[row] = "event"
        if event.event == "ended":
            if slot is not None:
                self._end(slot, at_us, offset, "stay_ended")
            return
        slot = self.stays.find_or_add(partition, event.stay_id)
        extras = self.stays.extras[slot]
        if event.event == "limits" and event.limits is not None:
            extras.limits = {**extras.limits, **event.limits}
        elif event.spo2_scale is not None:
            extras.spo2_scale = event.spo2_scale
        extras.event_offset, extras.event_ms = offset, int(self.arrived_ms[row])
        if self.stays.head["newest"][slot] == NEVER:  # else silence is counted from its last reading
            self.stays.head["ingested_ms"][slot] = self.arrived_ms[row]
        self.stays.head_changed[slot] = self.stays.body_changed[slot] = True

    def _can_apply(self, slot: int | None, limits: Mapping[str, LimitRange]) -> bool:
        """Whether a stay can have these limits besides those that it keeps."""
        if not limits.keys() <= set(self.stays.layout.names):
            return False
        extras = Extras() if slot is None else self.stays.extras[slot]
        return can_add(self.pipeline.settings.limits, extras.care_unit, extras.limits, limits)

    def _end(self, slot: int, at_us: int, offset: int, reason: ClearReason) -> None:
        self._publish(slot, life.close(self.stays.extras[slot].alerts, at_us, reason), offset)
        for key in self.stays.keys_of(self.stays.ids[slot]):
            self.results[int(self.stays.partition[slot])].state[key] = None
        self.stays.remove(slot)

    def evict(self, slot: int) -> None:
        """Forget a stay of which nothing has come for very long."""
        newest_us = int(self.stays.head["newest"][slot])
        if newest_us == NEVER:  # only events came
            newest_us = int(self.stays.head["ingested_ms"][slot]) * 1000
        at_us = newest_us + int(self.pipeline.settings.evict_after_s * SECOND_US)
        self._end(slot, at_us, int(self.stays.head["offset"][slot]), "data_lost")

    # --- what is left ---

    def finish(self) -> None:
        """Encode what is left: dead letters in the order of their records, and state."""
        for row, rejection in sorted(self.rejections.items()):
            self._bury(row, rejection)
        if self.pipeline.publishes:
            for partition, (key, value) in self.stays.encode_changes():
                self.results[partition].state[key] = value
        counts = Counter(zip(self.partitions.tolist(), self.outcomes.tolist(), strict=True))
        for (partition, outcome), number in counts.items():
            if outcome:  # the others were done before
                self.results[partition].outcomes[outcome] = number

    def _bury(self, row: int, rejection: Rejection) -> None:
        """Leave a dead letter."""
        record, partition = self.records[row], int(self.partitions[row])
        result, encode = self.results[partition], self.pipeline.encoder.dead_letter
        result.dead_letters.append(encode(partition, record.offset, record.key, record.value, rejection, self.now_us))
        result.dead_letter_reasons[rejection.reason] += 1
        self.outcomes[row] = "late" if rejection.reason == "late" else "rejected"
