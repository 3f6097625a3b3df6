"""The coverage report: truths are found at their step, bands are counted and averaged by hand-checkable cases."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from stream_worker.backtest.coverage import Course, courses_of, measure, show, truth_of, worst_tenth
from tests.arithmetic_model import MANIFEST
from tests.records import new_pipeline, process, reading, records

HORIZONS = len(MANIFEST.horizons_s)


def course(observed: list[float], low: float, high: float) -> Course:
    """A stay whose band is always low..high around its middle, one step after the other."""
    steps = len(observed)
    quantiles = np.tile([low, (low + high) / 2, high], (steps, 2, HORIZONS, 1))
    values = np.column_stack([observed, np.full(steps, np.nan)])
    return Course(
        np.arange(100, 100 + steps), values.astype(np.float32), quantiles.astype(np.float32), np.ones(steps, np.bool_)
    )


def test_the_truth_is_what_came_at_the_horizon() -> None:
    stay = course([1.0, 2.0, np.nan, 4.0, 5.0, 6.0], 0, 10)
    truth = truth_of(stay, MANIFEST)
    np.testing.assert_array_equal(
        truth[:, 0, 0], [2, np.nan, np.nan, 5, 6, np.nan]
    )  # 1 min; unobserved origins do not count
    np.testing.assert_array_equal(truth[:, 0, 1], [6, np.nan, np.nan, np.nan, np.nan, np.nan])  # 5 min
    assert np.isnan(truth[:, 1]).all()


def test_a_step_without_a_forecast_has_no_truth_for_others() -> None:
    stay = course([1.0, 2.0, 3.0, 4.0], 0, 10)
    gap = stay._replace(steps=np.array([100, 101, 103, 104]))
    np.testing.assert_array_equal(truth_of(gap, MANIFEST)[:, 0, 0], [2, np.nan, 4, np.nan])


def test_coverage_width_and_pinball_by_hand() -> None:
    found = measure([course([5.0, 5.0, 20.0, 5.0], 0, 10), course([5.0, 5.0], 0, 10)], MANIFEST)
    assert found.coverage[0, 0, 0] == pytest.approx(3 / 4)
    assert found.by_stay[:, 0, 0, 0].tolist() == [pytest.approx(2 / 3), 1.0]
    assert found.width[0, 0, 0] == 10
    # Of a truth at the median: (0.05 * 5 + 0 + 0.05 * 5) / 3; of one at 20: (0.05 * 20 + 0.5 * 15 + 0.95 * 10) / 3.
    assert found.pinball[0, 0] == pytest.approx((3 * 0.5 / 3 + 18.0 / 3) / 4)
    assert worst_tenth(found, 0.9, 0) == pytest.approx(0.9 - 2 / 3)


def test_a_ward_through_the_worker_s_pipeline_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    rates = (80 + np.random.default_rng(5).integers(-9, 9, 300)).tolist()
    sent = [reading("s", 60 * i - 15_000, {"hr": hr, "abp_mean": 80}) for i, hr in enumerate(rates)]
    found = {}
    for kind in ("none", "adaptive"):
        published = process(new_pipeline(calibration=kind), records(sent)).forecasts
        found[kind] = measure(list(courses_of((value for _, value in published), MANIFEST).values()), MANIFEST)
    before, after = (found[kind].coverage[0, 0, 0] for kind in ("none", "adaptive"))
    assert abs(after - 0.9) < abs(before - 0.9)
    show(found, MANIFEST, Console(width=200))  # type: ignore[arg-type]
    assert "learning from their errors" in capsys.readouterr().out
