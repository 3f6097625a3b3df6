"""Configurations: what contradicts itself is refused; recordings of any kind find theirs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from model.config import Column, ForecasterConfig, Witness, config_for, restricted
from model.dataset import read_stay, survey
from model.evaluate import config_of, evaluate
from model.predictor import Predictor
from model.train import train_artifact
from schemas.recordings import RecordingError
from schemas.signals import VITALS_BY_NAME, known_signals
from tests.patients import START
from tests.recordings import minutes, write_recording


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signals": ("temp",), "groups": (), "witnesses": ()}, "the forecast signals are not among the inputs"),
        ({"signals": (), "groups": (), "witnesses": ()}, "the forecast signals are not among the inputs"),
        ({"groups": (("hr", "pulse"),)}, "a group may hold forecast signals only"),
        ({"witnesses": (Witness(name="pulse", of="pulse", memory_s=60.0),)}, "a witness is an input"),
        ({"horizons_s": (90,)}, "horizons must be whole steps"),
        ({"quantile_levels": (0.1, 0.9)}, "quantile levels must rise"),
        ({"quantile_levels": (0.9, 0.5, 0.1)}, "quantile levels must rise"),
    ],
)
def test_contradictions_are_refused(vitals: ForecasterConfig, change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        msgspec.structs.replace(vitals, **change)


def test_missing_columns_take_what_depends_on_them_along(vitals: ForecasterConfig) -> None:
    config = restricted(vitals, {"hr", "abp_sys", "abp_mean", "nibp_mean", "temp"})
    assert config.signals == ("hr", "abp_sys", "abp_mean")
    assert config.groups == (("abp_sys", "abp_mean"),)
    assert [witness.name for witness in config.witnesses] == ["nibp_mean"]


def test_vital_signs_are_recognised_by_their_columns(vitals: ForecasterConfig) -> None:
    columns = {signal.name: Column(50.0, 90.0, 1) for signal in vitals.inputs}
    assert config_for({**columns, "weight": Column(60.0, 90.0, 0)}, 10_000) == vitals


def test_columns_that_are_not_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = minutes(START, range(60, 100))
    others = {"temp": 37.0, "etco2": 35.0, "SpO2": 97.0, "\x1b[2J": 1.0}
    path = write_recording(tmp_path, "a", [row._replace(values={**row.values, **others}) for row in rows])
    train_artifact([path], tmp_path / "out", updates=1, hold_out=0)
    assert "forecast: hr\nnot used: '\\x1b[2J', SpO2, etco2, temp\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["HR", " hr", "SpO2"])
def test_a_vital_sign_in_another_spelling_is_no_signal_of_its_own(name: str) -> None:
    with pytest.raises(RecordingError, match=f"^column '{name}': call it '{name.strip().lower()}' if"):
        config_for({name: Column(60.0, 90.0, 0), "etco2": Column(30.0, 40.0, 1)}, 10_000)


def test_a_vital_sign_that_the_default_does_not_forecast_keeps_its_unit_and_range() -> None:
    config = config_for({"temp": Column(36.0, 39.0, 1), "mood": Column(1.0, 5.0, 0)}, 10_000)
    assert config.signals == ("mood", "temp")
    assert config.inputs[1] == VITALS_BY_NAME["temp"]
    assert known_signals(config.inputs)


@pytest.mark.parametrize(
    ("low", "high", "step", "precision"),
    [(0.0, 0.049, 0.001, 0.001), (0, 19, 1, 0.1), (0, 1, 1 / 3, 1e-5), (0, 2e9, 12_345_678.9, 1e4), (5, 5, 1, 0.1)],
)
def test_other_columns_are_as_precise_as_they_are_written(
    tmp_path: Path, low: float, high: float, step: float, precision: float
) -> None:
    values = np.arange(low, high + step / 2, step)
    path = write_recording(tmp_path, "x", minutes(START, values.tolist(), "value"))
    config = config_for(*survey([path], 60))
    assert config.inputs[0].precision == pytest.approx(precision)
    read = read_stay(path, config).x[:, 0]
    np.testing.assert_allclose(read, values, atol=0.51 * config.inputs[0].precision)


def test_values_below_what_a_forecast_is_written_in_are_refused() -> None:
    with pytest.raises(RecordingError, match=r"^column 'cortisol': values too near to each other"):
        config_for({"cortisol": Column(2.9e-7, 3.1e-7, 6)}, 10_000)


def test_the_number_after_nineteen_is_twenty(tmp_path: Path) -> None:
    path = write_recording(tmp_path, "numbers", minutes(START, range(20), "value"))
    config = config_for(*survey([path], 60))
    assert (config.signals, config.context_steps, config.horizons_s) == (("value",), 4, (60, 300))
    train_artifact([path], tmp_path / "out", updates=300, hold_out=0, name="next-number")
    predictor = Predictor.load(tmp_path / "out", "cpu")
    assert config_of(predictor.manifest) == config
    forecast = evaluate(predictor, [read_stay(path, config)]).forecasts[0]
    assert forecast[-1, 0, 0, 2] == pytest.approx(20.0, abs=0.3)
    assert np.diff(forecast[5:, 0, 0, 2]) == pytest.approx(1.0, abs=0.2)
