"""How likely a forecast makes it that a limit is crossed, and how often what was said so came true."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log
from typing import Final

import numpy as np

from model.arrays import Floats

SURE: Final = 0.001  # no forecast is surer than this or its opposite
_NARROW: Final = 0.1  # half a band: narrower than most signals' precision


def outlooks(quantiles: Floats, levels: Sequence[float], limits: Floats, side: str) -> Floats:
    """The log-odds that signals come to be beyond `limits`: their mean over all horizons of the forecast.

    The mean takes the whole predictive distribution: a threat must show at several horizons, a spike at one is diluted,
    a trend raises them one after the other.

    quantiles : (n, H, Q), `limits` : (n,), in the same unit. Returns : (n,), NaN where a limit is.
    """
    below = _shares_below(quantiles, np.asarray(levels), limits[:, None])
    beyond = np.clip(below if side == "low" else 1 - below, SURE, 1 - SURE)
    # Rounded, so that it does not matter how many are worked out at once.
    pooled: Floats = np.round(np.log(beyond / (1 - beyond)).mean(axis=1), 6)
    return pooled


def _shares_below(quantiles: Floats, levels: Floats, limits: Floats) -> Floats:
    """The distribution functions (n, H) at `limits` (n, 1): linear between quantiles, exponential beyond the outermost.

    The tails are those of a Laplace distribution with this median and these outer quantiles.
    """
    last = len(levels) - 1
    median = quantiles[..., len(levels) // 2]
    above = (quantiles < limits[..., None]).sum(axis=2)
    left, right = np.clip(above - 1, 0, last - 1), np.clip(above, 1, last)
    low, high = (np.take_along_axis(quantiles, at[..., None], axis=2)[..., 0] for at in (left, right))
    share = levels[left] + (levels[right] - levels[left]) * (limits - low) / np.maximum(high - low, 1e-9)
    fold = np.maximum(median - quantiles[..., 0], _NARROW) / log(0.5 / levels[0])
    lower = levels[0] * np.exp(np.minimum(limits - quantiles[..., 0], 0) / fold)
    fold = np.maximum(quantiles[..., -1] - median, _NARROW) / log(0.5 / (1 - levels[-1]))
    upper = 1 - (1 - levels[-1]) * np.exp(np.minimum(quantiles[..., -1] - limits, 0) / fold)
    shares: Floats = np.where(above == 0, lower, np.where(above > last, upper, share))
    return shares


def highest_outlooks(levels: Sequence[float]) -> tuple[Floats, Floats]:
    """The highest log-odds of a horizon of which 0, 1 ... Q quantiles are beyond the limit: a low one, a high one."""
    low = [log_odds(min(level, 1 - SURE)) for level in (*levels, 1.0)]
    high = [log_odds(min(1 - level, 1 - SURE)) for level in (*reversed(levels), 0.0)]
    return np.array(low), np.array(high)


def log_odds(probability: float) -> float:
    """The logarithm of the odds; infinite for certainty, of either kind."""
    if probability <= 0:
        return -inf
    return log(probability / (1 - probability)) if probability < 1 else inf


# From the pooled log-odds to how often such alerts came true: logistic regression on those raised at the default
# threshold. `backtest.curve` fits it and judges it on other stays. An episode begins within the longest horizon.
_CALIBRATION: Final = (0.38, 0.45)
# What was surer came true no more often, about every second time: such a forecast mostly sees a fall that is there
# already, and is wrong that it lasts.
SUREST: Final = -1.0


def probability_of(ahead: float, calibration: tuple[float, float] = _CALIBRATION) -> float:
    """How often what is announced at these log-odds comes true."""
    intercept, slope = calibration
    return 1 / (1 + exp(-(intercept + slope * min(ahead, SUREST))))
