"""Bands that learn from what came: adaptive conformal inference for each stay, signal, horizon and band.

A model's bands are right for the population it was trained on; this patient may be steadier or wilder. Each time a
forecast comes due, its band's width is multiplied by exp(RATE * (missed - miss rate)): after a miss the band widens,
after a hit it narrows a little, and in the long run it misses as often as it says, whatever the patient does (Gibbs and
Candès 2021, adaptive conformal inference; as Angelopoulos et al. 2023, quantile tracking). A stay starts with the
population's width, 1, and the small rate keeps it near until its own record says otherwise. No truth, no step.

A width scales a band's distance from the median, which stays where it is. Bands are pairs of quantiles, counted from
the outermost in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from model.arrays import Bools, Floats32

# By replaying 40 recordings: 0.01 to 0.05 cover alike, and the mean pinball loss rises with the rate (docs/model.md).
RATE: Final = 0.02
# A band that has to be narrower or wider than this is not of the model's kind any more.
NARROWEST: Final = 0.25
WIDEST: Final = 4.0


def widened(quantiles: Floats32, widths: Floats32) -> Floats32:
    """`quantiles` (n, V, H, Q) with their bands scaled by `widths` (n, V, H, Q // 2), still in order."""
    last = quantiles.shape[3] - 1
    median = quantiles[..., last // 2]
    scaled = quantiles.copy()
    for pair in reversed(range(last // 2)):  # from the inner band out: none may lie within the one before
        width = widths[..., pair]
        low, high = (median + (quantiles[..., q] - median) * width for q in (pair, last - pair))
        scaled[..., pair] = np.minimum(low, scaled[..., pair + 1])
        scaled[..., last - pair] = np.maximum(high, scaled[..., last - pair - 1])
    return scaled


class Calibrator:
    """Moves widths by what came due."""

    def __init__(self, levels: Sequence[float]) -> None:
        pairs = len(levels) // 2
        miss_rate = np.array([1 - (levels[-1 - pair] - levels[pair]) for pair in range(pairs)])
        self._after_hit = np.exp(-RATE * miss_rate).astype(np.float32)
        self._after_miss = np.exp(RATE * (1 - miss_rate)).astype(np.float32)

    def moved(self, widths: Floats32, covered: Bools) -> Floats32:
        """The `widths` (m, Q // 2) after forecasts of which these bands `covered` (m, Q // 2) what came."""
        factors = np.where(covered, self._after_hit, self._after_miss)
        return np.clip(widths * factors, np.float32(NARROWEST), np.float32(WIDEST))


def mean_widening(widths: Floats32) -> Floats32:
    """By what share the bands of `widths` (n, V, H, Q // 2) are wider than the model's, in the mean: (V, H, Q // 2)."""
    if not len(widths):
        return np.zeros(widths.shape[1:], np.float32)
    mean: Floats32 = widths.mean(axis=0) - 1
    return mean
