"""The committed model at other rates than the reading a minute it was trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.config import ForecasterConfig
from model.dataset import Stay, from_readings
from model.evaluate import evaluate, evaluate_sparse
from model.manifest import DEFAULT_ARTIFACT
from model.predictor import Predictor
from model.scores import Evaluation
from tests.model.synthetic import synthetic_stay, synthetic_values

MINUTES = 90


@pytest.fixture(scope="module")
def trained() -> Predictor:
    return Predictor.load(DEFAULT_ARTIFACT, "cpu")


def each_second(config: ForecasterConfig, readings: int) -> Stay:
    """`synthetic_values` as 60 noisy readings a minute, of which the last minute has `readings`; means are the same."""
    random = np.random.default_rng(0)
    values = np.repeat(synthetic_values(config, MINUTES, seed=3), 60, axis=0)
    halves = random.normal(0, 1.0, (MINUTES, 30, values.shape[1])).round(1)
    noise = random.permuted(np.concatenate([halves, -halves], axis=1), axis=1).reshape(values.shape)
    times = 1_700_000_040.0 + np.arange(len(values), dtype=np.float64)
    kept = len(values) - 60 + readings
    return from_readings("s", times[:kept], (values + noise)[:kept], config)


def last_forecast(found: Evaluation) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(found.forecasts[0][-1])


def test_sixty_readings_a_minute_forecast_as_their_mean(trained: Predictor, vitals: ForecasterConfig) -> None:
    minutes, seconds = synthetic_stay(vitals, MINUTES, seed=3), each_second(vitals, 60)
    np.testing.assert_array_equal(seconds.observed, minutes.observed)
    # A mean without its extremes, in tenths; noise that carries saturation over 100 % is no reading.
    assert np.abs(seconds.x - minutes.x).max() <= 0.3
    ours, theirs = (last_forecast(evaluate(trained, [stay])) for stay in (seconds, minutes))
    np.testing.assert_allclose(ours, theirs, atol=0.6)


def test_a_provisional_forecast_nears_that_of_the_whole_minute(trained: Predictor, vitals: ForecasterConfig) -> None:
    whole = last_forecast(evaluate(trained, [each_second(vitals, 60)]))
    off = [
        float(np.abs(last_forecast(evaluate(trained, [each_second(vitals, count)])) - whole).mean())
        for count in (1, 5, 30)
    ]
    assert off[0] > off[1] > off[2]
    assert off[2] < 0.1


def test_scoring_keeps_to_one_thread(
    trained: Predictor, vitals: ForecasterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two wait for each other: on a machine with other work scoring took six times the CPU time."""
    threads, step = set(), trained.step

    def counting(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        threads.add(torch.get_num_threads())
        return step(*arguments)

    monkeypatch.setattr(trained, "step", counting)
    torch.set_num_threads(2)
    evaluate(trained, [synthetic_stay(vitals, 5, seed=3)])
    assert (threads, torch.get_num_threads()) == ({1}, 2)
    torch.set_num_threads(1)


def test_rarer_readings_are_scored_at_every_step(trained: Predictor, vitals: ForecasterConfig) -> None:
    stays = [synthetic_stay(vitals, 400, seed) for seed in (1, 2)]
    found = evaluate_sparse(trained, stays)
    assert list(found) == ["every 60 s", "every 120 s", "every 300 s", "irregular, 180 s in the mean"]
    counts = {name: scores[0].count for name, scores in found.items()}
    # Nearly every step is an origin at each rate: the last value is seldom more than ten minutes old.
    assert min(counts.values()) > 0.9 * max(counts.values())
    errors = {name: np.mean([score.mae for score in scores]) for name, scores in found.items()}
    assert errors["every 60 s"] < errors["every 120 s"] < errors["every 300 s"]
