"""The stays' columns: room for more, nothing left behind, and state of another model or encoding."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from stream_worker.pipeline import Pipeline
from stream_worker.settings import Settings
from stream_worker.stays import BODY, HEAD, Stays
from tests.arithmetic_model import MANIFEST, ArithmeticPredictor
from tests.records import NOW_US, Changelog, decoded, event, new_pipeline, process, reading, records


def minutes(stay_id: str, first: int, last: int) -> list[bytes]:
    return [reading(stay_id, 60 * i, {"hr": 80 + i % 3, "abp_mean": 70}) for i in range(first, last)]


def recovered_with(manifest: Any, changelog: Changelog) -> tuple[Pipeline, int]:
    """A new process whose model has `manifest`; and how many stays had to start anew."""
    predictor: Any = ArithmeticPredictor()
    predictor.manifest = manifest
    stays = Stays(manifest, predictor.initial_state(1))
    pipeline = Pipeline(Settings(min_observed_steps=1), predictor, stays)
    return pipeline, stays.load(0, dict(changelog.newest))


def changelog_of(*values: bytes) -> Changelog:
    changelog = Changelog()
    changelog.apply(process(new_pipeline(), records(values)))
    return changelog


def test_hundreds_of_stays_keep_their_state_while_room_is_made() -> None:
    pipeline = new_pipeline()
    values = [reading(f"s-{stay}", 60 * i, {"hr": 50 + stay % 100}) for i in range(2) for stay in range(700)]
    forecasts = decoded(process(pipeline, records(values)).forecasts)
    assert len(pipeline.stays) == 700
    assert [f["signals"]["hr"]["last"] for f in forecasts[700:]] == [50 + stay % 100 for stay in range(700)]


def test_a_slot_that_is_used_again_remembers_nothing() -> None:
    pipeline = new_pipeline()
    process(pipeline, records([*minutes("old", 0, 5), event("old", 300, "ended")]))
    fresh, used = new_pipeline(), process(pipeline, records(minutes("new", 0, 5), first_offset=6))
    reference = process(fresh, records(minutes("new", 0, 5), first_offset=6))
    assert decoded(used.forecasts) == decoded(reference.forecasts)
    assert used.state == reference.state


def test_the_state_of_another_model_is_primed_from_the_window() -> None:
    changelog = changelog_of(*minutes("s", 0, 30))
    pipeline, lost = recovered_with(msgspec.structs.replace(MANIFEST, sha256="cd" * 32), changelog)
    assert lost == 0
    assert pipeline.chain.prime_outdated() == 1
    assert pipeline.chain.prime_outdated() == 0
    slot = pipeline.stays.find(0, "s")
    steps, hr = pipeline.stays.body["state32"][slot][:2]
    assert steps == MANIFEST.context_steps  # it has seen the window, no more and no less
    assert hr == 80 + 27 % 3  # the last closed step: two are open
    after = decoded(process(pipeline, records(minutes("s", 30, 31), first_offset=30)).forecasts)
    assert after[0]["signals"]["hr"]["last"] == 80


def test_a_state_of_an_unknown_encoding_is_not_guessed_at() -> None:
    for kind in (HEAD, BODY):
        changelog = changelog_of(*minutes("s", 0, 30))
        changelog.newest[kind + b"s"] = b"\xff" + changelog.newest[kind + b"s"][1:]
        pipeline, lost = recovered_with(MANIFEST, changelog)
        assert lost == 1
        (forecast,) = decoded(process(pipeline, records(minutes("s", 30, 31), first_offset=30)).forecasts)
        assert forecast["issued_at"].endswith("11:30:00Z")


def test_head_and_body_of_different_steps_are_not_joined() -> None:
    changelog, older = changelog_of(*minutes("s", 0, 30)), changelog_of(*minutes("s", 0, 20))
    changelog.newest[BODY + b"s"] = older.newest[BODY + b"s"]
    _, lost = recovered_with(MANIFEST, changelog)
    assert lost == 1


def test_a_model_of_any_one_signal_is_served() -> None:
    value = msgspec.structs.replace(MANIFEST.inputs[0], name="value", unit="1", low=-500, high=90_000, precision=0.01)
    manifest = msgspec.structs.replace(MANIFEST, inputs=(value,), signals=("value",))

    class OneSignal(ArithmeticPredictor):
        def step(self, x: Any, observed: Any, elapsed: Any, state: Any) -> Any:
            centre = np.float32(1) * x[:, 0]
            return centre[:, None, None, None].repeat(1, 1, 3, 3), state

    predictor: Any = OneSignal()
    predictor.manifest = manifest
    pipeline = Pipeline(Settings(), predictor, Stays(manifest, predictor.initial_state(1)))
    sent = [reading("s", 60 * i, {"value": -1.25 + 1000 * i}) for i in range(5)]
    result = pipeline.process({0: records(sent)}, NOW_US)[0]
    assert [f["signals"]["value"]["last"] for f in decoded(result.forecasts)] == [
        -1.25,
        998.75,
        1998.75,
        2998.75,
        3998.75,
    ]
