"""Plain ways to tell that a value is odd, to compare the forecast's with: each looks back along its own signal alone.

All take what a signal has `shown` in each minute (T,), NaN where nothing, and its `history` (T,), the same without what
is known to be an artefact; they return how odd each minute is (T,), NaN where nothing can be said. They are causal:
what a minute is compared with came before it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from model.arrays import Bools, Floats

Detector = Callable[[Floats, Floats], Floats]

LOOK_BACK: Final = 60  # minutes
AT_LEAST: Final = 30  # of them observed
STEP: Final = 0.1  # of the recordings' numbers: no spread counts as smaller


def three_sigma(shown: Floats, history: Floats) -> Floats:
    """Distance from the mean of the last hour, in its standard deviations."""
    before, enough = _before(history)
    return _oddness(shown - _quietly(np.nanmean, before), _quietly(np.nanstd, before), enough)


def hampel(shown: Floats, history: Floats) -> Floats:
    """Distance from the median of the last hour, in its scaled median absolute deviations (Hampel 1974)."""
    before, enough = _before(history)
    median = _quietly(np.nanmedian, before)
    deviation = 1.4826 * _quietly(np.nanmedian, np.abs(before - median[:, None]))
    return _oddness(shown - median, deviation, enough)


def persistence(shown: Floats, history: Floats) -> Floats:
    """Change since the last value, in mean absolute changes of the last hour."""
    last = _last_before(history)
    before, enough = _before(np.abs(history - last))
    return _oddness(shown - last, _quietly(np.nanmean, before), enough)


def _last_before(history: Floats) -> Floats:
    """The newest value before each minute (T,)."""
    seen = np.where(np.isnan(history), 0, np.arange(1, len(history) + 1))
    newest = np.r_[0, np.maximum.accumulate(seen)[:-1]]
    values: Floats = np.r_[np.nan, history][newest]
    return values


def _quietly(of: Callable[..., Floats], before: Floats) -> Floats:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an hour without any value has no mean
        found: Floats = of(before, axis=1)
    return found


def _before(history: Floats) -> tuple[Floats, Bools]:
    """The LOOK_BACK minutes before each (T, LOOK_BACK), and whether enough of them were observed (T,)."""
    before = sliding_window_view(np.r_[np.full(LOOK_BACK, np.nan), history[:-1]], LOOK_BACK)
    return before, (~np.isnan(before)).sum(axis=1) >= AT_LEAST


def _oddness(difference: Floats, spread: Floats, enough: Bools) -> Floats:
    return np.where(enough, np.abs(difference) / np.maximum(spread, STEP), np.nan)


# --- SPOT ---

SPOT_START: Final = 500  # values that the first fit is made from
SPOT_LEVEL: Final = 0.98  # beyond this quantile of them is the tail
SPOT_RISK: Final = 1e-4  # less likely than this is an anomaly, from which nothing is learned (the paper's q)
SPOT_DEPTH: Final = 10  # minutes of the moving average that the drift is taken out with (the paper's d)


def spot(shown: Floats, history: Floats) -> Floats:
    """Minus the log of the tail probability by peaks over a threshold, drift taken out; 0 for what is not in the tail.

    Source : DSPOT, Siffer et al. 2017, "Anomaly detection in streams with extreme value theory"; both sides at once.
    The average takes in anomalies too: without them, as there, all is one after a change that lasts.
    """
    seen, normal = np.flatnonzero(~np.isnan(shown)), np.flatnonzero(~np.isnan(history))
    odd = np.full(len(shown), np.nan)
    if len(normal) <= SPOT_START + SPOT_DEPTH:
        return odd
    means = np.r_[np.nan, np.convolve(history[normal], np.full(SPOT_DEPTH, 1 / SPOT_DEPTH), "valid")]
    known = np.searchsorted(normal, seen)  # how many normal values came before each
    distance = np.abs(shown[seen] - means[np.maximum(known - SPOT_DEPTH + 1, 0)])
    is_start, learns = known < SPOT_START + SPOT_DEPTH, np.isin(seen, normal)
    first = distance[is_start & learns & ~np.isnan(distance)]
    threshold = np.quantile(first, SPOT_LEVEL)
    peaks = (first[first > threshold] - threshold).tolist()
    odd[seen[~is_start]] = 0.0
    shape, scale = fit_gpd(np.array(peaks))
    for i in np.flatnonzero(~is_start & (distance > threshold)).tolist():
        excess = float(distance[i] - threshold)
        log_tail = log_gpd_tail(excess, shape, scale) + np.log(max(len(peaks), 1) / known[i])
        odd[seen[i]] = max(0.0, -log_tail)
        if learns[i] and log_tail > np.log(SPOT_RISK):
            peaks.append(excess)
            shape, scale = fit_gpd(np.array(peaks))
    return odd


def log_gpd_tail(excess: float, shape: float, scale: float) -> float:
    """The log of the probability that a generalized Pareto variable of `shape` > 0 exceeds `excess`."""
    return float(-np.log1p(shape * excess / scale) / shape)


def fit_gpd(peaks: Floats) -> tuple[float, float]:
    """Shape and scale of the likeliest generalized Pareto distribution of `peaks` (n,) > 0 without an upper end.

    Source : Grimshaw 1993: given theta = shape / scale the likeliest shape is mean(log(1 + theta x)), so one variable
    is left to search, here on a grid. With an upper end whatever is beyond it would be equally impossible: no order.
    """
    if not len(peaks):
        return 1e-6, STEP
    theta = np.geomspace(1e-3, 1e2, 50) / peaks.mean()
    shape = np.log1p(theta[:, None] * peaks).mean(axis=1)
    scale = shape / theta
    best = int(np.argmax(-np.log(scale) - shape))
    return float(shape[best]), float(scale[best])
