"""Configurations: what contradicts itself is refused; recordings of any kind find theirs."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest

from model.config import ForecasterConfig, config_for, restricted
from model.dataset import read_stay, survey
from model.evaluate import config_of, evaluate
from model.predictor import Predictor
from model.train import train_artifact


@pytest.mark.parametrize(
    "change",
    [
        {"signals": ("temp",)},
        {"signals": ()},
        {"groups": (("hr", "pulse"),)},
        {"horizons_s": (90,)},
        {"quantile_levels": (0.1, 0.9)},
        {"quantile_levels": (0.9, 0.5, 0.1)},
    ],
)
def test_contradictions_are_refused(vitals: ForecasterConfig, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        msgspec.structs.replace(vitals, **change)


def test_missing_columns_take_what_depends_on_them_along(vitals: ForecasterConfig) -> None:
    config = restricted(vitals, {"hr", "abp_sys", "abp_mean", "nibp_mean", "temp"})
    assert config.signals == ("hr", "abp_sys", "abp_mean")
    assert config.groups == (("abp_sys", "abp_mean"),)
    assert [witness.name for witness in config.witnesses] == ["nibp_mean"]


def test_vital_signs_are_recognised_by_their_columns(vitals: ForecasterConfig) -> None:
    ranges = {signal.name: (50.0, 90.0) for signal in vitals.inputs}
    assert config_for({**ranges, "weight": (60.0, 90.0)}, 10_000) == vitals


def test_the_number_after_nineteen_is_twenty(tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("time,value\n")
        file.writelines(f"2026-01-01T00:{i:02d}:00Z,{i}\n" for i in range(20))
    config = config_for(*survey([path], 60))
    assert (config.signals, config.context_steps, config.horizons_s) == (("value",), 4, (60, 300))
    train_artifact([path], tmp_path / "out", updates=300, hold_out=0, name="next-number")
    predictor = Predictor.load(tmp_path / "out", "cpu")
    assert config_of(predictor.manifest) == config
    forecast = evaluate(predictor, [read_stay(path, config)]).forecasts[0]
    assert forecast[-1, 0, 0, 2] == pytest.approx(20.0, abs=0.3)
    assert np.diff(forecast[5:, 0, 0, 2]) == pytest.approx(1.0, abs=0.2)
