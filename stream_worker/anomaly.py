"""How surprising a value is under the forecast made one step before it, as a calibrated probability.

    distance      how far from the median, in widths of the band on that side; or how long without any change
    -> score      the share of normal readings with a smaller distance, looked up in a table for each signal
    -> flag       a score that one normal value in 500 exceeds

The table was made with recordings the model was trained on, and holds for those it has not seen (docs/anomalies.md).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from model.arrays import Floats, Ints
from stream_worker.stays import OPEN_BINS, Slots, Stays
from stream_worker.times import BREAK_US

# A score at or above this is flagged: one normal value in 500. An alert needs several in a row.
FLAG_SCORE: Final = 0.998

# The shares of normal readings that the distances of a `Tail` are exceeded by.
LEVELS: Final = (0.5, 0.1, 0.01, 0.002, 0.001, 0.0001)
# A monitor that shows whole numbers repeats one for so many steps by chance.
_REPEATS: Final = 3
_FARTHEST: Final = 1e6  # beyond it every distance scores alike


class Tail(NamedTuple):
    """How distances of one signal are spread among normal readings.

    noise : in the signal's unit, half of a usual half band: forecasts of a steady patient become so sharp that what
        does not matter to anybody would be a surprise.
    still : the distance that each step without a change counts for, after the first few. Of arterial pressures it
        makes a flag of thirteen steps; others stand still for hours in good health, or are paced.
    exceeded : distances, rising, that the shares LEVELS of normal readings exceed.
    """

    noise: float
    still: float
    exceeded: tuple[float, ...]


# Of a signal that is not known below: t distribution with 3 degrees of freedom, its scale a band of 90 % over 4.71.
_UNKNOWN: Final = Tail(0.0, 0.0, (0.325, 1.0, 2.48, 4.34, 5.49, 11.90))
# From the 30 training stays of model 1.0.0: `python -m stream_worker.backtest.anomalies RECORDINGS` prints them.
_TAILS: Final = {
    "hr": Tail(1.0, 0.0, (0.303, 0.908, 1.97, 3.5, 4.45, 12)),
    "resp": Tail(1.5, 0.0, (0.274, 0.852, 1.78, 2.7, 3.24, 6.42)),
    "spo2": Tail(0.3, 0.0, (0.2, 0.936, 2.28, 4.48, 6.38, 20.3)),
    "abp_sys": Tail(3.0, 0.44, (0.265, 0.824, 2.09, 4.05, 5.23, 11.9)),
    "abp_dia": Tail(1.5, 0.49, (0.269, 0.838, 2.27, 4.59, 6.27, 14.5)),
    "abp_mean": Tail(2.0, 1.1, (0.262, 0.83, 2.76, 10, 16.1, 39.4)),
}


class Scale(NamedTuple):
    """The tails of V signals as columns: noise and still (V,), log1p of distances and log of shares (V, K)."""

    noise: Floats
    still: Floats
    distance: Floats
    share: Floats

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, signals: tuple[str, ...]) -> Scale:
        """For the named signals; beyond the last known distance shares fall on as they did before it."""
        tails = [_TAILS.get(name, _UNKNOWN) for name in signals]
        distance = np.log1p([[0.0, *tail.exceeded, _FARTHEST] for tail in tails])
        share = np.tile(np.log([1.0, *LEVELS, 1.0]), (len(tails), 1))
        slope = (share[:, -2] - share[:, -3]) / (distance[:, -2] - distance[:, -3])
        share[:, -1] = share[:, -2] + slope * (distance[:, -1] - distance[:, -2])
        return cls(np.array([t.noise for t in tails]), np.array([t.still for t in tails]), distance, share)


def distances(expected: Floats, values: Floats, still: Ints, precision: Floats, scale: Scale) -> Floats:
    """How far `values` (n, V) are from what the quantiles `expected` (n, V, Q) say; NaN where a value is NaN.

    The distance from the median in half bands of that side, each joined with the signal's noise and no narrower than a
    step of its `precision` (V,). A value that has not moved for `still` (n, V) steps is odd in another way.
    """
    median = expected[:, :, expected.shape[2] // 2]
    half_band = np.where(values < median, median - expected[:, :, 0], expected[:, :, -1] - median)
    spread = np.hypot(np.maximum(half_band, precision), scale.noise)
    return np.maximum(np.abs(values - median) / spread, np.maximum(still - _REPEATS, 0) * scale.still)


def score(distance: Floats, scale: Scale) -> Floats:
    """Scores (n, V) in 0..1 of `distance` (n, V): the share of normal readings with a smaller one; NaN for NaN.

    Linear between the distances of the table, in the logarithms of both.
    """
    x = np.log1p(np.minimum(distance, _FARTHEST))
    shares = [np.interp(x[:, v], scale.distance[v], scale.share[v]) for v in range(x.shape[1])]
    scores: Floats = -np.expm1(np.stack(shares, axis=1))
    return scores


def distance_of(scores: Floats, scale: Scale) -> Floats:
    """The distances (n, V) that have these `scores` (n, V): the inverse of `score`, for making the table anew."""
    share = np.log1p(-scores)
    logs = [np.interp(-share[:, v], -scale.share[v], scale.distance[v]) for v in range(share.shape[1])]
    distances: Floats = np.expm1(np.stack(logs, axis=1))
    return distances


def score_readings(stays: Stays, slots: Slots, step: Ints, values: Floats) -> Floats:
    """Scores (n, V) of readings that fall into `step` (n,); NaN where nothing was observed or nothing was expected.

    To be called before the readings are placed: what was last seen is what came before them.
    """
    layout, head = stays.layout, stays.head
    ring = step % OPEN_BINS
    precision = layout.precision[layout.forecast]
    scale = Scale.of(layout.manifest.signals)
    expected = head["expected"][slots, ring] * precision[:, None]
    still = _still(stays, slots, step, values / precision)
    scores = score(distances(expected, values, still, precision, scale), scale)
    scores[head["expected_step"][slots, ring] != step] = np.nan
    return scores


def _still(stays: Stays, slots: Slots, step: Ints, quanta: Floats) -> Ints:
    """For how many steps (n, V) the signals have stood at just these values; a break ends it."""
    head, forecast, step_us = stays.head, stays.layout.forecast, stays.layout.step_us
    last, last_at, changed_at = (head[name][slots][:, forecast] for name in ("last", "last_at", "changed_at"))
    goes_on = (np.rint(quanta) == last) & (step[:, None] - last_at // step_us <= BREAK_US // step_us)
    return np.where(goes_on, step[:, None] - changed_at // step_us, 0)


def expect(stays: Stays, slots: Slots, newest_step: Ints, next_step: Ints) -> None:
    """Remember `next_step` (n, V, Q), the quantiles in quanta for the step after `newest_step`."""
    ring = (newest_step + 1) % OPEN_BINS
    stays.head["expected"][slots, ring] = next_step
    stays.head["expected_step"][slots, ring] = newest_step + 1
