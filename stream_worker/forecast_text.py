"""The numbers of many forecasts as JSON text, written column by column: a tenth of what an encoder takes.

A chunk's forecasts differ in their numbers only, so their text is one matrix of bytes, a row for each forecast, every
field at the same place in all rows. Numbers come from a table of all there can be; shorter ones are padded with a
space, which JSON allows. `outputs.OutputEncoder` writes the same by the plain way for whatever does not fit the table;
a test compares both.

    "hr":{"last": 88.0,"last_at":"2026-11-22T10:15:30Z"       ,"quantiles":[[ 86.1, 87.4, 88.2, 89.0, 90.6],[ 85. ...
                                 room for a fraction: .123456Z"             cell of 6 bytes: number and what follows it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Bools, Ints
from stream_worker.times import DAY_US, SECOND_US

Bytes = NDArray[np.uint8]

_LARGEST: Final = 9999  # quanta: 999.9, five characters
_NUMBER: Final = 5
_CELL: Final = _NUMBER + 1


def _cells(after: str) -> NDArray[np.uint64]:
    """Every number with `after` behind it as 8 bytes; what is left of the 8 is overwritten by the next field."""
    texts = [f"{quanta / 10:{_NUMBER}.1f}{after}".ljust(8).encode() for quanta in range(_LARGEST + 1)]
    return np.array(texts, "S8").view(np.uint64)


_NUMBERS: Final = _cells("").view(np.uint8).reshape(-1, 8)[:, :_NUMBER].copy()
_THEN_NEXT: Final = _cells(",")
_THEN_ROW: Final = _cells("],[")
_SCORES: Final = np.array([f"{score / 1000:.3f}".encode() for score in range(1001)], "S5").view(np.uint8).reshape(-1, 5)
_FLAGS: Final = np.array([b"false", b"true "], "S5").view(np.uint8).reshape(-1, 5)
_SECONDS: Final = (
    np.array([f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}".encode() for s in range(86_400)], "S8")
    .view(np.uint8)
    .reshape(-1, 8)
)
_THREE_DIGITS: Final = np.array([f"{i:03}".encode() for i in range(1000)], "S3").view(np.uint8).reshape(-1, 3)


class Numbers(NamedTuple):
    """The numbers of n forecasts of V signals; values and quantiles in steps of their signal's precision."""

    quantiles: Ints  # (n, V, H, Q)
    last: Ints  # (n, V)
    last_at: Ints  # (n, V) microseconds since the epoch
    observed: Bools  # (n, V) in the window: signals that are not are left out
    scores: NDArray[np.float64]  # (n, V) NaN where not scored
    flags: Bools  # (n, V)

    def where(self, rows: Bools | NDArray[np.intp]) -> Numbers:
        """Those of some forecasts."""
        return Numbers._make(column[rows] for column in self)


class ForecastText:
    """Writes `"signals":{...},"anomalies":{...}}`, which ends a message, for V signals, H horizons and Q levels, all of
    precision 0.1.
    """

    def __init__(self, names: Sequence[str], horizons: int, levels: int) -> None:
        self._signals = len(names)
        self._row = levels * _CELL + 2  # a horizon's numbers and the brackets to the next
        self._horizons, self._levels = horizons, levels
        text = bytearray(b'"signals":{')
        self._blocks: list[slice] = []
        self._last: list[int] = []
        self._at: list[int] = []
        self._quantiles: list[int] = []
        for v, name in enumerate(names):
            start = len(text)
            text += b"," if v else b" "
            text += f'"{name}":{{"last":'.encode()
            self._last.append(len(text))
            text += b"?" * _NUMBER + b',"last_at":"'
            self._at.append(len(text))
            text += b'0000-00-00T00:00:00Z"       ,"quantiles":[['
            self._quantiles.append(len(text))
            text += b"?" * (horizons * self._row - 3) + b"]]}"
            self._blocks.append(slice(start, len(text)))
        text += b'},"anomalies":{'
        self._anomalies: list[slice] = []
        self._scores: list[int] = []
        self._flags: list[int] = []
        for v, name in enumerate(names):
            start = len(text)
            text += b"," if v else b" "
            text += f'"{name}":{{"score":'.encode()
            self._scores.append(len(text))
            text += b"0.000" + b',"flag":'
            self._flags.append(len(text))
            text += b"?????" + b"}"
            self._anomalies.append(slice(start, len(text)))
        text += b"}}"
        self._template = np.frombuffer(bytes(text), np.uint8)

    @staticmethod
    def fits(numbers: Numbers) -> Bools:
        """Which forecasts (n,) the table has room for: numbers from 0.0 to 999.9."""
        quantiles, last = numbers.quantiles, numbers.last
        # As unsigned numbers those below 0 are large too.
        largest = quantiles.view(np.uint64).reshape(*last.shape, -1).max(axis=2)
        small = (largest <= _LARGEST) & (last >= 0) & (last <= _LARGEST)
        fitting: Bools = (small | ~numbers.observed).all(axis=1)
        return fitting

    def write(self, numbers: Numbers) -> list[bytes]:
        """The text of n forecasts that fit, in tenths."""
        quantiles, last, last_at, observed, scores, flags = numbers
        n, length = len(quantiles), len(self._template)
        # 8 bytes are stored for a number of 5 and what follows: leave room behind the last row.
        room = np.empty(n * length + 8, np.uint8)
        matrix = room[: n * length].reshape(n, length)
        matrix[:] = self._template
        quantiles = np.clip(quantiles, 0, _LARGEST)  # of signals that are not observed, and blanked below
        is_scored = ~np.isnan(scores)
        thousandths = np.rint(np.where(is_scored, scores, 0.0) * 1000).astype(np.intp)
        times = np.where(observed, last_at, 0)
        for v in range(self._signals):
            self._write_quantiles(room, v, quantiles[:, v], length)
            self._put(matrix, self._quantiles[v] + self._horizons * self._row - 3, np.frombuffer(b"]]}", np.uint8))
            self._put(matrix, self._last[v], _NUMBERS[np.clip(last[:, v], 0, _LARGEST)])
            self._write_times(matrix, self._at[v], times[:, v])
            self._put(matrix, self._scores[v], _SCORES[thousandths[:, v]])
            self._put(matrix, self._flags[v], _FLAGS[flags[:, v].astype(np.intp)])
        self._blank(matrix, self._blocks, observed)
        self._blank(matrix, self._anomalies, is_scored)
        text = matrix.tobytes()
        return [text[start : start + length] for start in range(0, n * length, length)]

    def _write_quantiles(self, room: Bytes, v: int, quantiles: Ints, length: int) -> None:
        """All horizons of a signal at once, level by level, so that each number covers the rest of the one before."""
        n, horizons, levels = quantiles.shape
        for level in range(levels):
            offset = self._quantiles[v] + level * _CELL
            cells = np.ndarray((n, horizons), np.uint64, room, offset, (length, self._row))
            cells[:] = (_THEN_NEXT if level < levels - 1 else _THEN_ROW).take(quantiles[:, :, level])

    def _write_times(self, matrix: Bytes, at: int, us: Ints) -> None:
        days, inverse = np.unique(us // DAY_US, return_inverse=True)
        dates = days.astype("datetime64[D]").astype("S10").view(np.uint8).reshape(-1, 10)
        self._put(matrix, at, dates[inverse])
        self._put(matrix, at + 11, _SECONDS[us % DAY_US // SECOND_US])
        fraction = us % SECOND_US
        rows = np.flatnonzero(fraction)
        thousandths, rest = np.divmod(fraction[rows], 1000)
        matrix[rows, at + 19] = ord(".")
        matrix[rows, at + 20 : at + 23] = _THREE_DIGITS[thousandths]
        matrix[rows, at + 23 : at + 26] = _THREE_DIGITS[rest]
        matrix[rows, at + 26 : at + 28] = np.frombuffer(b'Z"', np.uint8)

    @staticmethod
    def _put(matrix: Bytes, at: int, field: Bytes) -> None:
        matrix[:, at : at + field.shape[-1]] = field

    @staticmethod
    def _blank(matrix: Bytes, blocks: Sequence[slice], present: Bools) -> None:
        """Blank the blocks that are not there, and the comma before the first that is."""
        if present.all():
            return
        first = present.argmax(axis=1)
        for v, block in enumerate(blocks):
            absent = np.flatnonzero(~present[:, v])
            matrix[absent, block] = ord(" ")
            matrix[np.flatnonzero(first == v), block.start] = ord(" ")
