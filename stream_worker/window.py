"""Where a reading goes: accepted, duplicate or late; which open bin it falls into; what a bin's value is.

Every function takes the slots of distinct stays: the k-th readings of all stays of a chunk are placed at once.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.arrays import Bools, Ints
from model.steps import step_value
from stream_worker.stays import OPEN_BINS, REMEMBERED_READINGS, Slots, Stays
from stream_worker.times import BREAK_US, NEVER

ACCEPTED: Final = 0
DUPLICATE: Final = 1
LATE: Final = 2
DONE: Final = 3  # taken before: at least once, a stay's state may be ahead of its partition's position


def time_since(then: Ints, now: Ints) -> Ints:
    """Microseconds from `then` to `now`, which broadcast; 0 where `then` is NEVER."""
    passed: Ints = now - np.where(then == NEVER, now, then)
    return passed


def last_closed_step(newest_us: Ints, grace_us: int, step_us: int) -> Ints:
    """The last step that is closed once `newest_us` has been observed: its end is at least the grace ago."""
    return (newest_us - grace_us) // step_us - 1


def is_late(newest: Ints, observed_us: Ints, grace_us: int, step_us: int) -> Bools:
    """Whether the step of each reading (n,) is closed, by the stay's newest one until then; never for the first."""
    closed = last_closed_step(np.where(newest == NEVER, observed_us, newest), grace_us, step_us)
    late: Bools = observed_us // step_us <= closed
    return late


def classify(
    stays: Stays, slots: Slots, observed_us: Ints, fingerprints: NDArray[np.uint64], offsets: Ints, grace_us: int
) -> NDArray[np.int8]:
    """ACCEPTED, DUPLICATE, LATE or DONE for each reading, (n,)."""
    known, newest, offset = (stays.head[name][slots] for name in ("fingerprints", "newest", "offset"))
    is_duplicate = (known == fingerprints[:, None]).any(axis=1) & (newest != NEVER)
    late = is_late(newest, observed_us, grace_us, stays.layout.step_us)
    outcome = np.where(late, LATE, np.where(is_duplicate, DUPLICATE, ACCEPTED)).astype(np.int8)
    outcome[offsets <= offset] = DONE
    return outcome


def place(
    stays: Stays, slots: Slots, observed_us: Ints, quanta: Ints, observed: Bools, fingerprints: NDArray[np.uint64]
) -> None:
    """Put accepted readings into their open bins and make them their stays' newest where they are.

    quanta : int64 (n, K), values in steps of their precision; observed : bool (n, K).
    """
    layout, head = stays.layout, stays.head
    step = observed_us // layout.step_us
    _open_steps(stays, slots, step)
    newest = head["newest"][slots]
    head["newest"][slots] = np.maximum(newest, observed_us)

    ring = step % OPEN_BINS
    bins = head["bins"][slots, ring]
    bins[bins["step"] != step] = _empty_bin(layout.head["bins"].base)
    bins["step"] = step
    is_first = bins["count"] == 0
    room = bins["count"] < np.iinfo(np.uint16).max
    taken = observed & room
    bins["sum"] += np.where(taken, quanta, 0)
    bins["count"] += taken
    bins["low"] = np.where(taken & (is_first | (quanta < bins["low"])), quanta, bins["low"])
    bins["high"] = np.where(taken & (is_first | (quanta > bins["high"])), quanta, bins["high"])
    bins["at"] = np.where(taken, np.maximum(np.where(is_first, NEVER, bins["at"]), observed_us[:, None]), bins["at"])
    bins["as_of"] = np.maximum(bins["as_of"], observed_us)
    head["bins"][slots, ring] = bins
    has_forecast_signal = observed[:, layout.forecast].any(axis=1)
    stays.is_filled[slots, step % layout.manifest.context_steps] |= has_forecast_signal

    last, last_at = head["last"][slots], head["last_at"][slots]
    is_newer = observed & (observed_us[:, None] >= last_at)
    # After a break nobody knows whether the value stood still in between.
    is_after_break: Bools = (last_at == NEVER) | (time_since(last_at, observed_us[:, None]) > BREAK_US)
    has_changed = is_newer & ((quanta != last) | is_after_break)
    head["changed_at"][slots] = np.where(has_changed, observed_us[:, None], head["changed_at"][slots])
    head["last"][slots] = np.where(is_newer, quanta, last)
    head["last_at"][slots] = np.where(is_newer, observed_us[:, None], last_at)

    oldest = head["oldest_fingerprint"][slots]
    head["fingerprints"][slots, oldest] = fingerprints
    head["oldest_fingerprint"][slots] = (oldest + 1) % REMEMBERED_READINGS
    # What was computed from this bin, and after it, no longer holds.
    stays.open_holds[slots, 1] = False
    stays.open_holds[slots, 0] &= step != head["closed_step"][slots] + 1


def _empty_bin(dtype: np.dtype[Any]) -> NDArray[Any]:
    empty = np.zeros((), dtype)
    empty["as_of"] = empty["at"] = NEVER
    return empty


def _open_steps(stays: Stays, slots: Slots, step: Ints) -> None:
    """Mark the steps between the stay's newest and the reading's, `step`, as not filled yet."""
    layout, head = stays.layout, stays.head
    context_steps = layout.manifest.context_steps
    newest = head["newest"][slots]
    known = np.where(newest == NEVER, step - 1, newest // layout.step_us)
    known = np.maximum(known, step - context_steps)
    while (behind := known < step).any():
        known = known + behind
        stays.is_filled[slots[behind], known[behind] % context_steps] = False


def step_values(bins: NDArray[Any]) -> tuple[Ints, Bools]:
    """The value of each signal in each bin, in quanta, and whether there is one: (n, K) both."""
    count = bins["count"].astype(np.int64)
    total, low, high = (bins[name].astype(np.int64) for name in ("sum", "low", "high"))
    return step_value(total, low, high, count), count > 0
