"""The recursive statistics against what they stand for, computed the long way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.config import ForecasterConfig
from model.features import CLIPPED, LAGS, TAUS, Features, Scaling, median_of_five, median_of_three
from tests.model.synthetic import MIDDLE, synthetic_stay


@pytest.fixture
def features(vitals: ForecasterConfig) -> Features:
    ones = torch.ones(len(vitals.signals))
    centre = torch.tensor([float(MIDDLE[name]) for name in vitals.signals])
    return Features(vitals, Scaling(centre, 10.0 * ones, 2.0 * ones))


def test_medians_by_comparison_are_medians() -> None:
    values = torch.randint(0, 6, (5, 1000), generator=torch.Generator().manual_seed(0)).float()
    torch.testing.assert_close(median_of_five(*values), values.median(dim=0).values)
    torch.testing.assert_close(median_of_three(*values[:3]), values[:3].median(dim=0).values)


def test_averages_and_past_values_match_their_definition(features: Features, vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 200, seed=8)
    exact, half = (rows.unsqueeze(1) for rows in features.initial_rows())
    for t in range(stay.length):
        parts = (torch.from_numpy(part[t]).float().unsqueeze(1) for part in stay[1:])
        x, observed, elapsed = parts
        out, exact, half = features.step(x, observed, elapsed, exact, half)
        half = half.half().float()
    for v, name in enumerate(vitals.signals):
        column = vitals.input_index(name)
        seen, values = stay.observed[:, column], stay.x[:, column].astype(float)
        held = values[np.maximum.accumulate(np.where(seen, np.arange(len(seen)), 0))]
        anchor, scale = float(out.anchor[v, 0]), float(out.scale[v, 0])
        assert anchor == pytest.approx(held[-1], abs=1e-4)
        age = np.arange(len(seen))[::-1]
        for k, tau in enumerate(TAUS):
            weight = np.exp(-age / tau) * seen
            average = (weight * values).sum() / weight.sum()
            assert float(out.own[k, v, 0]) * scale + anchor == pytest.approx(average, abs=0.05)
        lags = out.own[len(TAUS) + 3 + 3 : len(TAUS) + 6 + LAGS, v, 0].numpy() * scale + anchor
        np.testing.assert_allclose(lags, held[-2 : -2 - LAGS : -1], atol=1e-3)


def test_past_values_survive_float16_exactly(features: Features, vitals: ForecasterConfig) -> None:
    exact, half = (rows.unsqueeze(1) for rows in features.initial_rows())
    for name, value in (("abp_sys", 279.9), ("hr", 20.1)):
        column = vitals.input_index(name)
        x, observed = torch.zeros(len(vitals.inputs), 1), torch.zeros(len(vitals.inputs), 1)
        x[column], observed[column] = value, 1.0
        _, exact, half = features.step(x, observed, 1 - observed, exact, half)
        half = half.half().float()
        out, _, _ = features.step(0 * x, 0 * observed, 1 - observed, exact, half)
        assert float(out.anchor[vitals.signals.index(name), 0]) == pytest.approx(value, abs=1e-4)


def test_one_artefact_hardly_moves_the_clipped_averages(features: Features, vitals: ForecasterConfig) -> None:
    column, v = vitals.input_index("hr"), vitals.signals.index("hr")
    observed, x = torch.zeros(len(vitals.inputs), 1), torch.zeros(len(vitals.inputs), 1)
    observed[column] = 1.0
    exact, half = (rows.unsqueeze(1) for rows in features.initial_rows())
    for t in range(60):
        x[column] = 80.0 + t % 2
        _, exact, half = features.step(x, observed, 0 * x, exact, half)
    x[column] = 240.0
    _, exact, half = features.step(x, observed, 0 * x, exact, half)
    averages = exact[: (len(TAUS) + len(CLIPPED)) * 6].view(-1, 6)[:, v]
    assert ((averages[len(TAUS) :] - 80.5).abs() < 2.0).all()
    assert averages[0] > 100.0  # the others are moved, the shortest of them most
