"""The numbers of many forecasts as JSON text, written column by column: a twentieth of what an encoder takes.

Forecasts differ in their numbers only, so each is a copy of a template with its fields in the same places; the members
of `signals` are of equal length, as are those of `anomalies`. Numbers come from tables of all there can be; shorter
ones, and shorter names, are padded with spaces, which JSON allows. `outputs.OutputEncoder` writes the same by the plain
way for whatever does not fit the tables; a test compares both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Bools, Ints
from stream_worker.times import DAY_US, SECOND_US

_LARGEST: Final = 9999  # quanta: 999.9, five characters
_CELL: Final = 6  # a number and the comma behind it

# A signal's member and an anomaly's; fields are capital letters: Last, Date, Clock, Z or a fraction, Score, flaG.
_SIGNAL: Final = b'{"last":LLLLL,"last_at":"DDDDDDDDDDTCCCCCCCCZ"       ,"quantiles":[[%b]]}'
_ANOMALY: Final = b'{"score":SSSSS,"flag":GGGGG}  '


def _table(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Texts of 8 bytes, the size of one store; a later field covers what fills up the shorter ones."""
    return np.array([text.ljust(8).encode() for text in texts], "S8").view(np.uint64)


_NUMBERS: Final = [f"{quanta / 10:5.1f}" for quanta in range(_LARGEST + 1)]
_LAST: Final = _table([f'{number},"l' for number in _NUMBERS])
_THEN_NEXT: Final = _table([f"{number}," for number in _NUMBERS])
_THEN_ROW: Final = _table([f"{number}],[" for number in _NUMBERS])
_CLOCK: Final = _table([f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}" for s in range(86_400)])
_FRACTION: Final = np.array([f".{i:03}" for i in range(1000)], "S4"), np.array([f'{i:03}Z"' for i in range(1000)], "S5")
_SCORE: Final = _table([f'{score / 1000:.3f},"f' for score in range(1001)])
_FLAG: Final = _table(["false}", "true }"])


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
        width = max(len(name.encode()) for name in names)
        keys = [f',"{name}"'.encode().ljust(width + 3) + b":" for name in names]
        row = levels * _CELL + 2  # a horizon's numbers and the brackets to the next
        signal, anomaly = _SIGNAL % (b"?" * (horizons * row - 3)), _ANOMALY
        signals, anomalies = (b"".join(key + member for key in keys) for member in (signal, anomaly))
        text = b'"signals":{%b},"anomalies":{%b}}' % (signals, anomalies)
        self._template = np.void(text)

        numbers = _record(row, {str(level): ("u8", level * _CELL) for level in range(levels)})
        fraction = signal.index(b"Z")
        of_signal = {
            "last": ("u8", signal.index(b"L")),
            "date": ("S10", signal.index(b"D")),
            "clock": ("u8", signal.index(b"C")),
            "milliseconds": ("S4", fraction),
            "microseconds": ("S5", fraction + 4),
            "quantiles": ((numbers, horizons), signal.index(b"?")),
            "end": ("S3", len(signal) - 3),
        }
        of_anomaly = {"score": ("u8", anomaly.index(b"S")), "flag": ("u8", anomaly.index(b"G"))}
        members = [
            ((_member(len(keys[0]), len(member), fields), len(names)), text.index(all_of_them))
            for member, fields, all_of_them in ((signal, of_signal, signals), (anomaly, of_anomaly, anomalies))
        ]
        self._message = _record(len(text), dict(zip(("signals", "anomalies"), members, strict=True)))
        self._levels = levels

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
        texts: NDArray[Any] = np.full(len(numbers.last), self._template)
        messages = texts.view(self._message)
        self._write_signals(messages["signals"], numbers)
        is_scored = ~np.isnan(numbers.scores)
        anomalies = messages["anomalies"]
        anomalies["score"] = _SCORE.take(np.rint(np.where(is_scored, numbers.scores, 0.0) * 1000).astype(np.intp))
        anomalies["flag"] = _FLAG.take(numbers.flags)
        _leave_out(anomalies, ~is_scored)
        written: list[bytes] = texts.tolist()
        return written

    def _write_signals(self, signals: NDArray[Any], numbers: Numbers) -> None:
        observed = numbers.observed
        # Signals that are not observed are left out below.
        signals["last"] = _LAST.take(numbers.last, mode="clip")
        _write_times(signals, np.where(observed, numbers.last_at, 0))
        # Level by level: each number covers what fills up the one before.
        for level in range(self._levels):
            table = _THEN_NEXT if level < self._levels - 1 else _THEN_ROW
            signals["quantiles"][str(level)] = table.take(numbers.quantiles[..., level], mode="clip")
        signals["end"] = b"]]}"
        _leave_out(signals, ~observed)


def _record(size: int, fields: dict[str, tuple[Any, int]]) -> np.dtype[Any]:
    """`size` bytes with fields in them, each a type and where it begins; they may overlap."""
    types, offsets = zip(*fields.values(), strict=True)
    return np.dtype({"names": list(fields), "formats": types, "offsets": offsets, "itemsize": size})


def _member(key: int, size: int, fields: dict[str, tuple[Any, int]]) -> np.dtype[Any]:
    """A member of an object, its key of `key` bytes, its value of `size` with `fields`."""
    shifted = {name: (kind, key + offset) for name, (kind, offset) in fields.items()}
    return _record(key + size, {"all": (f"V{key + size}", 0), "comma": ("S1", 0), **shifted})


def _write_times(signals: NDArray[Any], us: Ints) -> None:
    days, inverse = np.unique(us // DAY_US, return_inverse=True)
    signals["date"] = days.astype("datetime64[D]").astype("S10")[inverse]
    signals["clock"] = _CLOCK.take(us % DAY_US // SECOND_US)
    fraction = us % SECOND_US
    some = np.nonzero(fraction)
    milliseconds, microseconds = np.divmod(fraction[some], 1000)
    signals["milliseconds"][some] = _FRACTION[0][milliseconds]
    signals["microseconds"][some] = _FRACTION[1][microseconds]


def _leave_out(members: NDArray[Any], absent: Bools) -> None:
    """Blank the members (n, V) that are `absent`, and the comma before the first that is there."""
    if absent.any():
        members["all"][absent] = np.void(b" " * members["all"].itemsize)
    members["comma"][np.arange(len(members)), absent.argmin(axis=1)] = b" "
