"""The worker's part between Faust and the pipeline: chunks in, work for the lanes out, timers, metrics."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import structlog
from aiokafka import TopicPartition

from stream_worker import metrics as m
from stream_worker.chunks import BulkStore, Chunk, Lane, LaneFailure, Work
from stream_worker.columns import MICROSECONDS
from stream_worker.health import Health
from stream_worker.log import describe
from stream_worker.metrics import Metrics
from stream_worker.pipeline import ChunkResult, Pipeline
from stream_worker.settings import Settings
from stream_worker.stays import Stays

log = structlog.get_logger("vitalcast")

DEAD_LETTER_WINDOW: Final = 10_000  # records of a partition


def now_us() -> int:
    """The clock, microseconds since the epoch."""
    return time.time_ns() // 1000


class StayStore(BulkStore):
    """The Faust table's store: the stays' columns."""

    stays: Stays
    on_loaded_callback: Callable[[frozenset[int], float], None]

    def forget_all(self) -> None:
        """Drop the state of every partition."""
        self._newest: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
        self.stays.forget_all()

    def load(self, partition: int, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Keep the newest record of each key; they are joined once all are there."""
        newest = self._newest[partition]
        for key, value in records:
            if value is None:
                newest.pop(key, None)
            else:
                newest[key] = value

    def on_loaded(self, partitions: frozenset[int], seconds: float) -> None:
        """Join heads and bodies."""
        for partition in list(self._newest):
            restarted = self.stays.load(partition, self._newest.pop(partition))
            if restarted:
                log.warning("stays_start_anew", partition=partition, stays=restarted)
        self.on_loaded_callback(partitions, seconds)


class ReadingsAgent:
    """Processes chunks and timers of the assigned partitions. Whatever fails ends the process: the log is the truth."""

    def __init__(self, settings: Settings, pipeline: Pipeline, metrics: Metrics, health: Health) -> None:
        self.pipeline = pipeline
        self.partitions: frozenset[int] = frozenset()
        self.lanes: dict[TopicPartition, Lane] = {}
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._recent: defaultdict[int, deque[tuple[int, int]]] = defaultdict(deque)  # records, dead letters by chunk
        self._newest_us: dict[int, int] = {}
        self._beat_at: dict[int, float] = {}

    # --- chunks ---

    async def process(self, chunk: Chunk) -> None:
        """Take a chunk; returns when the lanes have taken over. Partitions that were lost while it waited are left out:
        whoever has them now reads their records.
        """
        ours = {tp.partition: records for tp, records in chunk.items() if tp in self.lanes}
        results = self.pipeline.process(ours, now_us())
        lanes = {tp.partition: lane for tp, lane in self.lanes.items()}
        for partition, result in results.items():
            if result.newest_us is not None:
                self._newest_us[partition] = max(result.newest_us, self._newest_us.get(partition, result.newest_us))
            timestamps = np.array([record.timestamp for record in ours[partition]], np.float64) / 1000
            await self._hand_over(lanes[partition], result, timestamps)
            self._check_dead_letters(partition, len(ours[partition]), len(result.dead_letters))
        self._observe_inference()

    async def _hand_over(self, lane: Lane, result: ChunkResult, timestamps: Any = None) -> None:
        settings = self._settings
        await lane.add(
            Work(
                outputs={
                    settings.forecasts_topic: list(result.forecasts),
                    settings.alerts_topic: list(result.alerts),
                    settings.dead_letters_topic: list(result.dead_letters),
                },
                state=result.state,
                next_offset=self.pipeline.stays.next_offsets.get(lane.partition.partition),
                on_durable=lambda: self._count(result, timestamps),
            )
        )

    def _count(self, result: ChunkResult, timestamps: Any) -> None:
        metrics = self._metrics
        m.count(metrics.readings, result.outcomes)
        m.count(metrics.dead_letters, result.dead_letter_reasons)
        m.count(metrics.forecasts, result.statuses)
        metrics.ignore_values(result.ignored_values)
        for (kind, priority, state), number in result.alert_transitions.items():
            metrics.alerts.labels(kind, priority, state).inc(number)
        m.count(metrics.alerts_suppressed, result.alerts_held)
        if result.scored is not None:
            metrics.add_scores(result.scored)
        for lead_time_s in result.lead_times_s:
            metrics.alert_lead_time.observe(lead_time_s)
        if timestamps is not None:
            m.observe_many(metrics.end_to_end, np.maximum(time.time() - timestamps, 0.0))

    def _observe_inference(self) -> None:
        chain = self.pipeline.chain
        m.observe_many(self._metrics.inference, np.array(chain.inference_seconds))
        m.observe_many(self._metrics.inference_batch, np.array(chain.inference_rows, np.float64))
        chain.inference_seconds.clear()
        chain.inference_rows.clear()

    def _check_dead_letters(self, partition: int, records: int, dead_letters: int) -> None:
        """All bad input means a bad deployment, not bad records: stop, so that nobody mistakes it for a calm ward."""
        recent = self._recent[partition]
        recent.append((records, dead_letters))
        total = sum(n for n, _ in recent)
        while total - recent[0][0] >= DEAD_LETTER_WINDOW:
            total -= recent.popleft()[0]
        share = sum(n for _, n in recent) / total
        if total >= DEAD_LETTER_WINDOW and share >= self._settings.dead_letter_limit:
            log.error("dead_letter_limit", partition=partition, share=round(share, 3), records=total)
            raise LaneFailure("nearly all records are dead letters")

    # --- assignment ---

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Partitions are ours, their lanes are open; state is not there yet."""
        self.partitions = frozenset()
        self._set_ready(is_ready=False)
        self._metrics.rebalances.inc()
        self._metrics.assigned_partitions.set(len(partitions))
        log.info("partitions_assigned", partitions=sorted(partitions))

    def on_recovered(self, partitions: frozenset[int], seconds: float) -> None:
        """State is there."""
        stays = self.pipeline.stays
        primed = self.pipeline.chain.prime_outdated()
        self.partitions = partitions
        self._newest_us = {
            partition: int(stays.head["newest"][slots].max())
            for partition in partitions
            if len(slots := stays.in_partition(partition))
        }
        self._metrics.recovery.observe(seconds)
        self._set_ready(is_ready=True)
        log.info("state_recovered", stays=len(stays), primed=primed, seconds=round(seconds, 3))

    def on_stopping(self) -> None:
        """No longer to be counted on."""
        self._set_ready(is_ready=False)

    def _set_ready(self, *, is_ready: bool) -> None:
        self._health.is_ready = is_ready
        self._metrics.ready.set(int(is_ready))

    # --- timers ---

    async def tick(self, lag_of: Callable[[int], int | None]) -> None:
        """What happens without readings, about once a second: heartbeats, silence, gauges."""
        self._health.touch()
        now = now_us()
        for topic_partition, lane in list(self.lanes.items()):
            partition = topic_partition.partition
            if partition not in self.partitions:
                continue
            lag = lag_of(partition)
            if lag is not None:
                self._metrics.consumer_lag.labels(str(partition)).set(lag)
            if lag == 0:
                result = self.pipeline.check_silence(partition, now)
                if result.alerts or result.state:
                    await self._hand_over(lane, result)
            if time.monotonic() - self._beat_at.get(partition, -np.inf) >= self._settings.heartbeat_s:
                self._beat_at[partition] = time.monotonic()
                await self.beat(lane)
        self._show(now)

    async def beat(self, lane: Lane, *, is_stopping: bool = False) -> None:
        """Write the partition's heartbeat."""
        partition = lane.partition.partition
        newest_us = self._newest_us.get(partition)
        if newest_us is not None and newest_us < 0:
            newest_us = None
        beat = self.pipeline.encoder.heartbeat(partition, newest_us, now_us(), is_stopping=is_stopping)
        await self._hand_over(lane, ChunkResult(alerts=[beat]))

    def _show(self, now: int) -> None:
        stays, metrics = self.pipeline.stays, self._metrics
        metrics.tracked_stays.set(len(stays))
        silent_s = now / MICROSECONDS - stays.head["ingested_ms"][stays.is_used] / 1000
        metrics.stale_stays.set(int((silent_s >= self._settings.stale_after_s).sum()))
        if self._newest_us:
            metrics.event_lag.set(now / MICROSECONDS - max(self._newest_us.values()) / MICROSECONDS)
        open_alerts = Counter(
            entry.priority
            for slot in np.flatnonzero(stays.has_alerts)
            for entry in stays.extras[slot].alerts.values()
            if entry.raised_offset is not None
        )
        for priority in m.PRIORITIES:
            metrics.alerts_open.labels(priority).set(open_alerts[priority])

    # --- failure ---

    def fail(self, error: BaseException) -> None:
        """End the process at once: memory is ahead of the log. Whoever supervises us starts us again."""
        log.error("stopped_by_failure", **describe(error))
        os._exit(1)
