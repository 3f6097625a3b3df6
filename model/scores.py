"""What an evaluation finds: forecasts beside the truth, their scores, the baselines' beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from model.arrays import Floats, Floats32
from model.augment import Copy
from model.config import ForecasterConfig
from model.dataset import FRESH_S, Stay, scored_origins, truth
from model.manifest import Score


class Cell(NamedTuple):
    """All scored origins of one signal and horizon: y (N,) truth, quantiles (N, Q), last (N,) value at the origin."""

    y: Floats32
    quantiles: Floats32
    last: Floats32


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline's mean absolute error in one cell of one stay."""

    label: str
    signal: str
    horizon_s: int
    stay_id: str
    count: int
    mae: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation found.

    scores : pooled, each origin counting once. stays : the same for each stay alone, by stay_id.
    quantile_trees : scores of boosted trees of each quantile on the same origins, if they were fitted.
    degraded : pooled, on copies of the stays as wards degrade data (`model.augment`), the same ones for each artifact.
    sparse : pooled, on the stays as read more rarely, by how rarely; origins count as in `degraded`.
    seen : whether these stays were used in training, so that the figures flatter. page : the report with its plots.
    rare : whether readings are too rare, or stays too short, for the usual rule: all origins count as in `degraded`.
    """

    name: str
    version: str
    sha256: str
    scores: tuple[Score, ...]
    stays: Mapping[str, tuple[Score, ...]]
    rivals: tuple[Rival, ...]
    degraded: tuple[Score, ...]
    seen: bool
    page: str
    rare: bool = False
    quantile_trees: tuple[Score, ...] = ()
    sparse: Mapping[str, tuple[Score, ...]] = {}


class Evaluation(NamedTuple):
    """Stays, or copies of them, with the forecasts made at each of their steps, float32 (T, V, H, Q).

    In a degraded copy an origin counts if its signal's last value is at most FRESH_S old: few would have enough steps
    observed.
    """

    config: ForecasterConfig
    shown: Sequence[Copy]
    forecasts: Sequence[Floats32]

    @property
    def stays(self) -> list[Stay]:
        """The stays as they are seen."""
        return [copy.seen for copy in self.shown]

    def by_freshness(self) -> Evaluation:
        """The same, but that origins count as in a degraded copy."""
        return self._replace(shown=[Copy(copy.seen, copy.truth) for copy in self.shown])

    def cell(self, signal: str, horizon_s: int) -> Cell:
        """The scored origins of one signal and horizon, stay after stay."""
        config = self.config
        v, h, column = config.signals.index(signal), config.horizons_s.index(horizon_s), config.input_index(signal)
        parts = []
        for copy, forecast in zip(self.shown, self.forecasts, strict=True):
            stay, later = copy.seen, truth(copy.truth, config)[:, v, h]
            counts = scored_origins(stay, config)[:, v] if copy.whole is None else stay.elapsed[:, column] <= FRESH_S
            kept = counts & ~np.isnan(later)
            observed = np.where(stay.observed[:, column], np.arange(stay.length), 0)
            last = stay.x[np.maximum.accumulate(observed), column]
            parts.append((later[kept], forecast[kept, v, h], last[kept]))
        if not parts:
            nothing = np.zeros(0, np.float32)
            return Cell(nothing, np.zeros((0, len(config.quantile_levels)), np.float32), nothing)
        return Cell(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def scores(self) -> tuple[Score, ...]:
        """Pooled scores of every signal and horizon that has any truth."""
        keys = product(self.config.signals, self.config.horizons_s)
        return scores_of(((key, self.cell(*key)) for key in keys), self.config)

    def alone(self) -> dict[str, tuple[Score, ...]]:
        """Scores of each stay by itself."""
        pairs = zip(self.shown, self.forecasts, strict=True)
        return {copy.seen.stay_id: Evaluation(self.config, [copy], [forecast]).scores() for copy, forecast in pairs}


def scores_of(cells: Iterable[tuple[tuple[str, int], Cell]], config: ForecasterConfig) -> tuple[Score, ...]:
    """The score of each signal and horizon whose cell has any truth; a cell is needed only while it is scored."""
    precisions = {signal.name: signal.precision for signal in config.forecast_signals}
    return tuple(
        score(signal, horizon_s, cell, config.quantile_levels, precisions[signal])
        for (signal, horizon_s), cell in cells
        if len(cell.y)
    )


def score(signal: str, horizon_s: int, cell: Cell, levels: tuple[float, ...], precision: float) -> Score:
    """Score of one cell.

    MAE = mean |y - median|; persistence: the same of y - last. Pinball: mean over origins and levels. A band covers y
    if y lies between its quantiles, ends included; it is the narrowest there is of at least the nominal mass.
    `served_50` rounds the band to the signal's precision first, as forecasts are sent: then y often ties with an end,
    which counts half.
    """
    y, quantiles = cell.y.astype(np.float64), cell.quantiles.astype(np.float64)
    error, q = y[:, None] - quantiles, np.array(levels)
    (low_50, high_50), (low_90, high_90) = band(quantiles, levels, 0.5), band(quantiles, levels, 0.9)
    pinball = np.maximum(q * error, (q - 1.0) * error)
    return Score(
        signal=signal,
        horizon_s=horizon_s,
        count=len(y),
        mae=_mean(np.abs(error[:, len(levels) // 2])),
        persistence_mae=_mean(np.abs(y - cell.last.astype(np.float64))),
        pinball=_mean(pinball),
        coverage_50=_mean((low_50 <= y) & (y <= high_50)),
        coverage_90=_mean((low_90 <= y) & (y <= high_90)),
        width_90=_mean(high_90 - low_90),
        width_50=_mean(high_50 - low_50),
        crps=_mean(crps(pinball, q)),
        served_50=_mean(covered(*(np.rint(part / precision) for part in (low_50, y, high_50)))),
    )


def crps(pinball: Floats, q: Floats) -> Floats:
    """Twice the integral of the pinball loss (N, Q) over its levels (Q,), by trapezes from 0 at level 0 to 0 at 1."""
    spans = np.diff(np.concatenate([[0.0], q, [1.0]]))
    return np.asarray(pinball @ (spans[:-1] + spans[1:]))


def covered(low: Floats, y: Floats, high: Floats) -> Floats:
    """1 where y is between, 1/2 where it equals an end, 0 elsewhere."""
    return np.asarray(((low <= y) & (y <= high)) * 0.5 + ((low < y) & (y < high)) * 0.5)


def band(quantiles: Floats, levels: tuple[float, ...], mass: float) -> tuple[Floats, Floats]:
    """Lower and upper end of the narrowest central band of at least `mass`, or of the widest there is."""
    outside = [i for i, level in enumerate(levels) if level <= (1.0 - mass) / 2.0 + 1e-9]
    i = outside[-1] if outside else 0
    return quantiles[..., i], quantiles[..., len(levels) - 1 - i]


def rival_gains(report: Report) -> dict[str, dict[tuple[str, int], float]]:
    """Each baseline's change of the pooled error against persistence, per cent, by label, then signal and horizon."""
    gains: dict[str, dict[tuple[str, int], float]] = {}
    for label in dict.fromkeys(rival.label for rival in report.rivals):
        for found in report.scores:
            cell = found.signal, found.horizon_s
            own = [r for r in report.rivals if (r.label, r.signal, r.horizon_s) == (label, *cell)]
            if own and found.persistence_mae > 0.0:
                mae = sum(rival.mae * rival.count for rival in own) / sum(rival.count for rival in own)
                gains.setdefault(label, {})[cell] = 100.0 * (mae / found.persistence_mae - 1.0)
    return gains


def beside_trees(report: Report) -> list[tuple[Score, Score]]:
    """Each cell's score and that of the quantile trees."""
    ours = {(found.signal, found.horizon_s): found for found in report.scores}
    return [(ours[found.signal, found.horizon_s], found) for found in report.quantile_trees]


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(f"{values.mean():.6g}")  # by significant digits: signals have all kinds of units
