"""The screen passes over nothing that a rule would have noticed."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.arrays import Bools, Floats, Ints
from stream_worker.alerts.observation import Accepted
from stream_worker.alerts.screen import AlertScreen
from stream_worker.columns import Readings
from stream_worker.pipeline import Pipeline
from stream_worker.settings import Settings
from stream_worker.times import NEVER
from tests.arithmetic_model import ArithmeticPredictor, TrendPredictor
from tests.property.courses import ODD, calm_course, calm_wards, wards
from tests.records import decoded, new_pipeline, process, records

UNITS: Any = {
    "icu-2": {"abp_mean": {"low": 72, "forecast_probability": 0.3}, "hr": {"high": 110}, "temp": {"high": 38}}
}


class LooksAtAll(AlertScreen):
    """Runs all rules on every reading."""

    def _may_change(self, readings: Readings, accepted: Accepted, values: Any) -> Bools:
        return np.ones(len(accepted.rows), np.bool_)

    def _reaches_limit(self, values: Floats, quantiles: Ints, _profiles: Any) -> Bools:
        return np.ones(values.shape, np.bool_)


class LooksAtNone(AlertScreen):
    """Must not come to run the rules."""

    def _look(self, *_: Any) -> NoReturn:
        raise AssertionError("a calm reading was looked at")


def entries_of(pipeline: Pipeline) -> dict[str, dict[Any, Any]]:
    """What the stays remember of their alerts, but for rests: the screen lets those lie that nothing asks for."""
    stays = pipeline.stays
    return {
        stays.ids[slot]: {
            key: entry
            for key, entry in stays.extras[slot].alerts.items()
            if entry.since_us != NEVER or entry.known is not None
        }
        for slot in stays.in_partition(0).tolist()
    }


def assert_same_findings(stream: list[bytes], chunk: int, predictor: Any) -> None:
    """Chunk by chunk, the rules on every reading find what they find on those that are looked at."""
    screened, thorough = (new_pipeline(predictor, limits=UNITS) for _ in range(2))
    thorough.screen = LooksAtAll(Settings(limits=UNITS), thorough.stays)
    whole = records(stream)
    for first in range(0, len(whole), chunk):
        part = whole[first : first + chunk]
        found, expected = (process(pipeline, part) for pipeline in (screened, thorough))
        assert decoded(found.alerts) == decoded(expected.alerts)
        assert found.alerts_held == expected.alerts_held
        assert entries_of(screened) == entries_of(thorough)


@given(wards())
@settings(max_examples=60)
def test_the_rules_on_every_reading_find_what_they_find_on_those_looked_at(stream: list[bytes]) -> None:
    assert_same_findings(stream, len(stream), ArithmeticPredictor())


@given(calm_wards(), st.sampled_from([6, 50]))
@settings(max_examples=30)
def test_nothing_that_begins_in_a_calm_ward_is_passed_over(stream: list[bytes], chunk: int) -> None:
    assert_same_findings(stream, chunk, TrendPredictor())


@pytest.mark.parametrize("every_s", [300, 60, 15])
@pytest.mark.parametrize("odd", sorted(ODD))
def test_nothing_odd_that_is_alone_is_passed_over(odd: str, every_s: int) -> None:
    parts = [((odd, 30, every_s), 1000.0), (("nothing", 5, 60), None)]
    assert_same_findings([record for _, record in calm_course("s", parts)], 6, TrendPredictor())


@pytest.mark.parametrize("own_limits", [None, {"abp_mean": {"low": 70}}])
def test_what_is_calm_is_passed_over(own_limits: Any) -> None:
    pipeline = new_pipeline(TrendPredictor())
    pipeline.screen = LooksAtNone(Settings(), pipeline.stays)
    parts = [(("nothing", 30, every_s), own_limits) for every_s in (15, 60, 300, 60, 15)]
    process(pipeline, records(record for _, record in calm_course("s", parts)))
