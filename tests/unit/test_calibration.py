"""Bands that learn from their own errors: in order, within bounds, covering what they say, the same after a restart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_worker.calibration import NARROWEST, WIDEST, Calibrator, mean_widening, widened
from tests.records import Changelog, decoded, new_pipeline, process, reading, records

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
NORMAL = np.array([-1.645, -0.674, 0.0, 0.674, 1.645], np.float32)  # quantiles of a normal distribution at LEVELS

rows = st.lists(st.floats(-100, 100, width=32), min_size=5, max_size=5).map(sorted)
widths = st.lists(st.floats(NARROWEST, WIDEST, width=32), min_size=2, max_size=2)


def cell(row: list[float]) -> NDArray[np.float32]:
    return np.array(row, np.float32)[None, None, None]


@given(rows, widths)
def test_widened_bands_stay_in_order_around_their_median(row: list[float], width: list[float]) -> None:
    bands = widened(cell(row), cell(width))[0, 0, 0]
    assert bands.tolist() == sorted(bands.tolist())
    assert bands[2] == np.float32(row[2])


def test_each_band_is_scaled_by_its_own_width_and_none_lies_within_the_one_inside() -> None:
    row = [60.0, 70.0, 75.0, 80.0, 90.0]
    assert widened(cell(row), cell([1.0, 1.0]))[0, 0, 0].tolist() == row
    assert widened(cell(row), cell([2.0, 0.5]))[0, 0, 0].tolist() == [45.0, 72.5, 75.0, 77.5, 105.0]
    assert widened(cell(row), cell([0.25, 2.0]))[0, 0, 0].tolist() == [65.0, 65.0, 75.0, 85.0, 85.0]


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_in_the_long_run_bands_cover_what_they_say(scale: float) -> None:
    """Whatever the spread of what comes, by a factor of two, beside the model's."""
    calibrator, rng = Calibrator(LEVELS), np.random.default_rng(1)
    width, hits = np.ones((1, 2), np.float32), np.zeros(2)
    truths = rng.normal(0, scale, 6000)
    for n, truth in enumerate(truths.tolist()):
        bands = widened(NORMAL[None, None, None], width[:, None, None])[0, 0, 0]
        covered = np.array([[bands[0] <= truth <= bands[4], bands[1] <= truth <= bands[3]]])
        hits += covered[0] * (n >= 1000)
        width = calibrator.moved(width, covered)
    assert hits[0] / 5000 == pytest.approx(0.9, abs=0.01)
    assert hits[1] / 5000 == pytest.approx(0.5, abs=0.01)
    assert width[0] == pytest.approx([scale, scale], rel=0.35)


@given(st.lists(st.booleans(), max_size=300))
def test_widths_keep_their_bounds(hits: list[bool]) -> None:
    calibrator, width = Calibrator(LEVELS), np.ones((1, 2), np.float32)
    for hit in hits:
        width = calibrator.moved(width, np.array([[hit, hit]]))
        assert (width >= NARROWEST).all()
        assert (width <= WIDEST).all()


def test_shift_is_the_mean_over_stays() -> None:
    assert mean_widening(np.full((2, 3, 4, 2), [1.0, 1.5], np.float32))[0, 0].tolist() == [0.0, 0.5]
    assert not mean_widening(np.empty((0, 3, 4, 2), np.float32)).any()


def restless(minutes: int) -> list[bytes]:
    """A stay whose heart rate jumps by more than the arithmetic model's bands are wide."""
    rng = np.random.default_rng(3)
    rates = (80 + rng.integers(-20, 20, minutes)).tolist()
    return [reading("s", 60 * minute, {"hr": hr, "abp_mean": 80}) for minute, hr in enumerate(rates)]


def test_a_band_that_misses_is_wider_from_then_on_and_the_median_is_not_moved() -> None:
    adaptive, plain = (
        decoded(process(new_pipeline(calibration=kind), records(restless(55))).forecasts)
        for kind in ("adaptive", "none")
    )
    assert {message["calibration"] for message in adaptive} == {"adaptive"}
    assert {message["calibration"] for message in plain} == {"none"}
    assert adaptive[3]["signals"] == plain[3]["signals"]  # nothing has come due
    last, last_plain = (messages[-1]["signals"]["hr"]["quantiles"][0] for messages in (adaptive, plain))
    assert last[1] == last_plain[1]
    assert last[2] - last[0] > 1.1 * (last_plain[2] - last_plain[0])


@pytest.mark.parametrize("crash", [7, 20, 33, 54])
def test_what_was_learned_survives_a_restart(crash: int) -> None:
    whole, changelog, first = records(restless(55)), Changelog(), new_pipeline()
    undisturbed = decoded(process(new_pipeline(), whole).forecasts)
    before = process(first, whole[:crash])
    changelog.apply(before)
    after = process(changelog.recover(), whole[crash:])
    assert decoded([*before.forecasts, *after.forecasts]) == undisturbed


def test_what_was_read_often_is_scored_at_every_horizon_and_what_was_not_at_none() -> None:
    values = [{"hr": 80, **({"abp_mean": 80} if minute % 3 == 0 else {})} for minute in range(50)]
    stream = [reading("s", 60 * minute, vitals) for minute, vitals in enumerate(values)]
    found = process(new_pipeline(), records(stream)).scored
    assert found is not None
    of_hr, of_pressure = found.covered.sum(axis=(2, 3))
    assert (of_hr > 0).all()
    assert (of_pressure == 0).all()


def test_a_doubted_value_scores_no_forecast_and_moves_no_band() -> None:
    good = [reading("s", 60 * i, {"hr": 80 + i % 2}) for i in range(30)]
    doubted = [reading("s", 60 * i, {"hr": 200}, quality={"hr": "questionable"}) for i in range(30, 50)]
    without = [reading("s", 60 * i, {"resp": 15}) for i in range(30, 50)]
    tallies, learned = [], []
    for rest in (doubted, without):
        pipeline, changelog = new_pipeline(), Changelog()
        changelog.apply(process(pipeline, records(good)))
        result = process(pipeline, records(rest, first_offset=30))
        changelog.apply(result)
        learned += [each.stays.scoring["width"][each.stays.find(0, "s")] for each in (pipeline, changelog.recover())]
        assert result.scored is not None
        tallies.append(result.scored)
    np.testing.assert_array_equal(tallies[0].covered, tallies[1].covered)
    np.testing.assert_array_equal(tallies[0].absolute_error, tallies[1].absolute_error)
    assert all((width == learned[0]).all() for width in learned)
