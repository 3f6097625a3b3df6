"""What a forecaster has to beat: persistence, an average, ridge regression and boosted trees, on the same origins.

Each is fitted for one signal and horizon and predicts the change from the last value. Needs the extra `train`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from rich.progress import track
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from model.arrays import Floats, Floats32
from model.config import ForecasterConfig
from model.dataset import Stay, scored_origins, truth
from model.scores import Cell, Rival
from schemas.signals import Signal

OWN_LAGS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 50, 59)
MEANS = (3, 5, 10, 20, 30, 60, 120, 240)  # steps
MOST_TREES, PATIENCE = 400, 20  # boosting stops after so many, or so many without gain on unseen stays
TRAIN_ROWS = 100_000  # drawn from all origins: neighbours say nearly the same, and a comparison should not take a day


class Baseline(Protocol):
    """A rival: fitted on rows, then giving the median of the change."""

    def fit(self, features: Floats32, change: Floats32) -> Baseline:
        """Learn one signal and horizon from features (N, F) and change (N,) without NaN."""
        ...

    def predict(self, features: Floats32) -> Floats:
        """The median of the change, (N,)."""
        ...


def rows_of(stay: Stay, signal: str, config: ForecasterConfig) -> tuple[Floats32, Floats32, Floats32]:
    """Scored origins of one signal: features (N, F; NaN where unknown), change (N, H; NaN where unknown), last (N,).

    Own values of the last hour, means, spreads and slopes relative to the last value; the same, fewer, of the other
    inputs; ages of all. What a live worker has at that step, and nothing later.
    """
    kept = scored_origins(stay, config)[:, config.signals.index(signal)]
    own = config.input_index(signal)
    values = np.where(stay.observed, stay.x, np.nan).astype(np.float64)
    held = _held(values)
    last = held[:, own]
    columns = [_lagged(held[:, own], lag) - last for lag in OWN_LAGS]
    columns += [mean - last for mean in (_mean(values[:, own], steps) for steps in MEANS)]
    columns += [_spread(values[:, own], steps) for steps in (10, 60)]
    columns += [_mean(held[:, own], 5) - _lagged(_mean(held[:, own], 5), steps) for steps in (5, 15, 30)]
    columns += [last, _mean(stay.observed[:, own].astype(np.float64), 60)]
    for column in range(values.shape[1]):
        if column != own:
            other = held[:, column]
            columns += [other, other - last, other - _lagged(other, 1), other - _lagged(other, 5)]
            columns += [other - _mean(values[:, column], steps) for steps in (5, 30)]
    columns += list(np.minimum(stay.elapsed, 7200.0).T)
    change = truth(stay, config)[:, config.signals.index(signal)] - last[:, None]
    features = np.stack(columns, axis=1).astype(np.float32)
    return features[kept], change[kept].astype(np.float32), last[kept].astype(np.float32)


class BestMean:
    """The mean over that many of the last steps which did best in training, shrunk towards the last value."""

    def fit(self, features: Floats32, change: Floats32) -> BestMean:
        """Choose span and share by mean absolute error."""
        choices = [(span, share) for span in range(len(MEANS)) for share in (0.25, 0.5, 0.75, 1.0)]
        errors = [np.abs(share * self._mean(features, span) - change).mean() for span, share in choices]
        self.span, self.share = choices[int(np.argmin(errors))]
        return self

    def predict(self, features: Floats32) -> Floats:
        """Part of the way from the last value to the mean."""
        return np.asarray(self.share * self._mean(features, self.span), np.float64)

    @staticmethod
    def _mean(features: Floats32, span: int) -> Floats32:
        return np.nan_to_num(features[:, len(OWN_LAGS) + span])


class RidgeRegression:
    """Linear in all features, unknown ones at their mean; penalty as strong as a thousandth of the rows."""

    def fit(self, features: Floats32, change: Floats32) -> RidgeRegression:
        """Standardise, then solve."""
        self.centre, self.spread = np.nanmean(features, axis=0), np.nanstd(features, axis=0) + 1e-6
        self.model = Ridge(alpha=1e-3 * len(features)).fit(self._scaled(features), change)
        return self

    def predict(self, features: Floats32) -> Floats:
        """The conditional mean."""
        return np.asarray(self.model.predict(self._scaled(features)), np.float64)

    def _scaled(self, features: Floats32) -> Floats32:
        scaled = np.nan_to_num((features - self.centre) / self.spread)
        return np.asarray(np.clip(scaled, -8.0, 8.0), np.float32)


class BoostedTrees:
    """Histogram gradient boosting, absolute error or one quantile's pinball loss, stopped where unseen stays say so.

    Without that the trees learn the patients: 200 of them were 5 points worse at an hour than 60.
    """

    def __init__(self, level: float = 0.5, *, rows: int = TRAIN_ROWS) -> None:
        loss = {"loss": "absolute_error"} if level == 0.5 else {"loss": "quantile", "quantile": level}
        # 15 leaves were worse at five minutes and no better at an hour.
        self.options = {
            **loss,
            "learning_rate": 0.06,
            "max_leaf_nodes": 31,
            "min_samples_leaf": 200,
            "random_state": 0,
        }
        self.rows = rows

    def fit(self, features: Floats32, change: Floats32) -> BoostedTrees:
        """Find the number of trees on the last fifth of the rows (they lie stay after stay), then fit on all.

        At most `rows` rows are used, drawn with a fixed seed.
        """
        count = min(len(features), self.rows)
        drawn = np.sort(np.random.default_rng(0).choice(len(features), count, replace=False))
        features, change = features[drawn], change[drawn]
        edge = count * 4 // 5
        trial = HistGradientBoostingRegressor(
            **self.options, max_iter=MOST_TREES, early_stopping=True, n_iter_no_change=PATIENCE
        )
        trial.fit(features[:edge], change[:edge], X_val=features[edge:], y_val=change[edge:])
        trees = max(int(np.argmax(trial.validation_score_)), 1)
        self.model = HistGradientBoostingRegressor(**self.options, max_iter=trees, early_stopping=False)
        self.model.fit(features, change)
        return self

    def predict(self, features: Floats32) -> Floats:
        """The level's quantile of the change."""
        return np.asarray(self.model.predict(features), np.float64)


RIVALS: Mapping[str, Callable[[], Baseline]] = {
    "best mean": BestMean,
    "ridge": RidgeRegression,
    "boosted trees": BoostedTrees,
}


def median_errors(training: Sequence[Stay], unseen: Sequence[Stay], config: ForecasterConfig) -> Iterator[Rival]:
    """Mean absolute error of each rival fitted on `training`, for each unseen stay, signal and horizon."""
    for task in _tasks(training, unseen, config):
        for label, rival in RIVALS.items():
            fitted = rival().fit(task.features, task.change)
            for stay, (rows, moves, last) in zip(unseen, task.unseen, strict=True):
                if len(rows):
                    value = np.clip(last + fitted.predict(rows), task.signal.low, task.signal.high)
                    yield Rival(
                        label=label,
                        signal=task.signal.name,
                        horizon_s=task.horizon_s,
                        stay_id=stay.stay_id,
                        count=len(rows),
                        mae=float(np.abs(value - last - moves).mean()),
                    )


def quantile_cells(
    training: Sequence[Stay], unseen: Sequence[Stay], config: ForecasterConfig, rows: int
) -> Iterator[tuple[str, int, Cell]]:
    """Signal, horizon and the quantiles of boosted trees, one ensemble a level, fitted on `rows` origins of `training`.

    Levels fitted apart may cross; sorting them is never worse (Chernozhukov, Fernandez-Val & Galichon 2010).
    """
    for task in _tasks(training, unseen, config):
        features, change, last = (np.concatenate(part) for part in zip(*task.unseen, strict=True))
        levels = [
            BoostedTrees(level, rows=rows).fit(task.features, task.change).predict(features)
            for level in config.quantile_levels
        ]
        quantiles = last[:, None] + np.sort(np.stack(levels, axis=1), axis=1)
        quantiles = np.clip(quantiles, task.signal.low, task.signal.high).astype(np.float32)
        yield task.signal.name, task.horizon_s, Cell(last + change, quantiles, last)


class _Task(NamedTuple):
    """One signal and horizon: rows to learn from, and each unseen stay's features, changes and last values."""

    signal: Signal
    horizon_s: int
    features: Floats32
    change: Floats32
    unseen: list[tuple[Floats32, Floats32, Floats32]]


def _tasks(training: Sequence[Stay], unseen: Sequence[Stay], config: ForecasterConfig) -> Iterator[_Task]:
    """What there is to learn of each signal and horizon that any training stay knows, without unknown truths."""
    cells = [(signal, h) for signal in config.forecast_signals for h in range(len(config.horizons_s))]
    for signal, h in track(cells, "Fitting baselines"):
        if h == 0:
            known_rows = (rows_of(stay, signal.name, config) for stay in training)
            features, changes, _ = (np.concatenate(part) for part in zip(*known_rows, strict=True))
            new = [rows_of(stay, signal.name, config) for stay in unseen]
        known = ~np.isnan(changes[:, h])
        if known.any():
            kept = [~np.isnan(moves[:, h]) for _, moves, _ in new]
            asked = [
                (rows[keep], moves[keep, h], last[keep]) for keep, (rows, moves, last) in zip(kept, new, strict=True)
            ]
            yield _Task(signal, config.horizons_s[h], features[known], changes[known, h], asked)


def _held(values: Floats) -> Floats:
    """Each column with its last known value carried forward."""
    known = np.where(~np.isnan(values), np.arange(len(values))[:, None], 0)
    return np.asarray(np.take_along_axis(values, np.maximum.accumulate(known, axis=0), axis=0))


def _lagged(values: Floats, lag: int) -> Floats:
    return np.concatenate([np.full(min(lag, len(values)), np.nan), values[: max(len(values) - lag, 0)]])


def _mean(values: Floats, steps: int) -> Floats:
    """Mean of what is known of the last `steps` steps."""
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
    count = np.concatenate([[0.0], np.cumsum(~np.isnan(values))])
    start = np.maximum(np.arange(len(values)) + 1 - steps, 0)
    end = np.arange(len(values)) + 1
    with np.errstate(invalid="ignore"):
        return np.asarray((total[end] - total[start]) / (count[end] - count[start]))


def _spread(values: Floats, steps: int) -> Floats:
    return np.sqrt(np.maximum(_mean(values**2, steps) - _mean(values, steps) ** 2, 0.0))
