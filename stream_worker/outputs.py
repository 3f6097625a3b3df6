"""Forecasts, alerts, heartbeats and dead letters as they go over the wire."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from math import isnan
from typing import Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from model.arrays import Ints
from schemas import codec
from schemas.alert import Alert, Heartbeat
from schemas.dead_letter import DeadLetter, Rejection
from schemas.forecast import Source
from stream_worker.alerts.entries import AlertKey
from stream_worker.alerts.life import Transition
from stream_worker.alerts.words import message_of
from stream_worker.forecast_text import ForecastText, Numbers
from stream_worker.stays import Layout
from stream_worker.times import to_text, to_time

# A record came within the broker's limit, by default 1,048,588 bytes, and what tells of it must too.
MAX_DEAD_LETTER_BYTES: Final = 900_000


class Forecasts(NamedTuple):
    """Forecasts as columns, n rows."""

    partitions: Ints  # (n,) of the readings
    offsets: Ints  # (n,)
    stay_ids: Sequence[str]
    issued_us: Ints  # (n,)
    statuses: NDArray[np.str_]  # (n,)
    numbers: Numbers


class OutputEncoder:
    """Encodes what one model's worker publishes."""

    def __init__(self, layout: Layout, topic: str, *, calibration: str, with_payload: bool) -> None:
        manifest = layout.manifest
        self._topic = topic
        self._with_payload = with_payload
        self._names = manifest.signals
        self._precision = layout.precision[layout.forecast]
        self._decimals = [signal.decimals for signal in manifest.forecast_signals]
        self._text = ForecastText(manifest.signals, len(manifest.horizons_s), len(manifest.quantile_levels))
        self._can_be_text = np.bool_((self._precision == 0.1).all())
        constant = {
            "calibration": calibration,
            "model": {"name": manifest.name, "version": manifest.version, "sha256": manifest.sha256[:12]},
            "step_s": manifest.step_s,
            "horizons_s": list(manifest.horizons_s),
            "quantile_levels": list(manifest.quantile_levels),
        }
        self._constant = orjson.dumps(constant)[1:-1] + b","

    def forecasts(self, rows: Forecasts, produced_us: int) -> list[tuple[bytes, bytes]]:
        """Key and value of each forecast."""
        heads = self._heads(rows, produced_us)
        bodies = self.bodies(rows.numbers)
        return [
            (stay_id.encode(), head + body) for stay_id, head, body in zip(rows.stay_ids, heads, bodies, strict=True)
        ]

    def bodies(self, numbers: Numbers) -> list[bytes]:
        """The numbers of each message, to its end: by the table where they fit it, else the plain way."""
        fitting = self._can_be_text & ForecastText.fits(numbers)
        if fitting.all():
            return self._text.write(numbers)
        bodies = [b""] * len(fitting)
        for rows, write in ((np.flatnonzero(fitting), self._text.write), (np.flatnonzero(~fitting), self.plain_bodies)):
            if len(rows):
                for n, body in zip(rows.tolist(), write(numbers.where(rows)), strict=True):
                    bodies[n] = body
        return bodies

    def _heads(self, rows: Forecasts, produced_us: int) -> list[bytes]:
        """All of each message but its numbers."""
        produced_at = to_text(produced_us)
        issued = map(to_text, rows.issued_us.tolist())
        stay_ids = map(orjson.dumps, rows.stay_ids)
        topic, constant = self._topic.encode(), self._constant
        return [
            b'{"schema":"vitals.forecast.v1","forecast_id":"%b-%d-%d","stay_id":%b,"issued_at":"%b","produced_at":"%b",'
            b'"status":"%b",%b"source":{"topic":"%b","partition":%d,"offset":%d},'
            % (topic, p, o, stay_id, at.encode(), produced_at.encode(), status.encode(), constant, topic, p, o)
            for p, o, stay_id, at, status in zip(
                rows.partitions.tolist(), rows.offsets.tolist(), stay_ids, issued, rows.statuses.tolist(), strict=True
            )
        ]

    def plain_bodies(self, numbers: Numbers) -> list[bytes]:
        """The numbers of each message, whatever they are, and its end."""
        quantiles = [self._numbers(numbers.quantiles[:, v], v) for v in range(len(self._names))]
        lasts = [self._numbers(numbers.last[:, v], v) for v in range(len(self._names))]
        last_at, observed = numbers.last_at.tolist(), numbers.observed.tolist()
        scores, flags = np.round(numbers.scores, 3).tolist(), numbers.flags.tolist()
        bodies = []
        for n in range(len(last_at)):
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
            bodies.append(orjson.dumps({"signals": signals, "anomalies": anomalies})[1:])
        return bodies

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
            kind=key.kind,
            signal=key.signal,
            side=key.side,
            cause=key.cause,
            priority=transition.priority,
            since=to_time(transition.since_us),
            event_at=to_time(transition.at_us),
            produced_at=to_time(produced_us),
            message=message,
            message_key=message_key,
            message_params=params,
            evidence=transition.evidence,
            clear_reason=transition.clear_reason,
            superseded_by=superseded_by and self.alert_id(partition, superseded_by.raised_offset, superseded_by.key),
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
        self,
        partition: int,
        offset: int,
        key: bytes | None,
        value: bytes | None,
        rejection: Rejection,
        received_us: int,
    ) -> tuple[bytes | None, bytes]:
        """Key (as received) and value of a dead letter; what would not fit into a record is left out."""
        payload = value or b""
        key = key if key is None or len(key) <= MAX_DEAD_LETTER_BYTES else None
        has_payload = self._with_payload and len(key or b"") + len(payload) * 4 // 3 <= MAX_DEAD_LETTER_BYTES
        letter = DeadLetter(
            reason=rejection.reason,
            detail=rejection.detail,
            source=Source(self._topic, partition, offset),
            received_at=to_time(received_us),
            payload_sha256=hashlib.sha256(payload).hexdigest(),
            payload=base64.b64encode(payload).decode() if has_payload else None,
        )
        return key, codec.encode(letter)
