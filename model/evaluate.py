"""How good an artifact is on stays it has not seen: always beside persistence, by the very steps that serve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import ForecasterConfig
from model.dataset import Floats, Stay, by_length, scored_origins, steps_of, truth
from model.manifest import Score
from model.predictor import Predictor


def forecasts_of(predictor: Predictor, stays: Sequence[Stay]) -> list[Floats]:
    """Quantiles at every step of each stay, float32 (T, V, H, Q); the state is rounded at each step, as in serving."""
    ordered = by_length(stays)
    manifest = predictor.manifest
    shape = (len(manifest.signals), len(manifest.horizons_s), len(manifest.quantile_levels))
    out = [np.empty((stay.length, *shape), np.float32) for stay in ordered]
    state = predictor.initial_state(len(ordered))
    for batch in steps_of(ordered):
        n = len(batch.x)
        x, observed, elapsed = (torch.from_numpy(part) for part in (batch.x, batch.observed, batch.elapsed))
        quantiles, state = predictor.step(x, observed, elapsed, state[:n])
        state = predictor.round_state(state)
        rows = quantiles.numpy()
        for b in range(n):
            out[b][batch.t] = rows[b]
    by_stay = {id(stay): quantiles for stay, quantiles in zip(ordered, out, strict=True)}
    return [by_stay[id(stay)] for stay in stays]


def scores_of(predictor: Predictor, stays: Sequence[Stay], config: ForecasterConfig) -> tuple[Score, ...]:
    """Pooled scores of every signal and horizon that has any truth."""
    return pooled_scores(stays, forecasts_of(predictor, stays), config)


def pooled_scores(stays: Sequence[Stay], forecasts: Sequence[Floats], config: ForecasterConfig) -> tuple[Score, ...]:
    """Scores over all scored origins of all stays, each origin counting once."""
    found = []
    targets = [truth(stay, config) for stay in stays]
    origins = [scored_origins(stay, config) for stay in stays]
    for v, name in enumerate(config.signals):
        column = config.input_index(name)
        for h, horizon_s in enumerate(config.horizons_s):
            kept = [o[:, v] & ~np.isnan(y[:, v, h]) for o, y in zip(origins, targets, strict=True)]
            y = np.concatenate([t[k, v, h] for t, k in zip(targets, kept, strict=True)])
            q = np.concatenate([f[k, v, h] for f, k in zip(forecasts, kept, strict=True)])
            last = np.concatenate([s.x[k, column] for s, k in zip(stays, kept, strict=True)])
            if len(y):
                found.append(score(name, horizon_s, y=y, quantiles=q, last=last, levels=config.quantile_levels))
    return tuple(found)


def score(
    signal: str, horizon_s: int, *, y: Floats, quantiles: Floats, last: Floats, levels: tuple[float, ...]
) -> Score:
    """Score of one cell. y : (N,) truth. quantiles : (N, Q). last : (N,) values at the origins.

    MAE = mean |y - median|; persistence: the same of y - last. Pinball: mean over origins and levels. A band covers
    y if it lies between its quantiles, ends included.
    """
    y64, q64 = y.astype(np.float64), quantiles.astype(np.float64)
    q = np.array(levels)
    error = y64[:, None] - q64
    return Score(
        signal=signal,
        horizon_s=horizon_s,
        count=len(y),
        mae=_rounded(np.abs(error[:, len(levels) // 2]).mean()),
        persistence_mae=_rounded(np.abs(y64 - last.astype(np.float64)).mean()),
        pinball=_rounded(np.maximum(q * error, (q - 1.0) * error).mean()),
        coverage_50=_rounded(_coverage(y64, q64, levels, 0.5)),
        coverage_90=_rounded(_coverage(y64, q64, levels, 0.9)),
        width_90=_rounded(_band(q64, levels, 0.9)[1].mean() - _band(q64, levels, 0.9)[0].mean()),
    )


def _band(
    q: NDArray[np.float64], levels: tuple[float, ...], mass: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper end of the central band of `mass`, or of the widest there is."""
    inside = [i for i, level in enumerate(levels) if level <= (1.0 - mass) / 2.0 + 1e-9]
    i = inside[-1] if inside else 0
    return q[:, i], q[:, len(levels) - 1 - i]


def _coverage(y: NDArray[np.float64], q: NDArray[np.float64], levels: tuple[float, ...], mass: float) -> float:
    low, high = _band(q, levels, mass)
    return float(((low <= y) & (y <= high)).mean())


def _rounded(value: float) -> float:
    return round(float(value), 4)
