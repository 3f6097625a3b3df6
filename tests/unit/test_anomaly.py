"""The anomaly score: how distances become probabilities, and what a reading after calm ones is told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from stream_worker import anomaly
from stream_worker.anomaly import FLAG_SCORE, LEVELS, Scale
from tests.arithmetic_model import ArithmeticPredictor
from tests.records import decoded, new_pipeline, process, reading, records

SIGNALS = ("hr", "spo2", "abp_mean", "never_heard_of")
SCALE = Scale.of(SIGNALS)
PRECISION = np.full(len(SIGNALS), 0.1)

distances = arrays(np.float64, (7, len(SIGNALS)), elements=st.floats(0, 1e9))
quantiles = arrays(np.float64, (7, len(SIGNALS), 5), elements=st.floats(-400, 400)).map(lambda q: np.sort(q, axis=2))
values = arrays(np.float64, (7, len(SIGNALS)), elements=st.one_of(st.just(np.nan), st.floats(-400, 400)))
stills = arrays(np.int64, (7, len(SIGNALS)), elements=st.integers(0, 10**9))


@given(distances)
def test_a_longer_distance_never_scores_less(distance: np.ndarray[Any, Any]) -> None:
    scores = anomaly.score(np.sort(distance, axis=0), SCALE)
    assert (np.diff(scores, axis=0) >= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()


@given(quantiles, values, stills)
def test_any_value_has_a_score_and_only_values_have(
    expected: np.ndarray[Any, Any], shown: np.ndarray[Any, Any], still: np.ndarray[Any, Any]
) -> None:
    scores = anomaly.score(anomaly.distances(expected, shown, still, PRECISION, SCALE), SCALE)
    assert (np.isnan(scores) == np.isnan(shown)).all()
    assert np.isfinite(scores[~np.isnan(shown)]).all()


def test_the_distances_of_the_table_score_what_it_says() -> None:
    at_level = np.expm1(SCALE.distance[:, 1 : 1 + len(LEVELS)]).T
    assert np.allclose(anomaly.score(at_level, SCALE), 1 - np.array(LEVELS)[:, None])
    assert (anomaly.score(np.zeros((1, len(SIGNALS))), SCALE) == 0).all()


@given(arrays(np.float64, (7, len(SIGNALS)), elements=st.floats(0, 50)))
def test_a_score_tells_its_distance(distance: np.ndarray[Any, Any]) -> None:
    assert np.allclose(anomaly.distance_of(anomaly.score(distance, SCALE), SCALE), distance, rtol=1e-6, atol=1e-9)


def test_a_step_of_precision_is_no_anomaly_however_sure_the_forecast_was() -> None:
    certain = np.full((1, len(SIGNALS), 5), 80.0)
    distance = anomaly.distances(
        certain, np.full((1, len(SIGNALS)), 80.1), np.zeros((1, 4), np.int64), PRECISION, SCALE
    )
    assert (anomaly.score(distance, SCALE) < 0.95).all()


def test_what_matters_is_the_band_on_the_side_of_the_value() -> None:
    skewed = np.tile([60.0, 78.0, 80.0, 81.0, 82.0], (1, len(SIGNALS), 1))
    below, above = (
        anomaly.distances(skewed, np.full((1, 4), value), np.zeros((1, 4), np.int64), PRECISION, SCALE)
        for value in (70.0, 90.0)
    )
    assert (below < above).all()


# --- through the pipeline: values around 80, and then ---


class LastValue(ArithmeticPredictor):
    """Expects the last value again, within 3 to either side."""

    def step(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The quantiles are the same for all horizons."""
        after = state.clone()
        after[:, 1:4] = torch.where(observed.bool(), x, state[:, 1:4])
        centre = after[:, [1, 3]][:, :, None, None]
        return (centre + torch.tensor([-3.0, 0.0, 3.0])).expand(-1, 2, 3, 3), after


CALM = [80.0 + 0.7 * (-1) ** minute + 0.1 * (minute % 5) for minute in range(30)]


def scored(pressures: list[float | None]) -> list[dict[str, Any] | None]:
    """What is said of each mean pressure, one a minute; None: it was not scored."""
    rows = [{"hr": 70.0} if p is None else {"hr": 70.0, "abp_mean": p} for p in pressures]
    result = process(new_pipeline(LastValue()), records(reading("a", 60 * i, vitals) for i, vitals in enumerate(rows)))
    return [message["anomalies"].get("abp_mean") for message in decoded(result.forecasts)]


def test_calm_readings_are_not_flagged_and_the_first_is_not_scored() -> None:
    found = scored(list(CALM))
    assert found[0] is None
    assert all(a is not None and not a["flag"] and a["score"] < 0.9 for a in found[1:])


def test_a_missing_value_is_not_scored() -> None:
    found = scored([*CALM, None, CALM[-1]])
    assert found[-2] is None
    assert found[-1] is not None


def test_a_spike_is_flagged_at_once() -> None:
    *_, before, at = scored([*CALM, 140.0])
    assert before is not None
    assert at is not None
    assert (before["flag"], at["flag"]) == (False, True)


def test_a_step_is_flagged_when_it_comes_and_then_is_the_new_normal() -> None:
    found = scored([*CALM, *(value + 60 for value in CALM)])
    assert [minute for minute, a in enumerate(found) if a is not None and a["flag"]] == [len(CALM)]


def test_a_flatline_is_flagged_the_longer_it_lasts() -> None:
    flat = [a for a in scored([*CALM, *[CALM[-1]] * 40])[len(CALM) :] if a is not None]
    scores = [a["score"] for a in flat]
    assert scores[:3] == [0.0] * 3  # a monitor of whole numbers does that all the time
    assert scores[2:] == sorted(scores[2:])
    flags = [a["flag"] for a in flat]
    assert flags.index(True) <= 20
    assert all(flags[flags.index(True) :])


def test_a_value_after_a_break_has_not_stood_still() -> None:
    stood = [80.0] * 10
    found = scored([*CALM, *stood, *[None] * 6, 80.0])
    assert found[-1] is not None
    assert found[-1]["score"] < 0.1


@pytest.mark.parametrize("score", [0.5, 0.998, FLAG_SCORE])
def test_normal_readings_exceed_a_score_as_often_as_it_says(score: float) -> None:
    # Distances spread as the table says: a draw by each of its levels' inverse.
    shares = np.random.default_rng(0).uniform(size=(200_000, len(SIGNALS)))
    distance = anomaly.distance_of(1 - shares, SCALE)
    found = (anomaly.score(distance, SCALE) > score).mean()
    assert found == pytest.approx(1 - score, rel=0.2)


def test_columns_of_scores_do_not_depend_on_each_other() -> None:
    distance = np.array([[0.5, 1.0, 2.0, 4.0]])
    together = anomaly.score(distance, SCALE)[0]
    alone = [anomaly.score(distance[:, [v]], Scale.of((name,)))[0, 0] for v, name in enumerate(SIGNALS)]
    assert json.dumps(together.tolist()) == json.dumps(alone)
