"""Seeded synthetic stays and forecasters with random weights: no test here needs a recording of a real patient."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import ForecasterConfig
from model.dataset import Stay, from_readings
from model.export import write_artifact
from model.features import Scaling
from model.manifest import Training
from model.network import Forecaster
from schemas.recordings import Row
from schemas.signals import Signal
from tests.recordings import write_recording

VALUE = Signal(name="value", unit="1", low=-1000.0, high=1000.0, precision=0.1)
ONE_SIGNAL = ForecasterConfig(inputs=(VALUE,), signals=("value",), horizons_s=(60,))
MIDDLE = {"hr": 85, "resp": 19, "spo2": 96, "abp_sys": 120, "abp_dia": 60, "abp_mean": 80, "pulse": 85, "nibp_mean": 80}
NO_TRAINING = Training(data="none", stays=(), held_out=(), seed=0, updates=0, revision="test", trained_at="")


def synthetic_values(config: ForecasterConfig, minutes: int, seed: int) -> NDArray[np.float64]:
    """(minutes, I) slow noisy oscillations around usual values, a tenth of them missing, some runs of repeats."""
    random = np.random.default_rng(seed)
    t = np.arange(minutes)[:, None]
    middle = np.array([MIDDLE.get(signal.name, 0.0) for signal in config.inputs])
    wave = 6.0 * np.sin(t / random.uniform(15, 60, len(middle)) + random.uniform(0, 6, len(middle)))
    walk = np.cumsum(random.normal(0, 0.3, (minutes, len(middle))), axis=0)
    values = middle + wave * (middle != 96) + np.clip(walk, -8, 8) * 0.4 + random.normal(0, 0.7, (minutes, len(middle)))
    for column, signal in enumerate(config.inputs):
        values[:, column] = np.clip(values[:, column], signal.low, signal.high)
    values[random.random(values.shape) < 0.1] = np.nan
    return np.asarray(np.round(values, 1))


def synthetic_stay(config: ForecasterConfig, minutes: int = 600, seed: int = 0) -> Stay:
    """One stay of `synthetic_values`, a reading a minute."""
    times = 1_700_000_040.0 + 60.0 * np.arange(minutes, dtype=np.float64)
    return from_readings(f"synthetic-{seed}", times, synthetic_values(config, minutes, seed), config)


def synthetic_recording(folder: Path, config: ForecasterConfig, minutes: int, seed: int) -> Path:
    """A recording of `synthetic_values`."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    names = [signal.name for signal in config.inputs]
    rows = (
        Row(
            start + timedelta(minutes=minute),
            {name: value for name, value in zip(names, values, strict=True) if not np.isnan(value)},
        )
        for minute, values in enumerate(synthetic_values(config, minutes, seed).tolist())
    )
    return write_recording(folder, f"synthetic-{seed:02d}", rows)


def untrained(config: ForecasterConfig, seed: int = 0) -> Forecaster:
    """A forecaster with random weights everywhere, so that every path through it matters."""
    torch.manual_seed(seed)
    ones = torch.ones(len(config.signals))
    centre = torch.tensor([float(MIDDLE.get(name, 0.0)) for name in config.signals])
    forecaster = Forecaster(
        config, Scaling(centre, 10.0 * ones, 2.0 * ones), torch.ones(len(ones), len(config.horizons_s))
    )
    with torch.no_grad():
        for weight in forecaster.network.parameters():
            weight.normal_(0.0, 0.2)
    return forecaster.eval()


def random_artifact(config: ForecasterConfig, out: Path) -> Path:
    """The artifact of an untrained forecaster, in the folder `out`."""
    write_artifact(untrained(config), config, NO_TRAINING, out, name="random", version="0")
    return out
