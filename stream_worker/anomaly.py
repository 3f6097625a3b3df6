"""How surprising a value is under the forecast made one step before it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_worker.stays import OPEN_BINS, Slots, Stays

Floats = NDArray[np.float64]

# A score at or above this is flagged. Under the t distribution below a flag is one in 500 values of a perfect forecast;
# an alert needs several in a row.
FLAG_SCORE: Final = 0.998
# A 90 % band is this many times its t(3) scale to either side of the median.
_BAND_90_T3: Final = 2.353


def score(expected: Floats, values: Floats, precision: Floats) -> Floats:
    """Scores (n, V) in 0..1 of `values` (n, V) under the quantiles `expected` (n, V, Q); NaN where a value is NaN.

    The distance from the median in units of the band on that side, read as a t distribution with 3 degrees of freedom:
    forecast errors of vital signs have heavier tails than a normal distribution, and the band says nothing beyond its
    own ends. The score is the probability of a value nearer to the median. No band counts as narrower than one step of
    the signal's precision: where values repeat, a forecast may be certain, and rounding is not an anomaly.
    """
    levels = expected.shape[2]
    median = expected[:, :, levels // 2]
    half_band = np.where(values < median, median - expected[:, :, 0], expected[:, :, -1] - median)
    t = np.abs(values - median) * _BAND_90_T3 / np.maximum(half_band, precision)
    u = t / np.sqrt(3)
    scores: Floats = (2 / np.pi) * (np.arctan(u) + u / (1 + u * u))
    return scores


def score_readings(stays: Stays, slots: Slots, step: NDArray[np.int64], values: Floats) -> Floats:
    """Scores (n, V) of readings that fall into `step` (n,); NaN where nothing was observed or nothing was expected."""
    layout, head = stays.layout, stays.head
    ring = step % OPEN_BINS
    precision = layout.precision[layout.forecast]
    expected = head["expected"][slots, ring] * precision[:, None]
    scores = score(expected, values, precision)
    scores[head["expected_step"][slots, ring] != step] = np.nan
    return scores


def expect(stays: Stays, slots: Slots, newest_step: NDArray[np.int64], next_step: NDArray[np.int64]) -> None:
    """Remember `next_step` (n, V, Q), the quantiles in quanta for the step after `newest_step`."""
    ring = (newest_step + 1) % OPEN_BINS
    stays.head["expected"][slots, ring] = next_step
    stays.head["expected_step"][slots, ring] = newest_step + 1
