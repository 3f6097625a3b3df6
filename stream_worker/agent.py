"""The worker's part between Faust and the pipeline: chunks in, work for the lanes out, timers, metrics."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from aiokafka import TopicPartition

from model.arrays import Floats
from model.predictor import ArtifactError, Predictor
from stream_worker import metrics as m
from stream_worker.calibration import mean_widening
from stream_worker.chunks import Chunk, Lane, Records, Work, WorkerError
from stream_worker.health import Health
from stream_worker.log import describe
from stream_worker.metrics import Metrics
from stream_worker.pipeline import ChunkResult, Pipeline
from stream_worker.settings import Settings
from stream_worker.stays import PARTITION
from stream_worker.times import NEVER, SECOND_US

log = structlog.get_logger("vitalcast")

DEAD_LETTER_WINDOW: Final = 10_000  # records of a partition
# At once through the pipeline: with more, its arrays no longer stay in the processor's cache. Their outputs are made
# durable together, chunk by chunk.
PIPELINE_RECORDS: Final = 2048
# A chunk takes a quarter of a second, but many times that where a few stays have thousands of readings each and the
# machine is busy: then the lanes have a turn between its parts, or what they are sending would be given up.
SLOW_S: Final = 1.0
SUSPENDED_AFTER_S: Final = 10.0  # timers run every second; under load they are late by a chunk, a quarter of one


def now_us() -> int:
    """The clock, microseconds since the epoch."""
    return time.time_ns() // 1000


def parts_of(chunk: Mapping[int, Records], most: int) -> Iterator[Mapping[int, Records]]:
    """The chunk in parts of at most about `most` records, each with its share of every partition, in order."""
    count = -(-sum(map(len, chunk.values())) // most)
    for part in range(count):
        bounds = {p: (len(rows) * part // count, len(rows) * (part + 1) // count) for p, rows in chunk.items()}
        yield {p: chunk[p][first:last] for p, (first, last) in bounds.items() if first < last}


class _Recent:
    """How many of a partition's last DEAD_LETTER_WINDOW records, up to a chunk more, were dead letters."""

    def __init__(self) -> None:
        self.records = self.dead_letters = 0
        self._chunks: deque[tuple[int, int]] = deque()

    def add(self, records: int, dead_letters: int) -> None:
        """Count a chunk, and forget those that are too long ago."""
        self._chunks.append((records, dead_letters))
        self.records += records
        self.dead_letters += dead_letters
        while self.records - self._chunks[0][0] >= DEAD_LETTER_WINDOW:
            records, dead_letters = self._chunks.popleft()
            self.records -= records
            self.dead_letters -= dead_letters

    @property
    def share(self) -> float:
        """Of dead letters among the records."""
        return self.dead_letters / self.records


class _SteadyClock:
    """A clock that does not jump with the machine's: one that is wrong for a moment must not end every stay."""

    def __init__(self) -> None:
        self._us: float | None = None
        self._read_at = 0.0

    def read(self, now_us: int, arrived_until_us: int) -> int:
        """The machine's clock, `now_us`, without any leap ahead since the last call.

        A leap is believed once a record has arrived that late: at `arrived_until_us`.
        """
        read_at = time.monotonic()
        passed_us = (read_at - self._read_at) * SECOND_US
        self._us = float(now_us) if self._us is None else max(self._us + passed_us, arrived_until_us)
        self._read_at = read_at
        return min(now_us, int(self._us))


class ReadingsAgent:
    """Processes chunks and timers of the assigned partitions. Whatever fails ends the process: the log is the truth."""

    def __init__(
        self, settings: Settings, pipeline: Pipeline, metrics: Metrics, health: Health, shadow: Pipeline | None = None
    ) -> None:
        self.pipeline = pipeline
        self.shadow = shadow
        self.partitions: frozenset[int] = frozenset()
        self.lanes: dict[TopicPartition, Lane] = {}
        self._settings = settings
        self.metrics = metrics
        self.health = health
        self._recent: defaultdict[int, _Recent] = defaultdict(_Recent)  # by partition
        self._newest_us: dict[int, int] = {}
        self._beat_at: dict[int, float] = {}
        self._ticked_us = 0
        self._clock = _SteadyClock()
        self._topics_may_have_changed = False
        self._void: dict[int, Collection[bytes]] = {}  # by partition: keys of state that could not be used

    # --- chunks ---

    async def process(self, chunk: Chunk) -> None:
        """Take a chunk; returns when the lanes have taken over. Partitions that were lost while it waited are left out:
        whoever has them now reads their records.

        Every lane has its work of a part before anything waits: a heartbeat that is queued meanwhile commits the
        position that the part has moved to, and must come after its outputs.
        """
        ours = {tp.partition: records for tp, records in chunk.items() if tp in self.lanes}
        lanes = {tp.partition: lane for tp, lane in self.lanes.items()}
        is_redone = any(records[0].offset < lanes[partition].published_until for partition, records in ours.items())
        for partition in ours:
            await self._remove_void_state(lanes[partition])
        now, began = now_us(), time.monotonic()
        for part in parts_of(ours, PIPELINE_RECORDS):
            hopeless = self._process_part(part, now, lanes, is_redone=is_redone)
            if hopeless:
                await asyncio.gather(*(lanes[partition].drain() for partition in hopeless))  # a start goes on from here
                raise WorkerError("nearly all records are dead letters")
            if time.monotonic() - began >= SLOW_S:
                await asyncio.gather(*(lanes[partition].room() for partition in ours))
        await asyncio.gather(*(lanes[partition].room() for partition in ours))

    async def _remove_void_state(self, lane: Lane) -> None:
        """Remove what could not be used from the changelog, once: each assignment would make the state again."""
        if keys := self._void.pop(lane.partition.partition, None):
            # The position first, and before what is made again: half of the old state is not to be taken for all.
            lane.put(Work(outputs={}, state=dict.fromkeys([PARTITION, *keys]), next_offset=None))
            await lane.drain()

    def _process_part(
        self, part: Mapping[int, Records], now: int, lanes: Mapping[int, Lane], *, is_redone: bool
    ) -> list[int]:
        """Queue what the records leave; of those taken for their state alone, nothing else: the rest is out already.

        Returns the partitions whose records are nearly all dead letters.
        """
        hopeless = []
        for partition, result in self.pipeline.process(part, now, is_redone=is_redone).items():
            if result.newest_us != NEVER:
                self._newest_us[partition] = max(result.newest_us, self._newest_us.get(partition, NEVER))
            if is_redone:
                self._hand_over(lanes[partition], ChunkResult(state=result.state))
                continue
            arrived_s = np.array([record.timestamp for record in part[partition]], np.float64) / 1000
            self._hand_over(lanes[partition], result, arrived_s)
            # Not the late ones, which are good readings: what is sent twice is late, and ends no worker.
            if self._is_nearly_all_dead(partition, len(part[partition]), result.outcomes["rejected"]):
                hopeless.append(partition)
        self._observe_inference()
        if self.shadow is not None:
            self._run_shadow(self.shadow, part, now, is_redone=is_redone)
        return hopeless

    def _hand_over(self, lane: Lane, result: ChunkResult, arrived_s: Floats | None = None) -> None:
        settings = self._settings
        next_offset = self.pipeline.stays.next_offsets.get(lane.partition.partition)
        lane.put(
            Work(
                outputs={
                    settings.forecasts_topic: result.forecasts,
                    settings.alerts_topic: result.alerts,
                    settings.dead_letters_topic: result.dead_letters,
                },
                state=result.state,
                next_offset=None if next_offset is None or next_offset < lane.published_until else next_offset,
                on_durable=lambda: self._count(result, arrived_s),
            )
        )

    def _count(self, result: ChunkResult, arrived_s: Floats | None) -> None:
        metrics = self.metrics
        m.count(metrics.readings, result.outcomes)
        m.count(metrics.dead_letters, result.dead_letter_reasons)
        m.count(metrics.forecasts, result.statuses)
        m.count(metrics.values_ignored, result.ignored_values)
        m.count(metrics.alerts, result.alert_transitions)
        m.count(metrics.alerts_suppressed, result.alerts_held)
        if result.scored is not None:
            metrics.add_scores(result.scored, "live")
        for lead_time_s in result.lead_times_s:
            metrics.alert_lead_time.observe(lead_time_s)
        if arrived_s is not None:
            m.observe_many(metrics.end_to_end, np.maximum(time.time() - arrived_s, 0.0))

    def _observe_inference(self) -> None:
        stays, seconds = np.array(self.pipeline.chain.take_calls(), np.float64).reshape(-1, 2).T
        m.observe_many(self.metrics.inference, seconds)
        m.observe_many(self.metrics.inference_batch, stays)

    def _run_shadow(self, shadow: Pipeline, part: Mapping[int, Records], now: int, *, is_redone: bool) -> None:
        """Let the shadow model see the same readings; its scores are all that is wanted of it."""
        for result in shadow.process(part, now, is_redone=is_redone).values():
            if not is_redone and result.scored is not None:
                self.metrics.add_scores(result.scored, "shadow")
        shadow.chain.take_calls()

    async def reload_models(self) -> None:
        """Read the artifacts again and go on with those that changed; one that cannot be used is reported and left."""
        settings = self._settings
        await self._reload(self.pipeline, settings.model, "live")
        if self.shadow is not None and settings.shadow_model is not None:
            await self._reload(self.shadow, settings.shadow_model, "shadow")

    async def _reload(self, pipeline: Pipeline, path: Path, role: m.Role) -> None:
        try:
            predictor = await asyncio.to_thread(Predictor.load, path, self._settings.device)
            if predictor.manifest.sha256 == pipeline.model.sha256:
                log.info("model_unchanged", role=role)
                return
            primed = pipeline.change_model(predictor)
        except (ArtifactError, ValueError) as error:
            log.error("model_refused", role=role, detail=str(error))
            return
        model = predictor.manifest
        self.metrics.show_model(model, role)
        log.info("model_changed", role=role, version=model.version, sha256=model.sha256[:12], primed=primed)

    def _is_nearly_all_dead(self, partition: int, records: int, dead_letters: int) -> bool:
        """All bad input means a bad deployment, not bad records: stop, so that nobody mistakes it for a calm ward."""
        recent = self._recent[partition]
        recent.add(records, dead_letters)
        is_over = recent.records >= DEAD_LETTER_WINDOW and recent.share >= self._settings.dead_letter_limit
        if is_over:
            log.error("dead_letter_limit", partition=partition, share=round(recent.share, 3), records=recent.records)
        return is_over

    # --- assignment ---

    def on_revoked(self) -> None:
        """A rebalance has begun: nothing is processed until it ends."""
        self.partitions = frozenset()
        self._set_ready(is_ready=False)
        self.metrics.assigned_partitions.set(0)
        for by_partition in (self.metrics.consumer_lag, self.metrics.alert_threshold_shift):
            by_partition.clear()  # what is another worker's now is shown by that one

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Partitions are ours, their lanes are open; state is not there yet."""
        self.on_revoked()  # the first assignment revokes nothing, and one may follow another
        self._newest_us.clear()
        self._topics_may_have_changed = True
        self.metrics.rebalances.inc()
        self.metrics.assigned_partitions.set(len(partitions))
        log.info("partitions_assigned", partitions=sorted(partitions))

    def on_recovered(self, partitions: frozenset[int], seconds: float, void: Mapping[int, Collection[bytes]]) -> None:
        """State is there. void : by partition, the keys of state that cannot be used."""
        self._void = dict(void)
        stays = self.pipeline.stays
        primed = self.pipeline.chain.prime_outdated()
        if self.shadow is not None:
            self.shadow.chain.prime_outdated()
        self.partitions = partitions
        newest_us = {partition: stays.head["newest"][stays.in_partition(partition)] for partition in partitions}
        self._newest_us = {
            partition: int(times.max()) for partition, times in newest_us.items() if times.max(initial=NEVER) != NEVER
        }
        self.metrics.recovery.observe(seconds)
        self._set_ready(is_ready=True)
        log.info("state_recovered", stays=len(stays), primed=primed, seconds=round(seconds, 3))

    def on_stopping(self) -> None:
        """No longer to be counted on."""
        self._set_ready(is_ready=False)

    def _set_ready(self, *, is_ready: bool) -> None:
        self.health.is_ready = is_ready
        self.metrics.ready.set(int(is_ready))

    def doubts_topics(self) -> bool:
        """Whether the topics may be gone: after an assignment, and while Kafka does not take outputs."""
        is_stalled = any(lane.is_stalled for lane in self.lanes.values())
        doubts = self._topics_may_have_changed or is_stalled
        self._topics_may_have_changed = False
        return doubts

    # --- timers ---

    def tick(self, lag_of: Callable[[int], int | None]) -> None:
        """What happens without readings, about once a second: heartbeats, silence, gauges."""
        now = now_us()
        # Of what came while the worker was suspended nothing is known yet: who sent it is not silent.
        was_suspended = now - self._ticked_us > SUSPENDED_AFTER_S * SECOND_US
        self._ticked_us = now
        until = self._clock.read(now, self.pipeline.arrived_until_us)
        for topic_partition, lane in list(self.lanes.items()):
            partition = topic_partition.partition
            if partition not in self.partitions:
                continue
            lag = lag_of(partition)
            if lag is not None:
                self.metrics.consumer_lag.labels(str(partition)).set(lag)
                self._check_silence(lane, now, until, is_caught_up=lag == 0 and not was_suspended)
            if time.monotonic() - self._beat_at.get(partition, -np.inf) >= self._settings.heartbeat_s:
                self._beat_at[partition] = time.monotonic()
                self.beat(lane)
        self._show(now, until)

    def _check_silence(self, lane: Lane, now: int, until: int, *, is_caught_up: bool) -> None:
        partition = lane.partition.partition
        if self.pipeline.stays.next_offsets.get(partition, 0) < lane.published_until:
            return  # state is made again from old readings: the alerts of then are out
        result = self.pipeline.check_silence(partition, now, until_us=until, is_caught_up=is_caught_up)
        if result.alerts or result.state:
            self._hand_over(lane, result)
        if self.shadow is not None:
            self.shadow.check_silence(partition, now, until_us=until, is_caught_up=is_caught_up)

    def beat(self, lane: Lane, *, is_stopping: bool = False) -> None:
        """Write the partition's heartbeat."""
        partition = lane.partition.partition
        newest_us = self._newest_us.get(partition)
        beat = self.pipeline.encoder.heartbeat(partition, newest_us, now_us(), is_stopping=is_stopping)
        self._hand_over(lane, ChunkResult(alerts=[beat]))

    def _show(self, now: int, until: int) -> None:
        stays, metrics = self.pipeline.stays, self.metrics
        metrics.tracked_stays.set(len(stays))
        silent_s = until / SECOND_US - stays.head["ingested_ms"][stays.is_used] / 1000
        metrics.stale_stays.set(int((silent_s >= self._settings.stale_after_s).sum()))
        metrics.show_shift(mean_widening(stays.scoring["width"][stays.is_used]))
        newest_us = max(self._newest_us.values(), default=None)
        metrics.event_lag.set(np.nan if newest_us is None else (now - newest_us) / SECOND_US)
        open_alerts = Counter(
            entry.priority
            for slot in np.flatnonzero(stays.has_alerts)
            for entry in stays.extras[slot].alerts.values()
            if entry.raised_offset is not None
        )
        for partition in self.partitions:
            metrics.alert_threshold_shift.labels(str(partition)).set(self.pipeline.screen.shift(partition))
        for priority in m.PRIORITIES:
            metrics.alerts_open.labels(priority).set(open_alerts[priority])

    # --- failure ---

    def fail(self, error: BaseException) -> None:
        """End the process at once: memory is ahead of the log. Whoever supervises us starts us again."""
        log.error("stopped_by_failure", **describe(error))
        os._exit(1)
