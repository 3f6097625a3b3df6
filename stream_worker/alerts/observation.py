"""What is known of accepted readings, as columns, and what alert rules see of one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model.arrays import Bools, Floats, Ints
from stream_worker.stays import Slots


class BySignal(Protocol):
    """A number for each signal that has one: a dict or a `Row`."""

    def get(self, signal: str, default: Any = None, /) -> Any:
        """The signal's number."""

    def __contains__(self, signal: object, /) -> bool: ...

    def __getitem__(self, signal: str, /) -> Any: ...


class Accepted(NamedTuple):
    """n accepted readings, and their stays as they were right then; K known signals, of which V are forecast."""

    rows: Slots  # (n,) of the chunk
    slots: Slots  # (n,)
    offsets: Ints  # (n,)
    offsets_before: Ints  # (n,) of the stay's record before
    silent_since: Ints  # (n,) if the reading ends a silence that was worth an alert: since when; else NEVER
    monitored_us: Ints  # (n,) by how much the reading takes its stay's time forward
    newest: Ints  # (n,) when the stay's newest reading by then was observed, microseconds
    closes_step: Bools  # (n,) whether the reading closed at least one step
    is_warm: Bools  # (n,) whether enough steps of the stay's window have a value
    quanta: Ints  # (n, K)
    is_fresh: Bools  # (n, K) the newest of its signal, and not doubted by the device
    quantiles: Ints  # (n, V, H, Q) in quanta
    scores: Floats  # (n, V) of anomaly
    flags: Bools  # (n, V)
    last: NDArray[Any]  # (n, K) quanta: the newest of each signal
    last_at: Ints  # (n, K)
    changed_at: Ints  # (n, K) since when `last` is what it is

    @classmethod
    def in_order(cls, rounds: Sequence[Accepted]) -> Accepted:
        """The readings of several rounds, in the order of their rows, as a round is."""
        if len(rounds) == 1:
            return rounds[0]
        joined = cls._make(np.concatenate(column) for column in zip(*rounds, strict=True))
        return joined.where(np.argsort(joined.rows, kind="stable"))

    def where(self, chosen: Bools | Slots) -> Accepted:
        """Some of the readings."""
        return Accepted._make(column[chosen] for column in self)


class Row:
    """One row of columns, asked by signal: what is missing is not in it. As a dict, but free to make."""

    __slots__ = ("_at", "_missing", "_values")

    def __init__(self, at: Mapping[str, int], values: Sequence[Any], missing: int | None = None) -> None:
        """at : the column of each signal. missing : what stands for no value, besides NaN."""
        self._at = at
        self._values = values
        self._missing = missing

    def get(self, signal: str, default: Any = None) -> Any:
        """The signal's value."""
        at = self._at.get(signal)
        value = self._missing if at is None else self._values[at]
        return default if value == self._missing or value != value else value  # noqa: PLR0124 - NaN

    def __contains__(self, signal: object) -> bool:
        return self.get(str(signal)) is not None

    def __getitem__(self, signal: str) -> Any:
        if (value := self.get(signal)) is None:
            raise KeyError(signal)
        return value


@dataclass(slots=True)
class Observation:
    """What the rules see of one accepted reading. Values by signal, in canonical units."""

    at_us: int
    values: BySignal  # newest of their signal, observed in this reading, not doubted by the device
    last: BySignal  # newest of each signal, whenever it was
    last_at_us: BySignal
    changed_at_us: BySignal
    implausible: tuple[str, ...]
    scores: BySignal  # of this reading's values
    flagged: tuple[str, ...]
    outlooks: Mapping[tuple[str, str], float]  # by signal and side: log-odds to come to be beyond the limit
    horizon_s: int  # the longest of them
    shift: float = 0.0  # log-odds that the budget adds to the thresholds of what only advises
    may_advise: bool = True  # False: the stay has raised more than its share
    care_unit: str | None = None
