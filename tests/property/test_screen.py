"""The screen passes over nothing that a rule would have noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings

from model.arrays import Bools
from stream_worker.alerts.observation import Accepted
from stream_worker.alerts.screen import AlertScreen
from stream_worker.columns import Readings
from stream_worker.pipeline import Pipeline
from stream_worker.settings import Settings
from stream_worker.times import NEVER
from tests.property.courses import wards
from tests.records import decoded, new_pipeline, process, records


class LooksAtAll(AlertScreen):
    """Runs the rules on every reading."""

    def _may_change(self, readings: Readings, accepted: Accepted, values: Any) -> Bools:
        return np.ones(len(accepted.rows), np.bool_)


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


@given(wards())
@settings(max_examples=60, deadline=None)
def test_the_rules_on_every_reading_find_what_they_find_on_those_looked_at(stream: list[bytes]) -> None:
    screened, thorough = new_pipeline(), new_pipeline()
    thorough.screen = LooksAtAll(Settings(), thorough.stays)
    found, expected = (process(pipeline, records(stream)) for pipeline in (screened, thorough))
    assert decoded(found.alerts) == decoded(expected.alerts)
    assert found.alerts_held == expected.alerts_held
    assert entries_of(screened) == entries_of(thorough)
