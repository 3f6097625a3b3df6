"""The stays' columns: room for more, nothing left behind, and state of another model or encoding."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from model.steps import NEVER_S
from stream_worker.pipeline import Pipeline
from stream_worker.state_command import describe_state
from stream_worker.stays import BODY, HEAD, PARTITION
from stream_worker.times import NEVER
from tests.arithmetic_model import MANIFEST, ArithmeticPredictor
from tests.records import NOW_US, Changelog, decoded, event, new_pipeline, process, reading, records


def minutes(stay_id: str, first: int, last: int) -> list[bytes]:
    return [reading(stay_id, 60 * i, {"hr": 80 + i % 3, "abp_mean": 70}) for i in range(first, last)]


def recovered_with(manifest: Any, changelog: Changelog) -> tuple[Pipeline, int]:
    """A new process whose model has `manifest`; and how many stays it cannot use."""
    predictor = ArithmeticPredictor()
    predictor.manifest = manifest
    pipeline = new_pipeline(predictor)
    return pipeline, pipeline.stays.load(0, dict(changelog.newest))


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


def test_forecasts_that_have_come_due_are_not_shown_as_waiting() -> None:
    layout = new_pipeline().stays.layout
    for last_minute, is_waiting in ((30, True), (60, False)):  # after a gap of its window nothing is kept
        changelog = changelog_of(*minutes("s", 0, 30), *minutes("s", last_minute, last_minute + 1))
        shown = describe_state(layout, "s", 0, changelog.newest)
        assert (shown["forecasts_to_be_scored"] > 0) == is_waiting


def test_a_slot_that_is_used_again_remembers_nothing() -> None:
    pipeline, old = new_pipeline(), [*minutes("old", 0, 30), event("old", 1800, "ended")]
    process(pipeline, records(old))  # long enough to have forecasts that are not due yet
    fresh, used = new_pipeline(), process(pipeline, records(minutes("new", 0, 5), first_offset=31))
    reference = process(fresh, records(minutes("new", 0, 5), first_offset=31))
    assert decoded(used.forecasts) == decoded(reference.forecasts)
    # What the partition's stays share knows of both.
    assert {**used.state, PARTITION: None} == {**reference.state, PARTITION: None}


def test_the_state_of_another_model_is_primed_from_the_window() -> None:
    pressure = {"abp_mean": 70}  # every other minute
    changelog = changelog_of(
        *(reading("s", 60 * i, {"hr": 80 + i % 3, **(pressure if i % 2 else {})}) for i in range(30))
    )
    pipeline, lost = recovered_with(msgspec.structs.replace(MANIFEST, sha256="cd" * 32), changelog)
    assert lost == 0
    assert pipeline.chain.prime_outdated() == 1
    assert pipeline.chain.prime_outdated() == 0
    slot = pipeline.stays.find(0, "s")
    steps, hr, _, _, unobserved_s = pipeline.stays.body["state32"][slot]
    assert steps == MANIFEST.context_steps  # it has seen the window, no more and no less
    assert hr == 80 + 27 % 3  # the last closed step: two are open
    assert unobserved_s == (4 * 60 + 11 * NEVER_S) % 1024  # pressure, once before its first; saturation, always
    after = decoded(process(pipeline, records(minutes("s", 30, 31), first_offset=30)).forecasts)
    assert after[0]["signals"]["hr"]["last"] == 80


def test_a_stay_without_any_input_yet_is_where_it_began_after_a_restart_too() -> None:
    values = [reading("s", at, {"nibp_sys": 120}) for at in (0, 60, 120)]
    values += [reading("s", at, {"hr": 80, "abp_mean": 80}) for at in (200, 260)]
    for restarts in ({0}, {2}, {0, 1, 2}):
        undisturbed, pipeline, changelog = new_pipeline(), new_pipeline(), Changelog()
        for record in records(values):
            expected, found = process(undisturbed, [record]), process(pipeline, [record])
            assert decoded(found.forecasts) == decoded(expected.forecasts)
            assert found.state == expected.state
            changelog.apply(found)
            if record.offset in restarts:
                pipeline = changelog.recover()


class LargerPredictor(ArithmeticPredictor):
    """The same arithmetic in a larger state."""

    manifest = msgspec.structs.replace(MANIFEST, sha256="cd" * 32, state_float32=9)

    def initial_state(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, 11)

    def step(self, x: Any, observed: Any, elapsed: Any, state: Any) -> Any:
        own, rest = torch.cat([state[:, :5], state[:, 9:]], dim=1), state[:, 5:9]
        quantiles, after = super().step(x, observed, elapsed, own)
        return quantiles, torch.cat([after[:, :5], rest, after[:, 5:]], dim=1)


def test_a_change_of_the_model_is_as_a_restart_with_the_other_one() -> None:
    other: Any = LargerPredictor()
    changelog, pipeline = Changelog(), new_pipeline()
    changelog.apply(process(pipeline, records(minutes("s", 0, 30))))
    assert pipeline.change_model(other) == 1
    slot = pipeline.stays.find(0, "s")
    assert (pipeline.stays.scoring["due"][slot] == NEVER).all()  # the other's forecasts are not this one's to be scored
    restarted = new_pipeline(other)
    assert restarted.stays.load(0, dict(changelog.newest)) == 0
    assert restarted.chain.prime_outdated() == 1
    next_minutes = records(minutes("s", 30, 40), first_offset=30)
    after, expected = process(pipeline, next_minutes), process(restarted, next_minutes)
    assert decoded(after.forecasts) == decoded(expected.forecasts)
    assert {f["model"]["sha256"] for f in decoded(after.forecasts)} == {"cd" * 6}
    assert after.state == expected.state


@pytest.mark.parametrize(
    "first",
    [
        event("s", 1800, "limits", limits={"hr": {"high": None}}),
        reading("s", 1800, {"hr": 80, "abp_mean": 70}),  # opens a step, so that its forecast is kept, and closes none
    ],
    ids=["an event", "a reading"],
)
def test_what_a_change_of_the_model_resets_is_stored_with_the_model_whatever_comes_first(first: bytes) -> None:
    other: Any = LargerPredictor()
    changelog, pipeline = Changelog(), new_pipeline()
    changelog.apply(process(pipeline, records([*minutes("s", 0, 30), reading("s", 1785, {"hr": 80, "abp_mean": 70})])))
    pipeline.change_model(other)
    changelog.apply(process(pipeline, records([first], first_offset=31)))
    restarted = new_pipeline(other)
    assert restarted.stays.load(0, dict(changelog.newest)) == 0
    restarted.chain.prime_outdated()
    scorings = [each.stays.scoring[each.stays.find(0, "s")] for each in (pipeline, restarted)]
    assert scorings[0] == scorings[1]


def test_a_model_for_another_task_is_refused_and_changes_nothing() -> None:
    other: Any = LargerPredictor()
    other.manifest = msgspec.structs.replace(other.manifest, horizons_s=(60, 120))
    pipeline, undisturbed = new_pipeline(), new_pipeline()
    for each in (pipeline, undisturbed):
        process(each, records(minutes("s", 0, 30)))
    with pytest.raises(ValueError, match="horizons"):
        pipeline.change_model(other)
    next_minutes = records(minutes("s", 30, 40), first_offset=30)
    assert decoded(process(pipeline, next_minutes).forecasts) == decoded(process(undisturbed, next_minutes).forecasts)


def test_the_records_of_another_task_are_not_guessed_at() -> None:
    changelog = changelog_of(*minutes("s", 0, 30))
    _, lost = recovered_with(msgspec.structs.replace(MANIFEST, quantile_levels=(0.1, 0.5, 0.9)), changelog)
    assert lost == 1


def test_a_pipeline_that_does_not_publish_is_scored_like_one_that_does() -> None:
    live, silent = (
        process(new_pipeline(publishes=publishes), records(minutes("s", 0, 50))) for publishes in (True, False)
    )
    assert live.scored is not None
    assert silent.scored is not None
    assert live.scored.covered.any()
    np.testing.assert_array_equal(silent.scored.covered, live.scored.covered)
    assert not silent.forecasts
    assert not silent.alerts
    assert set(silent.state) == {PARTITION}


def test_a_state_of_an_unknown_encoding_is_not_guessed_at() -> None:
    for kind in (HEAD, BODY):
        changelog = changelog_of(*minutes("s", 0, 30))
        changelog.newest[kind + b"s"] = b"\xff" + changelog.newest[kind + b"s"][1:]
        pipeline, lost = recovered_with(MANIFEST, changelog)
        assert lost == 1
        (forecast,) = decoded(process(pipeline, records(minutes("s", 30, 31), first_offset=30)).forecasts)
        assert forecast["issued_at"].endswith("11:30:00Z")


def test_a_stay_whose_id_is_not_utf_8_is_not_guessed_at() -> None:
    changelog = changelog_of(*minutes("s", 0, 30))
    for kind in (HEAD, BODY):
        changelog.newest[kind + b"\xff"] = changelog.newest[kind + b"s"]
    assert recovered_with(MANIFEST, changelog)[1] == 1


def test_head_and_body_of_different_steps_are_not_joined() -> None:
    changelog, older = changelog_of(*minutes("s", 0, 30)), changelog_of(*minutes("s", 0, 20))
    changelog.newest[BODY + b"s"] = older.newest[BODY + b"s"]
    _, lost = recovered_with(MANIFEST, changelog)
    assert lost == 1


def test_what_the_stays_of_a_partition_share_is_not_guessed_at_either() -> None:
    for shared in (b"\xc1", msgspec.msgpack.encode({"encoding": 99, "next_offset": 5})):
        changelog = changelog_of(*minutes("s", 0, 3))
        changelog.newest[PARTITION] = shared
        assert recovered_with(MANIFEST, changelog)[1] == 1


def rows_of(pipeline: Pipeline) -> dict[str, bytes]:
    """All that is kept of the stay "s", stored or derived."""
    stays, slot = pipeline.stays, pipeline.stays.find(0, "s")
    return {name: getattr(stays, name)[slot].tobytes() for name in ("head", "body", "scoring", "is_filled")}


def test_a_stay_that_began_anew_does_so_for_a_restart_too() -> None:
    changelog, pipeline = Changelog(), new_pipeline()
    long_after = records(minutes("s", 1000, 1001), first_offset=90)
    for chunk in (records(minutes("s", 0, 90)), long_after):
        changelog.apply(pipeline.process({0: chunk}, NOW_US + 10**12)[0])
    assert rows_of(pipeline) == rows_of(changelog.recover())


@pytest.mark.parametrize("newest", [29, 34])  # within the grace: the minute before it is open still
def test_minutes_without_readings_before_the_newest_are_missing_after_a_restart_too(newest: int) -> None:
    changelog, pipeline = Changelog(), new_pipeline()
    values = [*minutes("s", 0, 28), reading("s", 60 * newest + 5, {"hr": 80})]
    changelog.apply(process(pipeline, records(values)))
    assert rows_of(pipeline) == rows_of(changelog.recover())


def test_a_model_of_any_one_signal_is_served() -> None:
    value = msgspec.structs.replace(MANIFEST.inputs[0], name="value", unit="1", low=-500, high=90_000, precision=0.01)
    manifest = msgspec.structs.replace(MANIFEST, inputs=(value,), signals=("value",))

    class OneSignal(ArithmeticPredictor):
        def step(self, x: Any, observed: Any, elapsed: Any, state: Any) -> Any:
            centre = np.float32(1) * x[:, 0]
            return centre[:, None, None, None].repeat(1, 1, 3, 3), state

    predictor = OneSignal()
    predictor.manifest = manifest
    sent = [reading("s", 60 * i, {"value": -1.25 + 1000 * i}) for i in range(5)]
    result = process(new_pipeline(predictor), records(sent))
    told = [f["signals"]["value"]["last"] for f in decoded(result.forecasts)]
    assert told == [-1.25, 998.75, 1998.75, 2998.75, 3998.75]


def test_a_partition_is_forgotten_with_what_its_stays_share() -> None:
    pipeline = new_pipeline()
    for partition in (0, 1):
        process(pipeline, records(minutes("s", 0, 3)), partition)
    pipeline.stays.forget(0)
    assert (len(pipeline.stays), pipeline.stays.find(0, "s"), list(pipeline.stays.next_offsets)) == (1, None, [1])


def test_what_the_stays_of_a_partition_share_names_the_topic_that_an_earlier_version_did_not_name() -> None:
    changelog = changelog_of(*minutes("s", 0, 3))
    assert changelog.recover().stays.topics == {0: "vitals.readings"}
    shared = msgspec.msgpack.decode(changelog.newest[PARTITION])
    shared.pop("topic")
    changelog.newest[PARTITION] = msgspec.msgpack.encode(shared)
    stays = changelog.recover().stays
    assert (stays.next_offsets, stays.topics) == ({0: 3}, {})
