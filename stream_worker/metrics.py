"""Every Prometheus object of the worker, declared once. Labels are closed sets; a stay is never one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from model.manifest import Manifest
from schemas.alert import AlertState, Kind, Priority
from schemas.dead_letter import Reason
from schemas.forecast import Status
from schemas.signals import known_signals
from stream_worker.alerts.life import HoldReason
from stream_worker.scoring import BANDS, Tally

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series each that no panel uses

# Where the goals lie (0.1 and 0.2 s), and far enough to tell a slow broker from a dead one.
LATENCY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
INFERENCE_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
BATCH_BUCKETS: Final = (1, 4, 16, 64, 256, 512, 1024)
LEAD_BUCKETS: Final = (60, 120, 300, 600, 900, 1800, 3600)

OUTCOMES: Final = ("accepted", "duplicate", "late", "event", "rejected")
IGNORED: Final = ("unit", "invalid", "sentinel", "range", "inconsistent")  # why a value of a known signal was left out
Role = Literal["live", "shadow"]
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)


class Metrics:
    """The worker's metrics in a registry of their own."""

    def __init__(self, manifest: Manifest, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.build_info = Info("build", "Version of the worker.", namespace="vitalcast", registry=self.registry)
        self.model_info = self._gauge("model_info", "Models in use.", "name", "version", "sha256", "role")
        self.ready = self._gauge(
            "ready", "1 if model and state are read and no rebalance is on; of a spare worker too."
        )
        self.readings = self._counter("readings", "Records of the readings topic.", "outcome")
        self.dead_letters = self._counter("dead_letters", "Records that became dead letters.", "reason")
        self.values_ignored = self._counter("values_ignored", "Values left out of readings.", "signal", "reason")
        self.forecasts = self._counter("forecasts", "Forecasts published.", "status")
        self.alerts = self._counter("alerts", "Revisions of alerts published.", "kind", "priority", "state")
        self.alerts_open = self._gauge("alerts_open", "Alerts that are open.", "priority")
        self.alerts_suppressed = self._counter("alerts_suppressed", "Alerts held back.", "reason")
        self.alert_threshold_shift = self._gauge(
            "alert_threshold_shift", "Log-odds that the alert budget adds to the thresholds of advice.", "partition"
        )
        self.alert_lead_time = self._histogram(
            "alert_lead_time_seconds", "Time by which forecast alerts were ahead of the limit.", LEAD_BUCKETS
        )
        self.end_to_end = self._histogram(
            "end_to_end_seconds", "From a reading's Kafka timestamp to its forecast's commit.", LATENCY_BUCKETS
        )
        self.inference = self._histogram("inference_seconds", "Time of one call of the model.", INFERENCE_BUCKETS)
        self.inference_batch = self._histogram("inference_batch_size", "Stays in one call of the model.", BATCH_BUCKETS)
        self.event_lag = self._gauge("event_lag_seconds", "Clock minus the newest observed_at that was processed.")
        self.event_lag.set(math.nan)  # no reading yet, no age: 0 would hide another worker's
        self.consumer_lag = self._gauge("consumer_lag_records", "Readings not yet processed.", "partition")
        self.assigned_partitions = self._gauge("assigned_partitions", "Partitions of this worker.")
        self.rebalances = self._counter("rebalances", "Assignments of partitions received.")
        self.recovery = self._histogram("recovery_seconds", "Time to recover the state.", LATENCY_BUCKETS)
        self.tracked_stays = self._gauge("tracked_stays", "Stays with state.")
        self.stale_stays = self._gauge("stale_stays", "Stays of which nothing has come for stale_after_s.")
        scored = ("signal", "horizon_s")
        self.scored = self._counter("forecast_scored", "Forecasts that came due.", *scored, "band", "covered", "role")
        self.absolute_error = self._counter(
            "forecast_absolute_error", "Sum of |median - value| of forecasts that came due.", *scored, "role"
        )
        self.persistence_error = self._counter(
            "persistence_absolute_error", "Sum of |last value - value| of the same forecasts.", *scored
        )
        self.calibration_shift = self._gauge(
            "calibration_shift",
            "Widening of a band by its own past errors, mean of the stays; 0 = none.",
            *scored,
            "band",
        )

        self.build_info.info({"version": version})
        # Series that exist from the start let rate() see the first increment.
        for outcome in OUTCOMES:
            self.readings.labels(outcome)
        for reason in get_args(Reason):
            self.dead_letters.labels(reason)
        for status in get_args(Status):
            self.forecasts.labels(status)
        for priority in PRIORITIES:
            self.alerts_open.labels(priority)
        for revision in product(get_args(Kind), PRIORITIES, get_args(AlertState)):
            self.alerts.labels(*revision)
        for held in get_args(HoldReason):
            self.alerts_suppressed.labels(held)
        self._models: dict[Role, Manifest] = {}
        self.show_model(manifest, "live")
        signals = [signal.name for signal in known_signals(manifest.inputs)]
        for ignored in (("other", "unknown"), *product(signals, IGNORED)):
            self.values_ignored.labels(*ignored)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="vitalcast", registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace="vitalcast", registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, namespace="vitalcast", buckets=buckets, registry=self.registry)

    def show_model(self, manifest: Manifest, role: Role) -> None:
        """Name the model that is in use in this role from now on."""
        before = self._models.get(role)
        if before is not None:
            self.model_info.remove(before.name, before.version, before.sha256[:12], role)
        self._models[role] = manifest
        self.model_info.labels(manifest.name, manifest.version, manifest.sha256[:12], role).set(1)
        self.add_scores(Tally.of(manifest), role, sparse=False)

    def show_shift(self, shift: NDArray[np.float32]) -> None:
        """Show how far the bands have moved from the model's, (V, H, Q // 2) from the outermost pair in."""
        live = self._models["live"]
        for v, signal in enumerate(live.signals):
            for h, horizon_s in enumerate(live.horizons_s):
                for band, pair in zip(BANDS, (-1, 0), strict=True):
                    self.calibration_shift.labels(signal, str(horizon_s), str(band)).set(float(shift[v, h, pair]))

    def add_scores(self, tally: Tally, role: Role, *, sparse: bool = True) -> None:
        """Add forecasts of the model in this role that came due; `sparse`: only cells where some did."""
        model = self._models[role]
        for v, h in np.argwhere(tally.covered.any(axis=(2, 3)) | (not sparse)).tolist():
            labels = model.signals[v], str(model.horizons_s[h])
            self.absolute_error.labels(*labels, role).inc(tally.absolute_error[v, h])
            if role == "live":  # what is forecast by the last value is the same for all models
                self.persistence_error.labels(*labels).inc(tally.persistence_error[v, h])
            for b, band in enumerate(BANDS):
                for covered, word in enumerate(("false", "true")):
                    self.scored.labels(*labels, str(band), word, role).inc(int(tally.covered[v, h, b, covered]))


def count(counter: Counter, counts: Mapping[Any, int]) -> None:
    """Add `counts` to a counter, by its label or a tuple of its labels."""
    for labels, number in counts.items():
        if number:
            counter.labels(*(labels if isinstance(labels, tuple) else (labels,))).inc(number)


def observe_many(histogram: Histogram, values: NDArray[np.float64]) -> None:
    """Observe all `values` at once: a call of `observe` each costs as much as the forecast's text."""
    buckets = np.searchsorted(histogram._upper_bounds, values, side="left")
    for bucket, number in enumerate(np.bincount(buckets, minlength=len(histogram._buckets)).tolist()):
        if number:
            histogram._buckets[bucket].inc(number)
    histogram._sum.inc(float(values.sum()))
