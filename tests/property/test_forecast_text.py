"""Forecasts written column by column say what the plain encoder says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stream_worker.forecast_text import ForecastText, Numbers
from stream_worker.outputs import OutputEncoder
from stream_worker.stays import Layout
from tests.arithmetic_model import MANIFEST

V, H, Q = len(MANIFEST.signals), len(MANIFEST.horizons_s), len(MANIFEST.quantile_levels)
ENCODER = OutputEncoder(Layout.of(MANIFEST), "vitals.readings", calibration="adaptive", with_payload=False)


@st.composite
def numbers(draw: st.DrawFn) -> Numbers:
    """The numbers of some forecasts; now and then one that the table has no room for."""
    n = draw(st.integers(1, 5))
    tenths = st.one_of(st.integers(0, 9999), st.sampled_from([0, 9, 10, 99, 1000, 9999]), st.integers(-20, 12_000))
    seconds = st.integers(0, 4 * 10**9).map(lambda s: s * 1_000_000)
    times = st.one_of(seconds, seconds, st.integers(0, 10**15))
    scores = st.one_of(st.just(np.nan), st.integers(0, 1000).map(lambda s: s / 1000))

    def column(shape: tuple[int, ...], elements: st.SearchStrategy[Any], dtype: Any = np.int64) -> Any:
        return draw(arrays.arrays(dtype, shape, elements=elements))

    return Numbers(
        quantiles=column((n, V, H, Q), tenths),
        last=column((n, V), tenths),
        last_at=column((n, V), times),
        observed=column((n, V), st.booleans(), np.bool_),
        scores=column((n, V), scores, np.float64),
        flags=column((n, V), st.booleans(), np.bool_),
    )


@given(numbers())
@settings(max_examples=150)
def test_columns_and_plain_encoder_say_the_same(found: Numbers) -> None:
    fast = [json.loads(b"{%b" % body) for body in ENCODER.bodies(found)]
    assert fast == [json.loads(b"{%b" % body) for body in ENCODER.plain_bodies(found)]


def test_usual_numbers_take_the_fast_way() -> None:
    usual = Numbers(
        quantiles=np.full((1, V, H, Q), 880),
        last=np.full((1, V), 1205),
        last_at=np.full((1, V), 1_763_800_000_123_000),
        observed=np.ones((1, V), np.bool_),
        scores=np.full((1, V), 0.5),
        flags=np.zeros((1, V), np.bool_),
    )
    assert ForecastText.fits(usual).all()
