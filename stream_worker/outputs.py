"""Forecasts, alerts, heartbeats and dead letters as they go over the wire."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from math import isnan

import numpy as np
import orjson
from numpy.typing import NDArray

from schemas import codec
from schemas.alert import Alert, Heartbeat
from schemas.codec import InvalidReading
from schemas.dead_letter import DeadLetter
from schemas.forecast import FORECAST_V1, Source, Status
from stream_worker.alerting import AlertKey, Transition, message_of
from stream_worker.columns import to_time
from stream_worker.stays import Layout

Ints = NDArray[np.int64]


@lru_cache(maxsize=65_536)
def to_text(us: int) -> str:
    """RFC 3339 in UTC of `us` microseconds since the epoch; without a fraction where there is none."""
    return to_time(us).isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class Forecasts:
    """The forecasts of a chunk as columns, n rows. Values and quantiles in steps of their signal's precision."""

    offsets: Ints  # (n,)
    stay_ids: list[str]
    issued_us: Ints  # (n,)
    statuses: list[Status]
    observed: NDArray[np.bool_]  # (n, V) in the window
    last: Ints  # (n, V)
    last_at: Ints  # (n, V)
    quantiles: Ints  # (n, V, H, Q)
    scores: NDArray[np.float64]  # (n, V) NaN where not scored
    flags: NDArray[np.bool_]  # (n, V)


class OutputEncoder:
    """Encodes what one model's worker publishes."""

    def __init__(self, layout: Layout, topic: str, *, with_payload: bool) -> None:
        manifest = layout.manifest
        self._topic = topic
        self._with_payload = with_payload
        self._names = manifest.signals
        self._precision = layout.precision[layout.forecast]
        self._decimals = [signal.decimals for signal in manifest.forecast_signals]
        self._constant = {
            "model": {"name": manifest.name, "version": manifest.version, "sha256": manifest.sha256[:12]},
            "step_s": manifest.step_s,
            "horizons_s": list(manifest.horizons_s),
            "quantile_levels": list(manifest.quantile_levels),
        }

    def forecasts(self, partitions: list[int], rows: Forecasts, produced_us: int) -> list[tuple[bytes, bytes]]:
        """Key and value of each forecast; `partitions` are those of the readings."""
        quantiles = [self._numbers(rows.quantiles[:, v], v) for v in range(len(self._names))]
        lasts = [self._numbers(rows.last[:, v], v) for v in range(len(self._names))]
        last_at, observed = rows.last_at.tolist(), rows.observed.tolist()
        scores, flags = np.round(rows.scores, 3).tolist(), rows.flags.tolist()
        produced_at = to_text(produced_us)
        encoded = []
        for n, (partition, offset, stay_id, issued_us) in enumerate(
            zip(partitions, rows.offsets.tolist(), rows.stay_ids, rows.issued_us.tolist(), strict=True)
        ):
            signals = {
                name: {"last": lasts[v][n], "last_at": to_text(last_at[n][v]), "quantiles": quantiles[v][n]}
                for v, name in enumerate(self._names)
                if observed[n][v]
            }
            anomalies = {
                name: {"score": scores[n][v], "flag": flags[n][v]}
                for v, name in enumerate(self._names)
                if not isnan(scores[n][v])
            }
            message = {
                "schema": FORECAST_V1,
                "forecast_id": f"{self._topic}-{partition}-{offset}",
                "stay_id": stay_id,
                "issued_at": to_text(issued_us),
                "produced_at": produced_at,
                "status": rows.statuses[n],
                "calibration": "none",
                **self._constant,
                "signals": signals,
                "anomalies": anomalies,
                "source": {"topic": self._topic, "partition": partition, "offset": offset},
            }
            encoded.append((stay_id.encode(), orjson.dumps(message)))
        return encoded

    def _numbers(self, quanta: Ints, v: int) -> list[object]:
        """Quanta of forecast signal `v` as numbers that print at its precision."""
        rounded: list[object] = np.round(quanta * self._precision[v], self._decimals[v]).tolist()
        return rounded

    def alert_id(self, partition: int, raised_offset: int, key: AlertKey) -> str:
        """The id that all revisions of an alert share: where it was raised, and what it is about."""
        about = f"{key.kind}-{key.signal or 'stay'}-{key.side or key.cause or 'any'}"
        return f"{self._topic}-{partition}-{raised_offset}-{about}"

    def alert(
        self,
        partition: int,
        offset: int,
        stay_id: str,
        care_unit: str | None,
        transition: Transition,
        produced_us: int,
    ) -> tuple[bytes, bytes]:
        """Key and value of one revision of an alert, caused by the record at `offset`."""
        message, message_key, params = message_of(transition)
        key = transition.key
        superseded_by = transition.superseded_by
        alert = Alert(
            alert_id=self.alert_id(partition, transition.raised_offset, key),
            revision=transition.revision,
            state=transition.state,
            stay_id=stay_id,
            care_unit=care_unit,
            kind=key.kind,  # type: ignore[arg-type]  # keys hold the contract's words as plain strings
            signal=key.signal,
            side=key.side,  # type: ignore[arg-type]
            cause=key.cause,  # type: ignore[arg-type]
            priority=transition.priority,
            since=to_time(transition.since_us),
            event_at=to_time(transition.at_us),
            produced_at=to_time(produced_us),
            message=message,
            message_key=message_key,
            message_params=params,
            evidence=transition.evidence,
            clear_reason=transition.clear_reason,
            superseded_by=None if superseded_by is None else self.alert_id(partition, offset, superseded_by),
            lead_time_s=transition.lead_time_s,
            source=Source(self._topic, partition, offset),
        )
        return stay_id.encode(), codec.encode(alert)

    def heartbeat(
        self, partition: int, newest_us: int | None, now_us: int, *, is_stopping: bool
    ) -> tuple[bytes, bytes]:
        """Key and value of a partition's sign of life."""
        beat = Heartbeat(
            partition=partition,
            produced_at=to_time(now_us),
            newest_observed_at=None if newest_us is None else to_time(newest_us),
            state="stopping" if is_stopping else "running",
        )
        return f"heartbeat-{partition}".encode(), codec.encode(beat)

    def dead_letter(
        self, partition: int, offset: int, key: bytes | None, value: bytes | None, error: InvalidReading, now_us: int
    ) -> tuple[bytes | None, bytes]:
        """Key (as received) and value of a dead letter."""
        payload = value or b""
        letter = DeadLetter(
            reason=error.reason,
            detail=error.detail,
            source=Source(self._topic, partition, offset),
            received_at=to_time(now_us),
            payload_sha256=hashlib.sha256(payload).hexdigest(),
            payload=base64.b64encode(payload).decode() if self._with_payload else None,
        )
        return key, codec.encode(letter)
