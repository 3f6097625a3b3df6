"""A model whose window holds fewer steps than a forecast needs was never warm."""

from __future__ import annotations

from tests.arithmetic_model import MANIFEST
from tests.records import decoded, new_pipeline, process, reading, records


def test_a_short_window_is_warm_when_it_is_full() -> None:
    steps = MANIFEST.context_steps
    pipeline = new_pipeline(min_observed_steps=3 * steps)
    forecasts = decoded(
        process(pipeline, records([reading("s", 60 * minute) for minute in range(steps + 1)])).forecasts
    )
    assert [forecast["status"] for forecast in forecasts] == ["warming_up"] * (steps - 1) + ["ok"] * 2
