"""Ablations: every variant trains and is scored, and what stands in for the LSTM computes what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from model.ablations import HORIZONS_S, VARIANTS, Gru, LinearRecurrence, Mixing, ablate, faulty, forecast, table_of
from model.augment import Copy
from model.config import ForecasterConfig
from model.evaluate import evaluate
from model.network import Network
from model.predictor import Predictor
from model.train import CHUNK, samples_of
from tests.model.synthetic import synthetic_stay, untrained


def test_every_variant_is_trained_and_scored(vitals: ForecasterConfig) -> None:
    stays = [synthetic_stay(vitals, 160, seed) for seed in range(3)]
    run = {variant.label: found for variant, found in ablate(stays[:2], stays[2:], vitals, updates=2)}
    assert list(run) == [variant.label for variant in VARIANTS]
    assert all(np.isfinite(part).all() and part.shape == (len(HORIZONS_S),) for found in run.values() for part in found)
    assert len({found.degraded.tobytes() for found in run.values()}) == len(VARIANTS)  # each differs from the others
    assert table_of([run, run]).row_count == len(VARIANTS)


def test_a_sequence_is_forecast_as_the_steps_are(predictor: Predictor, vitals: ForecasterConfig) -> None:
    forecaster = untrained(vitals)
    stays = [synthetic_stay(vitals, minutes, minutes) for minutes in (200, 150)]
    samples = samples_of([Copy(stay) for stay in stays], forecaster.features, vitals)
    for sample, stepped in zip(samples, evaluate(predictor, stays).forecasts, strict=True):
        whole = forecast(forecaster.network, forecaster.features, sample)
        # Features were rounded on the way in the one, states in the other; random weights make much of it.
        assert np.median(np.abs(whole - stepped)) < 0.05
        assert np.corrcoef(whole.ravel(), stepped.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("kind", [Gru, LinearRecurrence, Mixing])
def test_a_cell_goes_on_where_it_stopped(kind: type[nn.Module], vitals: ForecasterConfig) -> None:
    torch.manual_seed(0)
    network = Network(vitals, torch.ones(6, 5))
    cell = kind(network)
    sequence = torch.randn(CHUNK + 30, 12, network.inputs)
    blank = torch.zeros(1, 12, network.hidden)
    with torch.inference_mode():
        whole, after = cell(sequence, (blank, blank))
        first, memory = cell(sequence[:50], (blank, blank))
        second, then = cell(sequence[50:], memory)
    torch.testing.assert_close(torch.cat([first, second]), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(then, after, atol=1e-4, rtol=1e-4)


def test_the_linear_recurrence_by_its_equation(vitals: ForecasterConfig) -> None:
    torch.manual_seed(0)
    cell = LinearRecurrence(Network(vitals, torch.ones(6, 5)))
    rate = torch.complex(-torch.exp(cell.log_decay), torch.exp(cell.log_angle))
    driven, h = torch.randn(20, 3, 32, dtype=torch.complex64), torch.randn(3, 32, dtype=torch.complex64)
    expected = []
    state = h
    for x in driven:
        state = torch.exp(rate) * state + torch.sqrt(1 - torch.exp(rate).abs() ** 2) * x
        expected.append(state)
    torch.testing.assert_close(cell._states(driven, h), torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_mixed_signals_hear_of_each_other(vitals: ForecasterConfig) -> None:
    torch.manual_seed(0)
    network = Network(vitals, torch.ones(6, 5))
    mixing = Mixing(network)
    sequence, blank = torch.randn(5, 6 * 2, network.inputs), torch.zeros(1, 6 * 2, network.hidden)
    untouched, _ = mixing(sequence, (blank, blank))
    torch.testing.assert_close(untouched, network.cell(sequence, (blank, blank))[0])  # it starts as the LSTM alone
    nn.init.normal_(mixing.mix.weight)
    before, _ = mixing(sequence, (blank, blank))
    sequence[:, 0] += 1.0  # the first signal of the first stay
    after, _ = mixing(sequence, (blank, blank))
    changed = (before != after).any(-1).any(0).view(6, 2)
    assert changed[:, 0].all()
    assert not changed[:, 1].any()


def test_faults_are_seen_and_not_true(vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 5000, seed=1)
    seen, whole = faulty(stay, vitals, np.random.default_rng(3))
    assert whole is not None
    wrong = seen.observed & (np.abs(seen.x - whole.x) > 1.0)  # monitors that show whole numbers move less
    assert 0 < wrong.sum() < seen.observed.sum() / 200
    low, high = (np.array([getattr(signal, end) for signal in vitals.inputs]) for end in ("low", "high"))
    assert ((seen.x >= low) & (seen.x <= high))[seen.observed].all()
