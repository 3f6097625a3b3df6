"""Records to columns: a chunk's readings as arrays, its stay events and invalid records beside them.

A column has a row for each record of the chunk, readings or not: a record has one number everywhere.

Nearly every record takes the fast way: one typed decoder call. Whatever that decoder does not take as it is (other
units, doubts, unknown signals, and everything wrong) goes through `schemas.codec`, which decides alone what is valid; a
property test compares both ways.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from model.arrays import Bools, Floats, Ints
from schemas import codec
from schemas.codec import InvalidReading
from schemas.dead_letter import Rejection
from schemas.reading import READING_V1, Observations, Reading, StayEvent, StayId, Timestamp
from schemas.signals import ARTERIAL_TRIPLE, SENTINELS, Signal, canonical, is_arterial_triple_consistent
from stream_worker.times import SECOND_US

_SENTINELS: Final = np.array(sorted(SENTINELS))
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads consecutive times (Knuth, vol. 3, 6.4)


@dataclass(slots=True)
class Readings:
    """The readings of a chunk of n records, K known signals. Values are in canonical units and usable."""

    is_reading: Bools  # (n,) of others the columns hold nothing
    stay_ids: list[str]
    observed_us: Ints  # (n,) microseconds since the epoch
    values: Floats  # (n, K) NaN where not observed or not usable
    observed: Bools  # (n, K)
    questionable: Bools  # (n, K) observed, but the device doubts it
    implausible: Bools  # (n, K) sent and not doubted, but out of range or contradictory
    fingerprints: NDArray[np.uint64]  # (n,) of time, device and values as sent
    care_units: list[str | None]
    observations: dict[int, Observations]  # by row, where a reading has any


class Decoded(NamedTuple):
    """What a chunk's records are."""

    readings: Readings
    events: list[tuple[int, StayEvent]]
    invalid: list[tuple[int, Rejection]]
    ignored: Counter[tuple[str, str]]  # (signal, reason) of values that were left out


class _Rows:
    """What is collected of n records; a record that is no reading leaves its row as it is."""

    def __init__(self, n: int, nothing: bytes) -> None:
        self.stay_ids = [""] * n
        self.times = [0.0] * n
        self.packed = [nothing] * n
        self.devices: list[str | None] = [None] * n
        self.care_units: list[str | None] = [None] * n
        self.questionable: dict[int, list[int]] = {}
        self.observations: dict[int, Observations] = {}


class ReadingDecoder:
    """Decodes chunks against a fixed list of known signals."""

    def __init__(self, signals: Sequence[Signal], max_bytes: int) -> None:
        self.signals = tuple(signals)
        self._max_bytes = max_bytes
        self._index = {signal.name: k for k, signal in enumerate(signals)}
        self._low = np.array([signal.low for signal in signals])
        self._high = np.array([signal.high for signal in signals])
        self._units = {(signal.name, signal.unit) for signal in signals}
        self._triple = np.array([self._index[name] for name in ARTERIAL_TRIPLE])
        self._pack = struct.Struct(f"{len(signals)}d").pack
        fields = {f"signal_{k}": signal.name for k, signal in enumerate(signals)}  # a name may be any text
        vitals = msgspec.defstruct(
            "FastVitals",
            [(field, float | None, math.nan) for field in fields],
            rename=fields,
            forbid_unknown_fields=True,
            gc=False,
        )
        reading = msgspec.defstruct(
            "FastReading",
            [
                ("stay_id", StayId),
                ("observed_at", Timestamp),
                ("vitals", vitals),
                ("schema", Literal[READING_V1], READING_V1),
                ("device_id", str | None, None),
                ("care_unit", Annotated[str, msgspec.Meta(max_length=64)] | None, None),
                ("units", dict[str, str | None] | None, None),
                ("quality", dict[str, str | None] | None, None),
            ],
            forbid_unknown_fields=True,
            gc=False,
        )
        self._decode_fast: Any = msgspec.json.Decoder(reading).decode

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """The records of a chunk, sorted into readings, stay events and invalid ones. Never raises."""
        rows = _Rows(len(values), self._pack(*[math.nan] * len(self.signals)))
        events: list[tuple[int, StayEvent]] = []
        invalid: list[tuple[int, Rejection]] = []
        ignored: Counter[tuple[str, str]] = Counter()
        decode_fast, pack = self._decode_fast, self._pack_fast
        for row, value in enumerate(values):
            try:
                if value is None or len(value) > self._max_bytes:  # what the fast decoder does not look at
                    raise msgspec.DecodeError
                reading = decode_fast(value if value.isascii() else value.decode())  # bytes may be no UTF-8
                if reading.observed_at.year not in codec.YEARS or not self._is_taken_as_sent(reading):
                    raise msgspec.DecodeError
                rows.packed[row] = pack(reading.vitals)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                try:
                    record = codec.decode(value, self._max_bytes)
                except InvalidReading as error:
                    # Not the exception: its traceback holds this frame, and that all of the chunk.
                    invalid.append((row, Rejection(error.reason, error.detail)))
                    continue
                if isinstance(record, StayEvent):
                    events.append((row, record))
                    continue
                reading = record
                rows.packed[row] = self._pack_slowly(record, row, rows, ignored)
            rows.stay_ids[row] = reading.stay_id
            rows.times[row] = reading.observed_at.timestamp()
            rows.devices[row] = reading.device_id
            rows.care_units[row] = reading.care_unit or None
        return Decoded(self._to_columns(rows, ignored), events, invalid, ignored)

    def _is_taken_as_sent(self, reading: Any) -> bool:
        """Whether all units that a reading names are the signals' own, and no value is doubted."""
        units, quality = reading.units, reading.quality
        return (not units or units.items() <= self._units) and (not quality or set(quality.values()) <= {"good"})

    def _pack_fast(self, vitals: msgspec.Struct) -> bytes:
        """The values of a reading whose signals are all known and in their own units."""
        values = msgspec.structs.astuple(vitals)
        try:
            return self._pack(*values)
        except struct.error:  # a null: not observed
            return self._pack(*(math.nan if value is None else value for value in values))

    def _pack_slowly(self, reading: Reading, row: int, rows: _Rows, ignored: Counter[tuple[str, str]]) -> bytes:
        """The values of a reading with units, quality or unknown signals, converted and packed."""
        values = [math.nan] * len(self.signals)
        questionable = []
        units, quality = reading.units or {}, reading.quality or {}
        for name, value in reading.vitals.items():
            if value is None:
                continue
            k = self._index.get(name)
            if k is None:
                ignored["other", "unknown"] += 1
                continue
            usable = canonical(self.signals[k], value, units.get(name), quality.get(name))
            if isinstance(usable, str):
                ignored[name, usable] += 1
                continue
            values[k] = usable
            if quality.get(name) == "questionable":
                questionable.append(k)
        if questionable:
            rows.questionable[row] = questionable
        if reading.observations is not None:
            rows.observations[row] = reading.observations
        return self._pack(*values)

    def _to_columns(self, rows: _Rows, ignored: Counter[tuple[str, str]]) -> Readings:
        n, k = len(rows.packed), len(self.signals)
        sent = np.frombuffer(b"".join(rows.packed), np.float64).reshape(n, k)
        times = np.rint(np.array(rows.times, np.float64) * SECOND_US).astype(np.int64)
        digests = [
            xxh3_64_intdigest(packed if device is None else packed + device.encode("utf-8", "surrogatepass"))
            for packed, device in zip(rows.packed, rows.devices, strict=True)
        ]
        questionable = np.zeros((n, k), np.bool_)
        for row, signals in rows.questionable.items():
            questionable[row, signals] = True
        was_sent = ~np.isnan(sent)
        observed, implausible = self._plausible(sent, was_sent, questionable, ignored)
        return Readings(
            is_reading=np.array(rows.stay_ids, np.object_) != "",  # which no stay is called
            stay_ids=rows.stay_ids,
            observed_us=times,
            values=np.where(observed, sent, np.nan),
            observed=observed,
            questionable=questionable & observed,
            implausible=implausible,
            fingerprints=np.array(digests, np.uint64) ^ (times.view(np.uint64) * _GOLDEN),
            care_units=rows.care_units,
            observations=rows.observations,
        )

    def _plausible(
        self, sent: Floats, was_sent: Bools, questionable: Bools, ignored: Counter[tuple[str, str]]
    ) -> tuple[Bools, Bools]:
        """Which values can be used, and which cannot though no device doubts them; counts what cannot by reason."""
        usable = (sent >= self._low) & (sent <= self._high)
        out_of_range = was_sent & ~usable
        implausible = out_of_range.copy()
        if out_of_range.any():
            is_sentinel = out_of_range & np.isin(sent, _SENTINELS)
            implausible &= ~is_sentinel
            self._count(ignored, is_sentinel, "sentinel")
            self._count(ignored, implausible, "range")
        sys, dia, mean = (sent[:, k] for k in self._triple)
        has_triple = usable[:, self._triple].all(axis=1)
        contradictory = has_triple & ~is_arterial_triple_consistent(sys, dia, mean)
        if contradictory.any():
            rows = np.flatnonzero(contradictory)
            all_three = np.ix_(rows, self._triple)
            usable[all_three] = False
            implausible[all_three] = ~questionable[all_three].any(axis=1, keepdims=True)
            for name in ARTERIAL_TRIPLE:
                ignored[name, "inconsistent"] += len(rows)
        return usable, implausible & ~questionable

    def _count(self, ignored: Counter[tuple[str, str]], values: Bools, reason: str) -> None:
        for k in np.flatnonzero(values.any(axis=0)):
            ignored[self.signals[k].name, reason] += int(values[:, k].sum())
