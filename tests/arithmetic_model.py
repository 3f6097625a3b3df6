"""A forecaster simple enough to check by hand: real arithmetic on its inputs, no network, no file."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from model.manifest import Manifest, Training
from schemas.signals import VITALS_BY_NAME

INPUTS: Final = ("hr", "spo2", "abp_mean")
FORECAST: Final = ("hr", "abp_mean")

MANIFEST: Final = Manifest(
    name="arithmetic",
    version="1",
    sha256="ab" * 32,
    inputs=tuple(VITALS_BY_NAME[name] for name in INPUTS),
    signals=FORECAST,
    step_s=60,
    horizons_s=(60, 300, 900),
    quantile_levels=(0.05, 0.5, 0.95),
    context_steps=10,
    state_float32=5,
    state_float16=2,
    parameters=0,
    training=Training(
        data="none", stays=(), held_out=(), seed=0, updates=0, revision="", trained_at="2026-01-01T00:00:00Z"
    ),
)


class ArithmeticPredictor:
    """state32 = how many steps, last values, seconds unobserved in all steps; state16 = two small counters.

    Everything is a whole number or a half, so that no order of operations can change a digit.
    """

    manifest = MANIFEST
    device = torch.device("cpu")

    def initial_state(self, batch: int) -> Tensor:
        """Zeros, float32 (B, 7)."""
        return torch.zeros(batch, 7)

    def step(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The median is the last value of each signal, moved by the counters and the horizon's number."""
        is_seen = observed.bool()
        after = state.clone()
        after[:, 0] += 1
        after[:, 1:4] = torch.where(is_seen, torch.round(2 * x) / 2, state[:, 1:4])
        after[:, 4] = (state[:, 4] + elapsed.sum(dim=1).round()) % 1024
        after[:, 5] = (state[:, 5] + is_seen.sum(dim=1)) % 64
        after[:, 6] = state[:, 0] % 32
        centre = after[:, [1, 3]] + (after[:, 5:6] + after[:, 6:7] + after[:, 4:5] % 7) / 2
        horizons = torch.arange(3.0)
        levels = torch.tensor([-2.0, 0.0, 2.0])
        quantiles = centre[:, :, None, None] + horizons[:, None] + levels
        low = torch.tensor([20.0, 20.0])[:, None, None]
        high = torch.tensor([250.0, 220.0])[:, None, None]
        return torch.minimum(torch.maximum(quantiles, low), high), after

    def step_unobserved(self, elapsed: Tensor, state: Tensor, steps: int) -> Tensor:
        """One step after the other."""
        nothing = torch.zeros(elapsed.shape)
        for step in range(1, steps + 1):
            _, state = self.step(nothing, nothing, (elapsed + 60 * step).clamp(max=86_400).float(), state)
        return state

    def round_state(self, state: Tensor) -> Tensor:
        """What storing does: nothing, since all of it is exact in float16 too."""
        return state


class TrendPredictor(ArithmeticPredictor):
    """Goes on as the last two steps did, at most by one a minute: a calm patient is foreseen. state16 = the trends."""

    def step(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The median is the last value of each signal, moved by its trend; the bands are always as wide."""
        after = state.clone()
        after[:, 0] += 1
        after[:, 1:4] = torch.where(observed.bool(), torch.round(2 * x) / 2, state[:, 1:4])
        last, before = after[:, [1, 3]], state[:, [1, 3]]
        after[:, 5:7] = torch.where(before == 0, 0.0, (last - before).clamp(-1, 1))
        minutes = torch.tensor(MANIFEST.horizons_s) / 60
        centre = last[:, :, None] + after[:, 5:7, None] * minutes
        return centre[:, :, :, None] + torch.tensor([-2.0, 0.0, 2.0]), after
