"""What alert rules see of a reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stream_worker.alerts.news2 import News2


@dataclass(slots=True)
class Observation:
    """What the rules see of one accepted reading. Values by signal, in canonical units."""

    at_us: int
    values: Mapping[str, float]  # newest of their signal, observed in this reading, not doubted by the device
    last: Mapping[str, float]  # newest of each signal, whenever it was
    last_at_us: Mapping[str, int]
    changed_at_us: Mapping[str, int]
    implausible: tuple[str, ...]
    scores: Mapping[str, float]  # of this reading's values
    flagged: tuple[str, ...]
    regular: frozenset[str]  # signals that came in most of the last steps before they ceased
    outlooks: Mapping[tuple[str, str], float]  # by signal and side: log-odds to come to be beyond the limit
    horizon_s: int  # the longest of them
    shift: float = 0.0  # log-odds that the budget adds to the thresholds of what only advises
    may_advise: bool = True  # False: the stay has raised more than its share
    news2: News2 | None = None  # None: not asked for
    concerned: frozenset[str] | None = None  # signals whose limits may have something to say; None: all of them
