"""Forecasts that came due, scored against what came: the live evidence of whether they can be trusted.

Kept small: of the forecasts of a stay only some wait to be scored, each horizon on a grid of its own. The grid is a
function of the step number alone, so that every replay scores the same forecasts.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Bools, Ints
from model.manifest import Manifest

# A step closes up to two steps after the one it ends in, so a forecast waits its horizon and at most this much longer.
_CLOSING_LAG: Final = 3
BANDS: Final = (50, 90)


class Grid(NamedTuple):
    """Which forecasts wait: N places, some for each horizon, used in turn."""

    horizon: Ints  # (N,) index of the horizon
    place: Ints  # (N,) number of the place among its horizon's
    steps: Ints  # (N,) of the horizon
    every: Ints  # (N,) every how many steps a forecast is kept
    places: Ints  # (N,) how many places its horizon has

    @classmethod
    def of(cls, manifest: Manifest) -> Grid:
        """Four places for short horizons, two for longer ones."""
        rows = []
        for h, horizon_s in enumerate(manifest.horizons_s):
            steps = max(1, horizon_s // manifest.step_s)
            count = 4 if steps < 4 else 2
            every = -(-(steps + _CLOSING_LAG) // count)
            rows += [(h, place, steps, every, count) for place in range(count)]
        return cls(*np.array(rows, np.int64).T)

    def dtype(self, quantum: np.dtype[Any], signals: int, levels: int) -> np.dtype[Any]:
        """A stay's waiting forecasts: due step, and for each signal the last value (or missing) and its quantiles.

        Beside them what was learned from those that came due: the widths of the bands (`calibration`).
        """
        n, horizons = len(self.horizon), int(self.horizon.max()) + 1
        return np.dtype(
            [
                ("encoding", np.uint8),
                ("unused", np.uint8, 3),
                ("task", np.uint32),
                ("due", np.int64, n),
                ("last", quantum, (n, signals)),
                ("quantiles", quantum, (n, signals, levels)),
                ("width", np.float32, (signals, horizons, levels // 2)),
            ]
        )

    def places_for(self, step: Ints) -> Bools:
        """The places (n, N) that forecasts issued in `step` (n,) take: at most one of each horizon."""
        turn = step[:, None] // self.every
        taken: Bools = (step[:, None] % self.every == 0) & (turn % self.places == self.place)
        return taken


class Tally:
    """Sums over scored forecasts. V signals, H horizons; errors in the signals' units."""

    def __init__(self, signals: int, horizons: int) -> None:
        self.covered = np.zeros((signals, horizons, len(BANDS), 2), np.int64)  # last axis: no, yes
        self.absolute_error = np.zeros((signals, horizons))
        self.persistence_error = np.zeros((signals, horizons))

    @classmethod
    def of(cls, manifest: Manifest) -> Tally:
        """None yet, for what a model forecasts."""
        return cls(len(manifest.signals), len(manifest.horizons_s))

    def add(
        self, signal: Ints, horizon: Ints, truth: Ints, last: Ints, quantiles: Ints, precision: NDArray[np.float64]
    ) -> Bools:
        """Add m forecasts: quantiles (m, Q), all else (m,); values in steps of `precision`.

        Returns which bands held the truth, (m, Q // 2), from the outermost pair of quantiles in.
        """
        pairs = quantiles.shape[1] // 2
        error = np.abs(truth - quantiles[:, pairs]) * precision
        np.add.at(self.absolute_error, (signal, horizon), error)
        np.add.at(self.persistence_error, (signal, horizon), np.abs(truth - last) * precision)
        lower, upper = quantiles[:, :pairs], quantiles[:, :pairs:-1]
        covered: Bools = (lower <= truth[:, None]) & (truth[:, None] <= upper)
        for band, pair in enumerate((pairs - 1, 0)):
            np.add.at(self.covered[:, :, band], (signal, horizon, covered[:, pair].astype(np.int64)), 1)
        return covered
