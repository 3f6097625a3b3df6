"""Configurations and small artifacts shared by the tests of the model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from model.config import ForecasterConfig, vital_signs
from model.network import Forecaster
from model.predictor import Predictor
from model.train import fit
from tests.model.synthetic import ONE_SIGNAL, random_artifact, synthetic_stay


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vitals() -> ForecasterConfig:
    return vital_signs()


@pytest.fixture(scope="session")
def value_config() -> ForecasterConfig:
    return msgspec.structs.replace(ONE_SIGNAL, horizons_s=(60, 300))


@pytest.fixture(scope="session")
def vitals_artifact(vitals: ForecasterConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default architecture with random weights."""
    return random_artifact(vitals, tmp_path_factory.mktemp("vitals"))


@pytest.fixture(scope="session")
def predictor(vitals_artifact: Path) -> Predictor:
    return Predictor.load(vitals_artifact, "cpu")


@pytest.fixture(scope="session")
def value_forecaster(value_config: ForecasterConfig) -> Forecaster:
    """A tiny forecaster of one signal, trained for a moment."""
    stays = [synthetic_stay(value_config, 200, seed) for seed in range(4)]
    return fit(stays, value_config, seed=3, updates=12)
