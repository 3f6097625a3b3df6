"""What the worker publishes is what `evaluate` computes for the same recording."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from model.dataset import from_readings
from model.evaluate import config_of, evaluate
from model.manifest import DEFAULT_ARTIFACT
from model.predictor import Predictor
from schemas.reading import Reading
from schemas.recordings import Row, find_recordings, read_rows
from stream_worker.pipeline import Pipeline
from stream_worker.settings import Settings
from tests.patients import ward
from tests.records import NOW_US, decoded, records

ROWS = 600


def synthetic_rows() -> list[Row]:
    """A stay at one reading a minute with a gap of an hour in it."""
    rows = [Row(datetime.fromisoformat(r["observed_at"]), r["vitals"]) for _, r in ward(1, ROWS)]
    return [*rows[:200], *rows[260:]]


@pytest.fixture(scope="module", params=["synthetic", "recording"])
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """The readings of one stay."""
    if request.param == "synthetic":
        return synthetic_rows()
    folder: Path = request.getfixturevalue("recordings")
    return [row for row in read_rows(find_recordings(folder)[0]) if row.values][:ROWS]


def test_published_quantiles_are_those_of_the_evaluation(rows: list[Row]) -> None:
    predictor = Predictor.load(DEFAULT_ARTIFACT, "cpu")
    config = config_of(predictor.manifest)
    names = [signal.name for signal in config.inputs]
    times = np.array([row.time.timestamp() for row in rows])
    values = np.array([[row.values.get(name, np.nan) for name in names] for row in rows])
    stay = from_readings("s", times, values, config)
    computed = evaluate(predictor, [stay]).forecasts[0]

    pipeline = Pipeline(Settings(calibration="none"), predictor)
    sent = [Reading(stay_id="s", observed_at=row.time, vitals=dict(row.values)) for row in rows]
    result = pipeline.process({0: records(map(msgspec.json.encode, sent))}, NOW_US)[0]
    published = decoded(result.forecasts)

    assert len(published) > ROWS // 2
    compared = 0
    for forecast in published:
        step = int((datetime.fromisoformat(forecast["issued_at"]).timestamp() - times[0]) // config.step_s)
        for v, name in enumerate(config.signals):
            if name in forecast["signals"]:
                _assert_same_to_the_last_digit(forecast["signals"][name]["quantiles"], computed[step, v])
                compared += 1
    assert compared > ROWS


def _assert_same_to_the_last_digit(published: Any, computed: Any) -> None:
    """Rounded to the published 0.1, with room for one ulp of the computed value at a tie."""
    np.testing.assert_allclose(published, computed, rtol=0, atol=0.05 + 2e-4)
