"""Where a partition's state was unusable, that of the shadow model was not forgotten: it missed the readings."""

from __future__ import annotations

import faust

from stream_worker.stay_store import StayStore
from stream_worker.stays import HEAD
from tests.records import Changelog, new_pipeline, process, reading, records


def test_the_shadow_begins_anew_with_the_state_of_the_first() -> None:
    changelog, app = Changelog(), faust.App("app", broker="memory://")
    both = [reading(stay, 60 * minute, {"hr": 80}) for minute in range(30) for stay in ("good", "harmed")]
    changelog.apply(process(new_pipeline(), records(both)))
    changelog.newest[HEAD + b"harmed"] = b"\xff" + changelog.newest[HEAD + b"harmed"][1:]

    live, shadow = new_pipeline(), new_pipeline(publishes=False)
    store = StayStore(app, app.Table("stays"), live.stays, shadow.stays, lambda *_: None)
    store.forget_all()
    store.load(0, changelog.newest.items())
    store.on_loaded(frozenset({0}), 0.0)

    assert process(shadow, records(both)).outcomes == {"accepted": 60}  # made again, like the first
    assert len(live.stays) == 0
