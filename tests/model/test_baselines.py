"""The rivals see what a live worker sees, no more and no less, and are no straw men."""

from __future__ import annotations

import numpy as np
import pytest

from model.baselines import RIVALS, median_errors, quantile_cells, rows_of
from model.config import ForecasterConfig
from model.dataset import scored_origins, truth
from tests.model.synthetic import synthetic_stay


def test_rows_are_the_scored_origins_and_their_change(vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 300, seed=1)
    features, change, last = rows_of(stay, "resp", vitals)
    v, kept = vitals.signals.index("resp"), scored_origins(stay, vitals)[:, vitals.signals.index("resp")]
    assert len(features) == len(change) == len(last) == kept.sum()
    np.testing.assert_array_equal(last, stay.x[kept, vitals.input_index("resp")])
    np.testing.assert_allclose(change, truth(stay, vitals)[kept, v] - last[:, None], atol=1e-4)


def test_rows_know_nothing_of_what_comes(vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 300, seed=2)
    later = stay.x.copy()
    later[200:] += 10.0
    ours, theirs = rows_of(stay, "hr", vitals)[0], rows_of(stay._replace(x=later), "hr", vitals)[0]
    before = int(scored_origins(stay, vitals)[:200, vitals.signals.index("hr")].sum())
    np.testing.assert_array_equal(ours[:before], theirs[:before])


def test_rivals_beat_persistence_where_there_is_something_to_learn(value_config: ForecasterConfig) -> None:
    training = [synthetic_stay(value_config, 1500, seed) for seed in range(4)]
    unseen = synthetic_stay(value_config, 800, seed=20)
    _, change, _ = rows_of(unseen, "value", value_config)
    found = list(median_errors(training, [unseen], value_config))
    assert {rival.label for rival in found} == set(RIVALS)
    for rival in found:
        moves = change[:, value_config.horizons_s.index(rival.horizon_s)]
        assert rival.count == (~np.isnan(moves)).sum() > 0
        assert rival.mae < np.nanmean(np.abs(moves))


def test_quantile_trees_answer_for_the_origins_of_the_medians(value_config: ForecasterConfig) -> None:
    training = [synthetic_stay(value_config, 800, seed) for seed in range(4)]
    unseen = [synthetic_stay(value_config, 500, seed) for seed in (20, 21)]
    changes = np.concatenate([rows_of(stay, "value", value_config)[1] for stay in unseen])
    counts = dict(zip(value_config.horizons_s, (~np.isnan(changes)).sum(axis=0), strict=True))
    cells = {horizon_s: cell for _, horizon_s, cell in quantile_cells(training, unseen, value_config, rows=2000)}
    assert {horizon_s: len(cell.y) for horizon_s, cell in cells.items()} == counts
    for cell in cells.values():
        assert (np.diff(cell.quantiles, axis=1) >= 0).all()
        inside = (cell.quantiles[:, 0] <= cell.y) & (cell.y <= cell.quantiles[:, -1])
        assert inside.mean() == pytest.approx(0.9, abs=0.08)
        assert np.abs(cell.y - cell.quantiles[:, 2]).mean() < np.abs(cell.y - cell.last).mean()
