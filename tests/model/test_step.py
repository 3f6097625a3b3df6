"""The step that serves: shapes, what it may depend on, and what it gives for any finite input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model import export
from model.augment import Copy
from model.config import ForecasterConfig
from model.dataset import from_readings
from model.evaluate import evaluate
from model.export import TOLERANCE, largest_difference, script
from model.predictor import Predictor
from model.steps import NEVER_S
from model.train import samples_of
from tests.model.synthetic import NO_TRAINING, synthetic_stay, synthetic_values, untrained


def run(
    predictor: Predictor, x: Tensor, observed: Tensor, elapsed: Tensor, state: Tensor | None = None
) -> tuple[list[Tensor], Tensor]:
    """All steps of x (T, B, I); each step's quantiles and the last state."""
    state = predictor.initial_state(x.shape[1]) if state is None else state
    out = []
    for t in range(len(x)):
        quantiles, state = predictor.step(x[t], observed[t], elapsed[t], state)
        state = predictor.round_state(state)
        out.append(quantiles)
    return out, state


def tensors(config: ForecasterConfig, minutes: int, seeds: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    stays = [synthetic_stay(config, minutes, seed) for seed in seeds]
    parts = ([torch.from_numpy(stay[i]) for stay in stays] for i in (1, 2, 3))
    x, observed, elapsed = (torch.stack(part, dim=1) for part in parts)
    return x, observed, elapsed


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_step_has_the_shapes_of_the_manifest(predictor: Predictor, batch: int) -> None:
    manifest = predictor.manifest
    inputs = torch.zeros(batch, len(manifest.inputs))
    state = predictor.initial_state(batch)
    quantiles, after = predictor.step(inputs, inputs > 0, inputs + 86_400.0, state)
    assert state.shape == after.shape == (batch, manifest.state_float32 + manifest.state_float16)
    assert quantiles.shape == (batch, 6, 5, 5)
    assert quantiles.dtype == after.dtype == torch.float32


def test_stored_state_is_small(predictor: Predictor) -> None:
    assert 4 * predictor.manifest.state_float32 + 2 * predictor.manifest.state_float16 <= 1500


def test_scripted_equals_eager(vitals: ForecasterConfig, value_config: ForecasterConfig) -> None:
    for config in (vitals, value_config):
        forecaster = untrained(config)
        assert largest_difference(forecaster, script(forecaster), config) <= TOLERANCE


def test_rows_of_a_batch_do_not_touch_each_other(predictor: Predictor, vitals: ForecasterConfig) -> None:
    x, observed, elapsed = tensors(vitals, 30, [1, 2, 3])
    together, _ = run(predictor, x, observed, elapsed)
    for b in range(3):
        alone, _ = run(predictor, x[:, b : b + 1], observed[:, b : b + 1], elapsed[:, b : b + 1])
        torch.testing.assert_close(together[-1][b], alone[-1][0], atol=1e-2, rtol=0)


def test_unobserved_values_are_ignored(predictor: Predictor, vitals: ForecasterConfig) -> None:
    x, observed, elapsed = tensors(vitals, 40, [4])
    other = torch.where(observed, x, torch.full_like(x, -3e38))
    assert not torch.equal(x, other)
    for ours, theirs in zip(
        run(predictor, x, observed, elapsed)[0], run(predictor, other, observed, elapsed)[0], strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_later_readings_change_no_earlier_forecast(predictor: Predictor, vitals: ForecasterConfig) -> None:
    times, values = 1_700_000_040.0 + 60.0 * np.arange(120.0), synthetic_values(vitals, 120, 5)
    later = np.arange(120)[:, None] >= 70
    others = [np.where(later, values + 11.0, values), np.where(later, np.nan, values), values[:70]]
    features = untrained(vitals).features
    stay = from_readings("s", times, values, vitals)
    forecasts = evaluate(predictor, [stay]).forecasts[0]
    (sample,) = samples_of([Copy(stay)], features, vitals)
    for changed in others:
        other = from_readings("s", times[: len(changed)], changed, vitals)
        np.testing.assert_array_equal(evaluate(predictor, [other]).forecasts[0][:70], forecasts[:70])
        (seen,) = samples_of([Copy(other)], features, vitals)
        for ours, theirs in zip(sample.cut(0, 70)[:4], seen.cut(0, 70)[:4], strict=True):  # the rest is truth
            torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


Inputs = tuple[Tensor, Tensor, Tensor]


def hostile_inputs(config: ForecasterConfig, t: int) -> dict[str, Inputs]:
    """Step t of two stays, of each kind of trouble: x, observed, elapsed."""
    low = torch.tensor([signal.low for signal in config.inputs]).expand(2, -1)
    high = torch.tensor([signal.high for signal in config.inputs]).expand(2, -1)
    yes, now, middle = torch.ones_like(low), torch.zeros_like(low), (low + high) / 2
    gone = float(20 < t < 200)
    return {
        "constant": (middle, yes, now),
        "nothing ever": (middle, 0 * yes, now + 86_400.0),
        "one signal only": (middle, yes * torch.eye(len(config.inputs))[0], now),
        "low edge": (low, yes, now),
        "edge to edge": (low if t % 2 else high, yes, now),
        "gone and back": (middle + t % 7, yes * (1 - gone), now + 60.0 * (t - 20) * gone),
        "beyond all bounds": (now + (3e38 if t % 2 else -3e38), yes, now + (3e38 if t % 3 else -3e38)),
    }


@pytest.mark.parametrize(
    "kind",
    ["constant", "nothing ever", "one signal only", "low edge", "edge to edge", "gone and back", "beyond all bounds"],
)
def test_forecasts_stay_finite_ordered_and_plausible(predictor: Predictor, vitals: ForecasterConfig, kind: str) -> None:
    low = torch.tensor([signal.low for signal in vitals.forecast_signals]).view(1, -1, 1, 1)
    high = torch.tensor([signal.high for signal in vitals.forecast_signals]).view(1, -1, 1, 1)
    state = predictor.initial_state(2)
    for t in range(260):
        quantiles, state = predictor.step(*hostile_inputs(vitals, t)[kind], state)
        state = predictor.round_state(state)
        assert quantiles.isfinite().all()
        assert state.isfinite().all()
        assert (quantiles.diff(dim=-1) >= 0).all()
        assert (quantiles >= low).all()
        assert (quantiles <= high).all()


def test_rounding_the_state_hardly_matters(predictor: Predictor, vitals: ForecasterConfig) -> None:
    x, observed, elapsed = tensors(vitals, 300, [6, 7])
    rounded, _ = run(predictor, x, observed, elapsed)
    state = predictor.initial_state(2)
    for t in range(len(x)):
        exact, state = predictor.step(x[t], observed[t], elapsed[t], state)
    assert (rounded[-1] - exact).abs().mean() < 0.2


def test_rounding_twice_is_rounding_once(predictor: Predictor) -> None:
    state = torch.randn(4, predictor.manifest.state_size) * 50
    once = predictor.round_state(state)
    torch.testing.assert_close(predictor.round_state(once), once, atol=0, rtol=0)
    exact = predictor.manifest.state_float32
    torch.testing.assert_close(once[:, :exact], state[:, :exact], atol=0, rtol=0)


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_without_readings_are_steps(predictor: Predictor, vitals: ForecasterConfig, batch: int) -> None:
    x, observed, elapsed = tensors(vitals, 40, list(range(batch)))
    _, state = run(predictor, x, observed, elapsed)
    age = elapsed[-1].double()
    age[:, 0] = NEVER_S - 90.0  # its clock stops within the gap
    steps = 200
    nothing = torch.zeros(steps, *age.shape)
    ages = torch.stack([(age + 60.0 * step).clamp(max=NEVER_S) for step in range(1, steps + 1)])
    _, stepped = run(predictor, nothing, nothing, ages, state)
    at_once = predictor.step_unobserved(age, state, steps)
    exact = predictor.manifest.state_float32
    torch.testing.assert_close(at_once[:, :exact], stepped[:, :exact], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(at_once, stepped, atol=5e-4, rtol=1e-3)  # the last digit of float16
    assert predictor.step_unobserved(age, state, 0).equal(state)


def test_an_artifact_with_the_two_entry_points_of_the_contract_takes_steps_without_readings_too(
    vitals: ForecasterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecaster = untrained(vitals)
    found = []
    for entry_points in (export.ENTRY_POINTS, ("initial_state", "step")):
        monkeypatch.setattr(export, "ENTRY_POINTS", entry_points)
        export.write_artifact(forecaster, vitals, NO_TRAINING, tmp_path, name="random", version="0")
        predictor = Predictor.load(tmp_path, "cpu")
        age = torch.full((2, len(vitals.inputs)), 30.0, dtype=torch.float64)
        found.append(predictor.step_unobserved(age, predictor.initial_state(2), 7))
    torch.testing.assert_close(*found, atol=5e-4, rtol=1e-3)
