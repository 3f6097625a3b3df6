"""The probability behind a forecast alert: pooled over horizons, sound in its tails, never missed by the quick look."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.alerts.outlook import highest_outlooks, log_odds, outlooks, probability_of

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
rows = st.lists(st.integers(500, 900), min_size=5, max_size=5).map(lambda quanta: sorted(q / 10 for q in quanta))
forecasts = st.lists(rows, min_size=1, max_size=5)


def pooled(quantiles: list[list[float]], limit: float = 65, side: str = "low") -> float:
    return float(outlooks(np.array([quantiles], float), LEVELS, np.array([limit]), side)[0])


def test_certainty_has_infinite_odds_of_either_kind() -> None:
    assert (log_odds(0.0), log_odds(0.5), log_odds(1.0)) == (-inf, 0.0, inf)


@pytest.mark.parametrize(("limit", "share"), [(60, 0.05), (70, 0.25), (72.5, 0.375), (75, 0.5), (80, 0.75), (90, 0.95)])
def test_at_a_quantile_the_probability_is_its_level(limit: float, share: float) -> None:
    assert pooled([[60, 70, 75, 80, 90]], limit) == pytest.approx(log_odds(share))
    assert pooled([[60, 70, 75, 80, 90]], limit, "high") == pytest.approx(-log_odds(share))


def test_one_horizon_does_not_speak_for_all() -> None:
    near, calm = [55.0, 60, 64, 70, 75], [70.0, 72, 75, 78, 80]
    assert pooled([near, near]) > pooled([near, calm]) > pooled([calm, calm])


@given(forecasts)
def test_the_higher_a_low_limit_the_likelier_it_is_crossed(quantiles: list[list[float]]) -> None:
    chances = [pooled(quantiles, limit) for limit in np.arange(45, 95, 0.5).tolist()]
    assert all(lower <= higher + 1e-9 for lower, higher in pairwise(chances))


@given(forecasts, st.sampled_from([60.0, 65.0, 70.0]))
def test_the_quick_look_never_gives_less_than_the_rule(quantiles: list[list[float]], limit: float) -> None:
    low, high = highest_outlooks(LEVELS)
    below = low[[sum(q < limit for q in row) for row in quantiles]].mean()
    above = high[[sum(q >= limit for q in row) for row in quantiles]].mean()
    assert pooled(quantiles, limit) <= below + 1e-6
    assert pooled(quantiles, limit, "high") <= above + 1e-6


def test_what_is_likelier_is_said_to_be() -> None:
    chances = [probability_of(ahead) for ahead in np.linspace(-7, 7, 29).tolist()]
    assert chances == sorted(chances)
    assert all(0 < chance < 0.5 for chance in chances)  # no surer than what came true
