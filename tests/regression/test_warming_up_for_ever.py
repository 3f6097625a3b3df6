"""A model whose window holds fewer steps than a forecast needs was never warm."""

from __future__ import annotations

from typing import Any

import pytest

from stream_worker.pipeline import Pipeline
from stream_worker.settings import SettingsError, load_settings
from tests.arithmetic_model import MANIFEST, ArithmeticPredictor
from tests.records import decoded, process, reading, records

PREDICTOR: Any = ArithmeticPredictor()


def test_a_short_window_is_warm_when_it_is_full() -> None:
    steps = MANIFEST.context_steps
    pipeline = Pipeline(load_settings(), PREDICTOR)
    forecasts = decoded(
        process(pipeline, records([reading("s", 60 * minute) for minute in range(steps + 1)])).forecasts
    )
    assert [forecast["status"] for forecast in forecasts] == ["warming_up"] * (steps - 1) + ["ok"] * 2


def test_more_steps_than_a_window_has_are_refused_where_somebody_asked_for_them() -> None:
    with pytest.raises(SettingsError, match="min_observed_steps: must not be more than the 10 steps"):
        Pipeline(load_settings(min_observed_steps=11), PREDICTOR)
    Pipeline(load_settings(min_observed_steps=10), PREDICTOR)
