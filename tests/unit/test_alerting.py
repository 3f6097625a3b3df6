"""The life of an alert: raised, updated, cleared; once each, in order, with its reason."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.signals import VITALS_BY_NAME, Signal
from stream_worker.alerts.words import SENTENCES
from stream_worker.pipeline import LOG_APPEND_TIME, ChunkResult, Pipeline
from stream_worker.state_command import describe_state
from tests.arithmetic_model import INPUTS, MANIFEST, ArithmeticPredictor, TrendPredictor
from tests.records import NOW_US, Changelog, FakeRecord, decoded, event, new_pipeline, process, reading, records

CALM = {"hr": 80, "abp_mean": 80, "spo2": 97}


def run(*values: bytes, pipeline: Pipeline | None = None) -> list[dict[str, Any]]:
    """The alerts that a stream leaves."""
    return decoded(process(pipeline or new_pipeline(), records(values)).alerts)


def minutes(stay_id: str, *pressures: float, start: int = 0, **more: Any) -> list[bytes]:
    """One reading a minute of a mean pressure; the rest is calm, and no value repeats for long."""
    return [
        reading(stay_id, 60 * (start + i), {**CALM, "hr": 80 + i % 2, "abp_mean": pressure + (i % 2) / 10}, **more)
        for i, pressure in enumerate(pressures)
    ]


def states(alerts: list[dict[str, Any]], kind: str) -> list[tuple[str, int, str, str | None]]:
    """State, revision, priority and clear reason of the alerts of a kind."""
    return [(a["state"], a["revision"], a["priority"], a["clear_reason"]) for a in alerts if a["kind"] == kind]


def technical(alerts: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """State, signal and cause of the technical alerts."""
    return [(a["state"], a["signal"], a["cause"]) for a in alerts if a["kind"] == "technical"]


def test_a_mild_excursion_is_raised_after_its_delay_and_cleared_when_it_has_recovered() -> None:
    #        | below 65 for 5 min    | back for 10
    alerts = run(*minutes("s", 80, *[60] * 6, *[75] * 11))
    assert states(alerts, "limit") == [("raised", 0, "medium", None), ("cleared", 1, "medium", "recovered")]
    raised, cleared = (a for a in alerts if a["kind"] == "limit")
    assert raised["alert_id"] == cleared["alert_id"] == "vitals.readings-0-5-limit-abp_mean-low"
    assert raised["since"] == cleared["since"]
    assert "below 65 mmHg" in raised["message"]
    assert raised["evidence"]["limit"] == 65


@pytest.mark.parametrize(("pressure", "raised"), [(65, []), (50, [("raised", 0, "medium", None)])])
def test_a_value_at_its_limit_is_not_beyond_it(pressure: int, raised: list[object]) -> None:
    values = [reading("s", 60 * i, {**CALM, "hr": 80 + i % 2, "abp_mean": pressure}) for i in range(10)]
    assert states(run(*values), "limit") == raised


def test_each_kind_rests_on_what_the_documents_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z].*) \| (`[a-z].*|-) \|$", page.partition("| `message_key` |")[2], re.MULTILINE)
    names = re.compile(r"`([a-z0-9_.]+)`").findall
    said = {key: set(names(evidence)) for keys, evidence in rows for key in names(keys)}
    assert said.keys() == {key for key in SENTENCES if key != "cleared" and not key.endswith(".inside")}

    def an_hour(*start: Mapping[str, float], then: Mapping[str, float]) -> list[bytes]:
        every_minute = [*start, *[then] * (65 - len(start))]
        return [reading("s", 60 * (i - 65), {"resp": 15 + i % 2, **vitals}) for i, vitals in enumerate(every_minute)]

    streams = [
        # Both limits; the pressure stands still, the saturation is missing.
        an_hour({"spo2": 97}, then={"hr": 140, "abp_mean": 60}),
        an_hour({"hr": 80}, then={"hr": 300, "pulse": 80}),
        an_hour(then={"hr": 80, "pulse": 110}),
        [*an_hour(then={"spo2": 80}), reading("s", 3600)],  # NEWS2; then a silence
        minutes("s", *range(80, 66, -1)),
        [reading("s", 60 * i, {"hr": 100 + 2 * i}) for i in range(15)],
        [reading("s", 60 * i, {**CALM, "hr": rate}) for i, rate in enumerate([80] * 5 + [80, 105] * 3)],
    ]
    found = {
        alert["message_key"]: set(alert["evidence"])
        for stream in streams
        for alert in run(*stream, pipeline=new_pipeline(TrendPredictor(), news2=True))
        if alert["state"] != "cleared"
    }
    assert found == said


def test_an_alert_that_stays_open_is_told_once_a_day() -> None:
    every_10_min = [reading("s", 600 * i, {**CALM, "hr": 80 + i % 2, "abp_mean": 60 + i % 2}) for i in range(-300, 4)]
    alerts = [alert for alert in run(*every_10_min) if alert["kind"] == "limit"]
    assert states(alerts, "limit") == [("raised", 0, "medium", None), *(("updated", n, "medium", None) for n in (1, 2))]
    raised, *told = (datetime.fromisoformat(alert["event_at"]) for alert in alerts)
    assert [at - raised for at in told] == [timedelta(days=1), timedelta(days=2)]


def test_an_open_alert_of_a_sensor_that_cannot_be_believed_is_told_once_a_day() -> None:
    def at(i: int, pressure: float) -> bytes:
        return reading("s", 300 * i - 200_000, {**CALM, "hr": 80 + i % 2, "abp_mean": pressure})

    alerts = run(*(at(i, 60 + i % 2) for i in range(3)), *(at(i, 60.0) for i in range(3, 660)))
    assert states(alerts, "limit") == [("raised", 0, "medium", None), *(("updated", n, "medium", None) for n in (1, 2))]
    raised, *told = (datetime.fromisoformat(alert["event_at"]) for alert in alerts if alert["kind"] == "limit")
    assert [at - raised for at in told] == [timedelta(days=1), timedelta(days=2)]


def test_an_older_reading_has_an_open_alert_told_no_second_time_that_day() -> None:
    def at(at_s: float, **more: Any) -> bytes:
        return reading("s", at_s - 100_000, {"hr": 400, "resp": 15 + at_s // 600 % 2}, **more)

    a_day = [at(600 * i) for i in range(147)]
    told = [("raised", 0, "low", None), ("updated", 1, "low", None)]
    for n in range(143, 147):  # one of them is a day after it was raised
        alerts = run(*a_day[:n], at(600 * (n - 1) - 2, device_id="another"), *a_day[n:])
        assert states(alerts, "technical") == told


def test_a_brief_mild_excursion_is_no_alert() -> None:
    assert states(run(*minutes("s", 80, 60, 60, 60, 80, 80)), "limit") == []


def test_a_severe_excursion_is_of_high_priority_and_does_not_wait() -> None:
    assert states(run(*minutes("s", 80, 45, 45, 45)), "limit") == [("raised", 0, "high", None)]


def test_a_brief_return_does_not_end_an_excursion_whatever_the_rate() -> None:
    def course(returned: range) -> list[bytes]:
        """A reading every 5 s for 5 min, below 65 but for those of `returned`."""
        return [reading("s", 5 * i, {**CALM, "abp_mean": 66 if i in returned else 60 + i % 2}) for i in range(60)]

    # A tenth of the excursion so far is 16.5 s when it is back after 15 s, and 17 s when it is back after 20 s.
    assert states(run(*course(range(30, 33))), "limit") == [("raised", 0, "medium", None)]
    assert states(run(*course(range(30, 34))), "limit") == []


def test_an_alert_is_not_raised_again_soon_unless_it_is_severe() -> None:
    twice = [*[60] * 6, *[75] * 11, *[60] * 6]
    assert len(states(run(*minutes("s", *twice)), "limit")) == 2
    again = states(run(*minutes("s", *twice, *[75] * 2, *[45] * 2)), "limit")
    assert again == [("raised", 0, "medium", None), ("cleared", 1, "medium", "recovered"), ("raised", 0, "high", None)]
    later = [*[60] * 6, *[75] * 32, *[60] * 6]
    assert [found[0] for found in states(run(*minutes("s", *later)), "limit")] == ["raised", "cleared", "raised"]


def test_one_severe_value_is_not_of_high_priority() -> None:
    assert states(run(*minutes("s", 80, 45, 60, 60, 60, 60, 60)), "limit") == [("raised", 0, "medium", None)]


def test_an_alert_that_becomes_severe_is_updated() -> None:
    alerts = run(*minutes("s", *[60] * 7, 45, 45))
    assert states(alerts, "limit") == [("raised", 0, "medium", None), ("updated", 1, "high", None)]


def test_a_value_that_jumps_about_within_its_limits_is_an_anomaly() -> None:
    rates = [80] * 5 + [80, 105] * 3
    calm = (reading("s", 60 * i, {**CALM, "hr": rate, "abp_mean": 80 + i % 2 / 10}) for i, rate in enumerate(rates))
    (raised,) = run(*calm, pipeline=new_pipeline(TrendPredictor()))
    assert (raised["kind"], raised["signal"], raised["state"]) == ("anomaly", "hr", "raised")


def test_a_value_on_its_way_to_a_limit_is_announced() -> None:
    alerts = run(*minutes("s", *range(80, 66, -1)), pipeline=new_pipeline(TrendPredictor()))
    assert states(alerts, "forecast_limit") == [("raised", 0, "medium", None), ("updated", 1, "medium", None)]
    raised, updated = alerts
    assert (raised["signal"], raised["side"]) == ("abp_mean", "low")
    assert raised["evidence"]["last"] > updated["evidence"]["last"] > raised["evidence"]["limit"] == 65


def test_an_older_reading_without_the_value_announces_nothing() -> None:
    falling = minutes("s", *range(90, 74, -1))  # foreseen to fall below 65 from 77 on, surely enough from 75 on
    older = reading("s", 60 * 14 - 2, {"resp": 15}, device_id="another")
    (raised,) = run(*falling[:-1], older, falling[-1], pipeline=new_pipeline(TrendPredictor()))
    assert (raised["kind"], raised["evidence"]["last"]) == ("forecast_limit", 75.1)


def test_a_limit_that_was_lifted_or_loosened_raises_nothing_of_what_was_below_it() -> None:
    for own in ({"low": None}, {"low": 55}):
        changelog, pipeline = Changelog(), new_pipeline()
        lifted = [*minutes("s", *[60] * 4), event("s", 200, "limits", limits={"abp_mean": own})]
        changelog.apply(process(pipeline, records(lifted)))
        for after in (pipeline, changelog.recover()):
            found = process(after, records([reading("s", 240, {"hr": 80})], first_offset=len(lifted)))
            assert (found.outcomes, decoded(found.alerts)) == ({"accepted": 1}, [])


def test_an_alert_whose_limit_is_lifted_is_cleared_whatever_its_sensor() -> None:
    flat = [reading("s", 60 * i, {**CALM, "hr": 80 + i % 2, "abp_mean": 60.0}) for i in range(20)]
    lifted = event("s", 60 * 19, "limits", limits={"abp_mean": {"low": None}})
    alerts = run(*flat[:-1], lifted, flat[-1])
    assert states(alerts, "limit") == [("raised", 0, "medium", None), ("cleared", 1, "medium", "recovered")]


def test_an_alert_does_not_say_that_a_value_is_beyond_a_limit_that_it_is_inside() -> None:
    loosened = event("s", 590, "limits", limits={"abp_mean": {"low": 60}})
    alerts = run(*minutes("s", *[61] * 10), loosened, *minutes("s", *[61] * 3, start=10))
    assert [alert["message"] for alert in alerts if alert["kind"] == "limit"] == [
        "Mean arterial pressure below 65 mmHg (61)",
        "Mean arterial pressure not yet reliably above 60 mmHg (61)",
    ]


def test_an_alert_on_a_value_that_is_in_doubt_does_not_say_that_it_is_near_its_limit() -> None:
    flat = [
        reading("s", 60 * i, {**CALM, "hr": 80 + i % 2, "abp_mean": 60}, care_unit="icu-1" if i < 20 else "icu-2")
        for i in range(25)
    ]
    loosened = event("s", 60 * 19, "limits", limits={"abp_mean": {"low": 40}})
    alerts = run(*flat[:20], loosened, *flat[20:])
    assert [alert["message"] for alert in alerts if alert["kind"] == "limit"] == [
        "Mean arterial pressure below 65 mmHg (60)",
        "Mean arterial pressure not yet reliably above 40 mmHg (60)",
    ]


@pytest.mark.parametrize("pressures", [[60, 61], [60, 60]])
def test_the_care_unit_that_a_stay_goes_to_is_told_of_its_open_alerts(pressures: list[float]) -> None:
    def told(*units: str | None) -> list[tuple[str, str | None, str]]:
        values = [
            reading("s", 60 * i, {**CALM, "hr": 80 + i % 2, "abp_mean": pressures[i % 2]}, care_unit=unit)
            for i, unit in enumerate(units)
        ]
        alerts = [alert for alert in run(*values) if alert["kind"] == "limit"]
        return [(alert["state"], alert["care_unit"], alert["event_at"][14:16]) for alert in alerts]

    raised = ("raised", "icu-1", "04")
    assert told(*["icu-1"] * 20, *["icu-2"] * 10) == [raised, ("updated", "icu-2", "21")]
    assert told(*["icu-1"] * 20, *["icu-2", "icu-1"] * 10) == [raised], "two devices that disagree"
    one_is_quiet = [*["icu-1"] * 20, *["icu-2"] * 2, *["icu-1", "icu-2"] * 10]
    assert told(*one_is_quiet) == [raised, ("updated", "icu-2", "21")]
    assert told(*[None] * 20, *["icu-1"] * 10) == [("raised", None, "04"), ("updated", "icu-1", "21")]


def test_another_care_units_limit_is_told_when_the_stay_has_gone_there() -> None:
    def told(*units: str) -> list[tuple[str, int]]:
        pressures = [
            reading("s", 60 * i, {**CALM, "hr": 80 + i % 2, "abp_mean": 60 + i % 2}, care_unit=unit)
            for i, unit in enumerate(units)
        ]
        alerts = run(*pressures, pipeline=new_pipeline(limits={"icu-2": {"abp_mean": {"low": 63}}}))
        return [(alert["care_unit"], alert["evidence"]["limit"]) for alert in alerts if alert["kind"] == "limit"]

    assert told(*["icu-1"] * 10, *["icu-2"] * 5) == [("icu-1", 65), ("icu-2", 63)]
    assert told(*["icu-1"] * 10, *["icu-2", "icu-1"] * 5) == [("icu-1", 65)], "two devices that disagree"


def test_an_alert_whose_limit_is_gone_is_cleared() -> None:
    pipeline = new_pipeline(limits={"icu-a": {"pulse": {"high": 120}}})
    in_a = [reading("s", 60 * i, {"pulse": 130 + i % 2}, care_unit="icu-a") for i in range(10)]
    in_b = [reading("s", 60 * i, {"pulse": 80 + i % 2}, care_unit="icu-b") for i in range(10, 12)]
    found = run(*in_a, *in_b, pipeline=pipeline)
    assert [(a["signal"], a["state"], a["clear_reason"]) for a in found] == [
        ("pulse", "raised", None),
        ("pulse", "cleared", "recovered"),
    ]
    assert not pipeline.stays.extras[pipeline.stays.find(0, "s") or 0].alerts


def test_a_news2_alert_is_cleared_when_the_score_is_no_longer_asked_for() -> None:
    changelog, pipeline = Changelog(), new_pipeline(news2=True)
    poor = [reading("s", 60 * i, {"resp": 30, "spo2": 86 + i % 2, "hr": 110 + i % 2}) for i in range(10)]
    before = process(pipeline, records(poor))
    changelog.apply(before)
    raised = [a["alert_id"] for a in decoded(before.alerts) if a["kind"] == "news2" and a["state"] == "raised"]
    after = process(changelog.recover(), records([reading("s", 600, {"hr": 110})], first_offset=10))
    assert [a["alert_id"] for a in decoded(after.alerts) if a["state"] == "cleared"] == raised != []


def test_news2_leaves_a_flat_pressure_out_from_the_reading_on_that_shows_it() -> None:
    flat = [reading("s", 60 * i, {"abp_sys": 85.0, "resp": 26, "hr": 80 + i % 3}) for i in range(22)]
    found = run(*flat, pipeline=new_pipeline(news2=True))
    at = {(a["kind"], a["state"]): datetime.fromisoformat(a["event_at"]) for a in found}
    assert at["news2", "updated"] - at["technical", "raised"] == timedelta(minutes=5)


def test_a_limit_of_which_nothing_was_known_for_long_is_raised_again_as_soon_as_any() -> None:
    low, without = minutes("s", *[60] * 10), [reading("s", 60 * i, {"hr": 80 + i % 2}) for i in range(10, 26)]
    again = minutes("s", *[60] * 10, start=26)
    raised = [
        a["event_at"][11:16] for a in run(*low, *without, *again) if a["kind"] == "limit" and a["state"] == "raised"
    ]
    assert raised == ["11:04", "11:30"]


def test_hovering_at_the_limit_neither_clears_nor_raises_again() -> None:
    assert len(states(run(*minutes("s", *[60] * 7, 66, 64, 66, 64, 66, 64)), "limit")) == 1


def test_impossible_values_are_told_of_whatever_another_device_sends() -> None:
    def from_two(good_until: int) -> list[bytes]:
        one = [
            reading("s", 60 * i, {"hr": 80 + i % 3 if i < good_until else 400, "resp": 15 + i % 2}) for i in range(40)
        ]
        other = [reading("s", 60 * i + 20, {"spo2": 97 - i % 2}) for i in range(40)]
        return [each for pair in zip(one, other, strict=True) for each in pair]

    assert technical(run(*from_two(0))) == [("raised", "hr", "implausible")]
    assert technical(run(*from_two(10))) == [("raised", "hr", "implausible")]


def test_the_end_of_a_stay_clears_all_its_alerts() -> None:
    alerts = run(*minutes("s", *[45] * 4), event("s", 240, "ended"))
    open_at_end = {a["alert_id"] for a in alerts} - {a["alert_id"] for a in alerts if a["state"] == "cleared"}
    assert not open_at_end
    assert ("cleared", 1, "high", "stay_ended") in states(alerts, "limit")


def test_a_gap_raises_no_data_as_of_when_it_began_to_count_and_the_next_reading_clears_it() -> None:
    alerts = run(reading("s", 0), reading("s", 1500))
    assert [(a["state"], a["cause"], a["event_at"][11:19]) for a in alerts] == [
        ("raised", "no_data", "11:15:00"),
        ("cleared", "no_data", "11:25:00"),
    ]
    assert alerts[0]["alert_id"] == "vitals.readings-0-0-technical-stay-no_data"


def test_a_stay_event_is_no_reading_silence_is_counted_from_the_last_one() -> None:
    def alerts(limits_at: int, *, by_timer: bool) -> list[tuple[str, str]]:
        """A reading, silence with an event in it, a reading."""
        pipeline, start_ms = new_pipeline(), NOW_US // 1000 - 3_600_000
        limits = event("s", limits_at, "limits", limits={"hr": {"high": 140}})
        stream = [FakeRecord(0, reading("s", 0), start_ms), FakeRecord(1, limits, start_ms + 1000 * limits_at)]
        stream.append(FakeRecord(2, reading("s", 1200), start_ms + 1_200_000))
        found = []
        for record in stream:
            if by_timer and record.timestamp > start_ms + 901_000:
                found += decoded(pipeline.check_silence(0, (start_ms + 901_000) * 1000).alerts)
            found += decoded(process(pipeline, [record]).alerts)
        return [(a["alert_id"], a["state"]) for a in found]

    no_data = "vitals.readings-0-0-technical-stay-no_data"
    for limits_at in (890, 1000):
        for by_timer in (False, True):
            assert alerts(limits_at, by_timer=by_timer) == [(no_data, "raised"), (no_data, "cleared")]


def test_an_event_that_comes_again_is_not_applied_again() -> None:
    changelog, pipeline = Changelog(), new_pipeline()
    stream = records([reading("s", 0), event("s", 10, "limits", limits={"hr": {"high": 140}})])
    changelog.apply(process(pipeline, stream))
    for again in (pipeline, changelog.recover()):
        again.stays.next_offsets[0] = 1  # as after a torn write at least once
        assert process(again, stream).outcomes == {}


def test_limits_that_were_just_set_are_not_forgotten_with_a_stay_that_is_away() -> None:
    pipeline, start_ms, hour_ms = new_pipeline(), NOW_US // 1000, 3_600_000
    pipeline.process({0: [FakeRecord(0, reading("s", 0), start_ms)]}, NOW_US)
    late = event("s", 0, "limits", limits={"hr": {"high": 140}})
    pipeline.process({0: [FakeRecord(1, late, start_ms + 23 * hour_ms)]}, (start_ms + 23 * hour_ms) * 1000)
    silent = pipeline.check_silence(0, (start_ms + 25 * hour_ms) * 1000)  # the first since then: no worker ran
    assert len(pipeline.stays) == 1
    assert [a["cause"] for a in decoded(silent.alerts)] == ["no_data"]
    pipeline.check_silence(0, (start_ms + 48 * hour_ms) * 1000)
    assert len(pipeline.stays) == 0


@pytest.mark.parametrize(("ahead_ms", "timestamp_type"), [(200, 0), (200, LOG_APPEND_TIME), (30_000, LOG_APPEND_TIME)])
def test_under_steady_load_silence_is_told_by_a_clock_that_is_behind_the_brokers(
    ahead_ms: int, timestamp_type: int
) -> None:
    pipeline, told = new_pipeline(), []
    for offset in range(30):
        now_us = NOW_US + offset * 60_000_000
        value = reading("a" if offset == 0 else "b", 60 * offset)
        record = FakeRecord(offset, value, now_us // 1000 + ahead_ms, timestamp_type=timestamp_type)
        pipeline.process({0: [record]}, now_us)
        told += decoded(pipeline.check_silence(0, now_us + 1_000_000, is_caught_up=False).alerts)
    assert [(a["stay_id"], a["cause"]) for a in told] == [("a", "no_data")]


def test_a_sensor_that_stays_off_is_told_of_once_for_two_hours() -> None:
    both = [reading("s", 60 * i - 20_000, {"hr": 80 + i % 3, "spo2": 97 - i % 2}) for i in range(60)]
    one = [reading("s", 60 * i - 20_000, {"spo2": 97 - i % 2}) for i in range(60, 330)]
    found = [a for a in run(*both, *one) if (a["kind"], a["signal"]) == ("technical", "hr")]
    assert [(a["state"], a["cause"], a["clear_reason"]) for a in found] == [
        ("raised", "sensor_off", None),
        ("cleared", "sensor_off", "data_lost"),
    ]
    raised, cleared = (datetime.fromisoformat(a["event_at"]) for a in found)
    assert cleared - raised == timedelta(hours=1)  # raised after one hour without values, over after two


def test_a_reading_that_is_older_does_not_end_a_sensor_that_is_off() -> None:
    both = [reading("s", 60 * i - 9000, {"hr": 80 + i % 3, "spo2": 97 - i % 2}) for i in range(60)]
    one = [reading("s", 60 * i - 9000, {"hr": 80 + i % 3}) for i in range(60, 120)]
    away_s = 60 * 59 - 9000 + 3600
    older = [reading("s", away_s, {"hr": 83}), reading("s", away_s - 2, {"resp": 15}, device_id="another")]
    back = [reading("s", away_s + 60, {"spo2": 97})]
    assert technical(run(*both, *one[:-1], *older)) == [("raised", "spo2", "sensor_off")]
    assert technical(run(*both, *one[:-1], *older, *back))[1:] == [("cleared", "spo2", "sensor_off")]


def test_what_rests_goes_on_resting_over_a_silence() -> None:
    both = [reading("s", 60 * i - 12_000, {"hr": 80 + i % 3, "spo2": 97 - i % 2}) for i in range(10)]
    one = [reading("s", 60 * i - 12_000, {"hr": 80 + i % 3}) for i in (*range(10, 75), *range(95, 120))]
    assert technical(run(*both, *one)) == [
        ("raised", "spo2", "sensor_off"),
        ("cleared", "spo2", "sensor_off"),
        ("raised", None, "no_data"),
        ("cleared", None, "no_data"),
    ]


def test_a_limit_goes_on_resting_over_a_silence() -> None:
    over_at_16, again = minutes("s", *[60] * 6, *[75] * 11), minutes("s", *[60] * 8, start=31)
    alerts = run(*over_at_16, *again)
    assert "no_data" in [cause for _, _, cause in technical(alerts)]
    raised = [a["event_at"][11:16] for a in alerts if a["kind"] == "limit" and a["state"] == "raised"]
    assert raised == ["11:04", "11:36"]  # 20 min after it was over, though it lasts since four minutes at 11:35


def test_of_what_is_doubted_for_long_nothing_can_be_told() -> None:
    doubted = [
        reading("s", 60 * i, {**CALM, "hr": 80 + i % 2, "abp_mean": 85 + i % 3}, quality={"abp_mean": "questionable"})
        for i in range(8, 40)
    ]
    assert states(run(*minutes("s", *[60] * 8), *doubted), "limit") == [
        ("raised", 0, "medium", None),
        ("cleared", 1, "medium", "data_lost"),
    ]


def test_a_disagreement_ends_with_one_of_the_two() -> None:
    apart = [reading("s", 60 * i - 9000, {"hr": 120 + i % 3, "pulse": 80}) for i in range(70)]
    alone = [reading("s", 60 * i - 9000, {"hr": 80 + i % 3}) for i in range(70, 90)]
    assert [(a["cause"], a["clear_reason"]) for a in run(*apart, *alone) if a["kind"] == "technical"] == [
        ("disagreement", None),
        ("disagreement", "data_lost"),
    ]


def test_severe_values_far_apart_are_not_of_high_priority() -> None:
    def course(second_s: int) -> list[tuple[str, int, str, str | None]]:
        steady = [reading("s", t, {"hr": 80 + t // 60 % 2}) for t in range(0, second_s, 60)]
        low = [reading("s", 10, {"spo2": 80}), reading("s", second_s, {"spo2": 80})]
        return states(run(*sorted([*steady, *low], key=time_of)), "limit")

    assert course(890) == [("raised", 0, "medium", None)]
    assert course(310) == [("raised", 0, "high", None)]  # one reading in five minutes


def test_no_unit_is_no_unit_of_that_name() -> None:
    def course(*cuts: int) -> list[tuple[str, int, str, str | None]]:
        pipeline = new_pipeline(limits={"icu-3": {"hr": {"high": 100}}})
        units = [*["icu-3"] * 3, *[""] * 7]
        values = [reading("s", 60 * i, {"hr": 110 + i % 2}, care_unit=unit) for i, unit in enumerate(units)]
        pieces = zip((0, *cuts), (*cuts, len(values)), strict=True)
        found = [decoded(process(pipeline, records(values[a:b], a)).alerts) for a, b in pieces]
        return states([alert for alerts in found for alert in alerts], "limit")

    assert course() == course(3) == [("raised", 0, "medium", None)]


def test_without_a_budget_what_it_had_raised_holds_nothing_back() -> None:
    log = Changelog()
    pipeline = new_pipeline(TrendPredictor())
    process(pipeline, records([reading("another", 0)]))
    pipeline.stays.budgets[0].shift = 2.0
    log.apply(process(pipeline, records([reading("another", 60)], 1)))
    falling = minutes("s", *[80 - i / 2 for i in range(24)], *[68.2] * 10)

    def raised_at(per_day: float) -> str:
        again = new_pipeline(TrendPredictor(), alert_budget_per_patient_day=per_day)
        assert again.stays.load(0, log.newest) == 0
        alerts = decoded(process(again, records(falling, 2)).alerts)
        return next(str(a["event_at"]) for a in alerts if a["kind"] == "forecast_limit")

    assert raised_at(0) < raised_at(20)


def test_a_stamp_of_the_future_does_not_keep_a_stay_from_being_silent() -> None:
    pipeline, start_ms = new_pipeline(), NOW_US // 1000
    process(pipeline, [FakeRecord(0, reading("s", 0), start_ms + 365 * 86_400_000)])
    assert [a["cause"] for a in decoded(pipeline.check_silence(0, NOW_US + 901_000_000).alerts)] == ["no_data"]
    pipeline.check_silence(0, NOW_US + 50 * 3600 * 1_000_000)
    assert len(pipeline.stays) == 0


@pytest.mark.parametrize("year", [1950, 1969, 2001])
def test_the_same_course_has_the_same_alerts_in_any_year(year: int) -> None:
    def at(minute: int, vitals: dict[str, float]) -> bytes:
        when = datetime(year, 12, 31, 20, tzinfo=UTC) + timedelta(minutes=minute)
        return json.dumps({"stay_id": "s", "observed_at": when.isoformat(), "vitals": vitals}).encode()

    both = [at(i, {"hr": 80 + i % 3, "abp_mean": 80.0}) for i in range(20)]
    found = run(*both, *[at(i, {"abp_mean": 80.0 + i % 5}) for i in range(20, 120)])
    assert technical(found) == [
        ("raised", "abp_mean", "flatline"),
        ("cleared", "abp_mean", "flatline"),
        ("raised", "hr", "sensor_off"),
    ]


def test_a_timer_and_the_reading_that_shows_the_gap_raise_the_same_alert() -> None:
    by_reading = run(reading("s", 0), reading("s", 1500))
    pipeline = new_pipeline()
    process(pipeline, [FakeRecord(0, reading("s", 0), timestamp=NOW_US // 1000 - 1_000_000)])
    timed = pipeline.check_silence(0, NOW_US)
    again = pipeline.check_silence(0, NOW_US)
    then = process(pipeline, records([reading("s", 1500)], first_offset=1))
    assert decoded(timed.alerts + then.alerts) == by_reading
    assert again.alerts == []


def test_where_records_wait_a_stay_is_silent_by_the_newest_that_was_processed() -> None:
    def silent(newest_s: int) -> list[dict[str, Any]]:
        """The alerts of a timer, with a stay of which nothing came for so long when the newest record did."""
        pipeline = new_pipeline()
        times_s = {"s": 0, "t": newest_s, "of a clock that is wrong": NOW_US // 1_000_000 + 10**6}
        first = [FakeRecord(i, reading(s, 0), timestamp=at * 1000) for i, (s, at) in enumerate(times_s.items())]
        process(pipeline, first)
        return decoded(pipeline.check_silence(0, NOW_US, is_caught_up=False).alerts)

    assert silent(600) == []
    assert [(a["stay_id"], a["cause"]) for a in silent(1000)] == [("s", "no_data")]


def test_a_suspect_sensor_raises_nothing_even_by_values_that_hold_for_a_while() -> None:
    """Of the mean pressure nine readings of ten are impossible, and the tenth is below the limit after a while."""

    def pressure(i: int) -> float:
        return (80 if i < 40 else 60) + i % 3 if i % 10 == 0 else 230

    alerts = run(*[reading("s", 10 * i, {**CALM, "hr": 80 + i % 2, "abp_mean": pressure(i)}) for i in range(120)])
    assert ("raised", "abp_mean", "implausible") in technical(alerts)
    assert states(alerts, "limit") == []


def test_a_sensor_is_suspect_while_its_alert_rests() -> None:
    def course(first: int) -> list[bytes]:
        moving, flat = ([120 + i % 5 for i in range(40)], [190] * 50)
        return [reading("s", 60 * (first + i) - 15_000, {"abp_sys": v}) for i, v in enumerate([*moving, *flat])]

    alerts = run(*course(0), *course(90))
    assert technical(alerts) == [("raised", "abp_sys", "flatline"), ("cleared", "abp_sys", "flatline")]
    assert states(alerts, "limit") == []


def test_a_sensor_that_moves_again_is_believed_at_once_though_its_alert_rests() -> None:
    def at(minute: int, pressure: float) -> bytes:
        return reading("s", 60 * minute - 40_000, {"hr": 80 + minute % 2, "abp_mean": pressure})

    moving, flat, again = range(40), (*range(40, 60), *range(70, 550)), range(60, 70)
    calm = [at(minute, 80 if minute in flat else 80 + minute % 3) for minute in sorted({*moving, *flat, *again})]
    severe = [at(minute, 45 + minute % 3) for minute in range(550, 560)]
    (raised,) = (alert for alert in run(*calm, *severe) if alert["kind"] == "limit")
    assert raised["priority"] == "high"
    assert datetime.fromisoformat(raised["event_at"]) == time_of(severe[1])


def test_a_flat_pressure_that_is_missing_once_is_not_lost() -> None:
    low = minutes("s", 80, *[60] * 8)
    flat = [reading("s", 60 * i, {**CALM, "hr": 80 + i % 2, "abp_mean": 60.0}) for i in range(9, 50)]
    missing = [reading("s", 60 * 50, {"hr": 80})]
    assert states(run(*low, *flat, *missing), "limit") == [("raised", 0, "medium", None)]


def test_a_stay_of_which_nothing_comes_any_more_is_forgotten() -> None:
    pipeline = new_pipeline(evict_after_s=21_600)
    process(pipeline, [FakeRecord(0, reading("s", 0), timestamp=NOW_US // 1000 - 30_000_000)])
    result = pipeline.check_silence(0, NOW_US)
    assert len(pipeline.stays) == 0
    assert set(result.state.values()) == {None}


def test_a_stay_has_its_own_limits_after_a_limits_event() -> None:
    own = event("s", 0, "limits", limits={"abp_mean": {"low": 55, "high": None}})
    assert states(run(own, *minutes("s", *[60] * 9)), "limit") == []
    assert states(run(own, *minutes("s", *[52] * 9)), "limit") == [("raised", 0, "medium", None)]


def test_a_limit_may_be_as_low_as_values_can_be() -> None:
    own = event("s", 0, "limits", limits={"abp_mean": {"low": VITALS_BY_NAME["abp_mean"].low}})
    assert states(run(*minutes("s", 80), own, *minutes("s", *[60] * 9, start=1)), "limit") == []


def test_a_stay_ends_whatever_else_its_event_holds() -> None:
    pipeline = new_pipeline()
    ended = event("s", 60, "ended", limits={"abp_mean": {"low": 90, "high": 80}})
    result = process(pipeline, records([*minutes("s", 80), ended]))
    assert (result.outcomes["event"], len(pipeline.stays)) == (1, 0)


def test_limits_end_with_the_stay() -> None:
    own = event("s", 0, "limits", limits={"abp_mean": {"low": 50}})
    alerts = run(own, event("s", 1, "ended"), *minutes("s", *[60] * 9))
    assert states(alerts, "limit")[0][0] == "raised"


def test_a_sensor_that_comes_off_is_technical() -> None:
    with_spo2 = [reading("s", 60 * i, {"hr": 80 + i % 2, "spo2": 97}) for i in range(-2, 3)]
    without = [reading("s", 60 * i, {"hr": 80 + i % 2}) for i in range(3, 64)]
    back = [reading("s", 3840, {"hr": 80, "spo2": 96})]
    alerts = run(*with_spo2, *without, *back)
    assert technical(alerts) == [("raised", "spo2", "sensor_off"), ("cleared", "spo2", "sensor_off")]


def test_a_value_that_stands_still_is_a_flatline() -> None:
    still = [reading("s", 60 * i, {"abp_mean": 80, "spo2": 97}) for i in range(18)]
    assert technical(run(*still, reading("s", 1080, {"abp_mean": 81}))) == [
        ("raised", "abp_mean", "flatline"),
        ("cleared", "abp_mean", "flatline"),
    ]


def test_how_long_a_line_has_been_flat_is_counted_from_when_it_last_moved() -> None:
    moves = (*range(20, 22), *range(700, 730))  # within the rest of the first alert, and soon before it is over
    pressures = [81.0 + i % 3 if i in moves else 80.0 for i in range(760)]
    values = [reading("s", 60 * i - 60_000, {"abp_mean": p, "hr": 80 + i % 2}) for i, p in enumerate(pressures)]
    told = [a["message"] for a in run(*values) if (a["cause"], a["state"]) == ("flatline", "raised")]
    assert [re.findall(r"\d+ min", message) for message in told] == [["15 min"], ["15 min"]]


def test_a_value_that_is_the_same_before_and_after_a_break_did_not_stand_still() -> None:
    readings = [reading("s", 60 * i, {"abp_mean": 80, "spo2": 97}) for i in (*range(10), *range(17, 27))]
    assert not [found for found in technical(run(*readings)) if found[2] == "flatline"]


def test_a_contradiction_within_the_arterial_line_is_technical() -> None:
    alerts = run(
        *(reading("s", 30 * i, {"hr": 80 + i % 2, "abp_sys": 80, "abp_dia": 90, "abp_mean": 85}) for i in range(12))
    )
    assert {(a["signal"], a["cause"]) for a in alerts} == {
        (signal, "implausible") for signal in ("abp_sys", "abp_dia", "abp_mean")
    }


def test_heart_rate_and_pulse_that_disagree_for_minutes_are_technical() -> None:
    alerts = run(*(reading("s", 60 * i, {"hr": 120 + i % 2, "pulse": 80}) for i in range(62)))
    assert technical(alerts) == [("raised", "hr", "disagreement")]


def test_doubtful_values_start_no_alert() -> None:
    doubtful = minutes("s", *[45] * 9, quality={"abp_mean": "questionable"})
    assert states(run(*doubtful), "limit") == []


def test_doubtful_values_do_not_carry_on_what_a_good_one_began() -> None:
    doubtful = minutes("s", *[60] * 9, start=1, quality={"abp_mean": "questionable"})
    assert states(run(*minutes("s", 60), *doubtful), "limit") == []


@pytest.mark.parametrize("doubted", [["spo2", "abp_sys"], ["spo2", "abp_dia", "abp_mean"]])
def test_doubtful_values_that_are_impossible_start_no_alert(doubted: list[str]) -> None:
    odd = {"hr": 80, "spo2": 30, "abp_sys": 60, "abp_dia": 70, "abp_mean": 65}
    quality = dict.fromkeys(doubted, "questionable")
    assert technical(run(*(reading("s", 60 * i, odd, quality=quality) for i in range(12)))) == []
    assert technical(run(*(reading("s", 60 * i, odd) for i in range(12))))


class WithPressureInTheHead(ArithmeticPredictor):
    """The same model with an input of its own."""

    manifest = msgspec.structs.replace(
        MANIFEST,
        inputs=(MANIFEST.inputs[0], Signal(name="icp", unit="mm[Hg]", low=-20, high=100), MANIFEST.inputs[2]),
    )


def test_a_signal_that_the_model_declares_may_have_limits() -> None:
    swollen = [reading("s", 60 * i, {"hr": 80 + i % 2, "icp": 25 + i % 3}) for i in range(9)]
    of_settings = new_pipeline(WithPressureInTheHead(), limits={"default": {"icp": {"high": 20}}})
    of_event = event("s", 0, "limits", limits={"icp": {"high": 22}})
    for values, pipeline, limit in (
        (swollen, of_settings, 20),
        ([of_event, *swollen], new_pipeline(WithPressureInTheHead()), 22),
    ):
        (raised,) = (a for a in run(*values, pipeline=pipeline) if a["kind"] == "limit")
        assert (raised["signal"], raised["evidence"]["limit"]) == ("icp", limit)
        assert raised["message"].startswith(f"icp above {limit} ")
    result = process(new_pipeline(), records([of_event]))
    assert [letter["reason"] for letter in decoded(result.dead_letters)] == ["schema"]


class WithLactate(ArithmeticPredictor):
    """The same model with an input of small numbers."""

    manifest = msgspec.structs.replace(
        MANIFEST, inputs=(MANIFEST.inputs[0], Signal(name="lactate", unit="mmol/L", low=0, high=30), MANIFEST.inputs[2])
    )


def test_a_signal_of_small_numbers_recovers_too() -> None:
    levels = [*[3.0] * 8, *[1.2] * 12]
    values = [reading("s", 60 * i, {"hr": 80 + i % 2, "lactate": level}) for i, level in enumerate(levels)]
    limits = {"default": {"lactate": {"high": 2}}}
    assert states(run(*values, pipeline=new_pipeline(WithLactate(), limits=limits)), "limit") == [
        ("raised", 0, "medium", None),
        ("cleared", 1, "medium", "recovered"),
    ]


class WithBaseExcess(TrendPredictor):
    """As TrendPredictor, but it forecasts a signal of either sign, in place of the mean pressure."""

    manifest = msgspec.structs.replace(
        MANIFEST,
        inputs=(*MANIFEST.inputs[:2], Signal(name="be", unit="mmol/L", low=-30, high=30)),
        signals=("hr", "be"),
    )


def test_a_limit_below_zero_is_announced_for_all_stays_as_for_those_of_a_unit() -> None:
    limits = {"be": {"low": -10, "forecast_probability": 0.3}}
    falling = [reading("s", 60 * i, {"hr": 80 + i % 3, "be": -7.5 - i / 4}, care_unit="icu") for i in range(9)]
    for_all, for_unit = (
        run(*falling, pipeline=new_pipeline(WithBaseExcess(), limits={unit: limits})) for unit in ("default", "icu")
    )
    assert for_all == for_unit
    assert [(a["kind"], a["side"]) for a in for_all if a["state"] == "raised"] == [("forecast_limit", "low")]


def test_a_stay_that_goes_to_another_unit_keeps_its_own_limits() -> None:
    icu = {"icu": {"abp_sys": {"high": 100, "severe_high": "none", "low": 80, "severe_low": 70}}}
    own = event("s", 1, "limits", limits={"abp_sys": {"low": 110}})
    pressures = [
        reading("s", 60 * i, {"hr": 80 + i % 2, "abp_sys": 105 + i % 3}, care_unit="icu") for i in range(1, 40)
    ]
    alerts = run(reading("s", 0, {"hr": 80, "abp_sys": 115}), own, *pressures, pipeline=new_pipeline(limits=icu))
    assert [(a["side"], a["evidence"]["limit"]) for a in alerts if a["kind"] == "limit"] == [("low", 110)]


def test_an_older_reading_does_not_take_a_stay_back_to_its_old_unit() -> None:
    pipeline = new_pipeline()
    run(reading("s", 30, CALM, care_unit="new"), reading("s", 10, CALM, care_unit="old"), pipeline=pipeline)
    assert [extras.care_unit for extras in pipeline.stays.extras if extras.care_unit] == ["new"]


@pytest.mark.parametrize("bad", [{"low": 140}, {"high": 30}, {"low": 90, "high": 90}, {"high": 300}, {"low": 5}])
def test_limits_that_cannot_hold_are_a_dead_letter_and_change_nothing(bad: dict[str, float]) -> None:
    pipeline = new_pipeline()
    good = event("s", 0, "limits", limits={"hr": {"low": 60}})
    result = process(pipeline, records([good, event("s", 1, "limits", limits={"hr": bad})]))
    assert [letter["reason"] for letter in decoded(result.dead_letters)] == ["schema"]
    slow = [reading("s", 60 * i, {"hr": 55 + i % 2}) for i in range(1, 9)]
    alerts = decoded(process(pipeline, records(slow, first_offset=2)).alerts)
    assert [(a["signal"], a["evidence"]["limit"]) for a in alerts if a["kind"] == "limit"] == [("hr", 60)]


def test_what_a_suspect_sensor_says_is_held_back_until_it_can_be_believed() -> None:
    torn = [reading("s", 30 * i, {"hr": 80 + i % 2, "abp_sys": 80, "abp_dia": 90, "abp_mean": 85}) for i in range(12)]
    low = [reading("s", 340 + 10 * i, {"hr": 80, "abp_sys": 60, "abp_dia": 40, "abp_mean": 45}) for i in range(8)]
    result = process(new_pipeline(), records([*torn, *low]))
    alerts = [a for a in decoded(result.alerts) if a["signal"] == "abp_mean"]
    # Severe from 340 on, for 30 s by 370; but the sensor is suspect until it has been right for a minute.
    assert [(a["kind"], a["state"], a["event_at"][14:19]) for a in alerts] == [
        ("technical", "raised", "05:00"),
        ("technical", "cleared", "06:40"),
        ("limit", "raised", "06:40"),
    ]
    assert "its other alerts are held back" in alerts[0]["message"]
    assert result.alerts_held["suspect"] >= 1


# --- NEWS2 ---


def observed(first: int, last: int, observations: dict[str, str] | None = None, **changed: float) -> list[bytes]:
    """One reading a minute of a patient who is well but for `changed`; `observations` come with the first of them."""
    well = {"hr": 70, "resp": 16, "spo2": 97, "abp_sys": 120, "abp_dia": 70, "abp_mean": 85, "temp": 37}
    first_more = {} if observations is None else {"observations": observations}
    return [
        reading(
            "s", 60 * i, {**well, **changed, "hr": changed.get("hr", 70) + i % 2}, **(first_more if i == first else {})
        )
        for i in range(first, last)
    ]


def with_news2(*values: bytes) -> list[dict[str, Any]]:
    """The NEWS2 alerts that a stream leaves."""
    return [a for a in run(*values, pipeline=new_pipeline(news2=True)) if a["kind"] == "news2"]


ALERT_ON_AIR = {"consciousness": "A", "oxygen": "air"}


def test_news2_alarms_on_what_is_known_and_says_what_is_not() -> None:
    # Saturation 93: 2, pulse 115: 2, temperature 38.5: 1; consciousness and oxygen are not known.
    (raised,) = with_news2(*observed(0, 8, spo2=93, hr=115, temp=38.5))
    assert (raised["state"], raised["priority"], raised["signal"]) == ("raised", "medium", None)
    assert raised["alert_id"] == "vitals.readings-0-5-news2-stay-any"
    assert (raised["evidence"]["score"], raised["evidence"]["upper"]) == (5, 10)
    assert raised["evidence"]["missing"] == ["oxygen", "consciousness"]
    assert "consciousness" in raised["message"]


def test_news2_of_a_patient_whose_monitor_is_gone_can_no_longer_be_told() -> None:
    ill = observed(0, 8, resp=30, spo2=86)
    cuff = [reading("s", 60 * i, {"nibp_sys": 120 + i % 2}) for i in range(8, 50)]
    assert states(with_news2(*ill, *cuff), "news2")[-1][::3] == ("cleared", "data_lost")
    assert states(with_news2(*ill, *observed(8, 50)), "news2")[-1][::3] == ("cleared", "recovered")


def test_news2_forgets_what_is_too_old_for_long() -> None:
    hypoxic = observed(0, 1, spo2=86)  # one value of three points, hours ago
    breaths = [25, *[15] * 10, 25]
    later = [reading("s", 60 * (240 + i), {"resp": resp, "hr": 70 + i % 2}) for i, resp in enumerate(breaths)]
    assert with_news2(*hypoxic, *later) == []


def test_news2_takes_observations_and_rises_with_them() -> None:
    ill = {"spo2": 93.0, "hr": 115.0, "temp": 38.5}
    alerts = with_news2(*observed(0, 8, ALERT_ON_AIR, **ill), *observed(8, 20, {"consciousness": "C"}, **ill))
    assert states(alerts, "news2") == [("raised", 0, "medium", None), ("updated", 1, "high", None)]
    assert [(a["evidence"]["score"], a["evidence"]["missing"]) for a in alerts] == [(5, []), (8, [])]


def test_news2_tells_of_no_score_that_does_not_last() -> None:
    ill = {"spo2": 93.0, "hr": 115.0, "temp": 38.5}
    cough = [reading("s", 60 * i + 30, {"resp": 30, "spo2": 84}) for i in range(8, 20)]  # 8 points, 30 s after each 5
    alerts = with_news2(*sorted([*observed(0, 20, ALERT_ON_AIR, **ill), *cough], key=time_of))
    assert states(alerts, "news2") == [("raised", 0, "medium", None)]
    again = with_news2(
        *observed(0, 8, ALERT_ON_AIR, **ill), *observed(8, 16, None, resp=30, **ill), *observed(16, 30, None, **ill)
    )
    assert [(a["priority"], a["evidence"]["score"], "emergency" in a["message"]) for a in again] == [
        ("medium", 5, False),
        ("high", 8, True),
        ("high", 5, False),
    ]


@pytest.mark.parametrize("every", [1, 10])
def test_news2_of_seven_does_not_wait_for_the_rest_of_five(every: int) -> None:
    ill = {"spo2": 93.0, "hr": 115.0, "temp": 38.5}
    readings = [*observed(0, 11, ALERT_ON_AIR, **ill), *observed(11, 41), *observed(41, 62, None, **ill, resp=30)]
    assert states(with_news2(*readings[::every]), "news2") == [
        ("raised", 0, "medium", None),
        ("cleared", 1, "medium", "recovered"),
        ("raised", 0, "high", None),
    ]


def test_an_older_reading_does_not_bring_back_what_a_nurse_charted_before() -> None:
    well = {"resp": 16.0, "spo2": 97.0, "abp_sys": 120.0, "temp": 37.0, "hr": 80.0}
    newer = reading("s", 50, well, observations=ALERT_ON_AIR)
    older = reading("s", 20, {**well, "hr": 81.0}, observations={"consciousness": "U"})
    assert with_news2(newer, older, *observed(1, 12, None, **well)) == []
    assert with_news2(older, newer, *observed(1, 12, None, **well)) == []


class WithOxygen(ArithmeticPredictor):
    """As ArithmeticPredictor, with a signal that is called as one of a nurse's observations is."""

    manifest = msgspec.structs.replace(
        MANIFEST, inputs=(MANIFEST.inputs[0], Signal(name="oxygen", unit="%", low=21, high=100), MANIFEST.inputs[2])
    )


@pytest.mark.parametrize("share", [60, 900])
def test_news2_takes_a_signal_of_that_name_for_no_observation(share: float) -> None:
    ill = {"spo2": 93.0, "hr": 115.0, "temp": 38.5}
    charted = {"consciousness": "A", "oxygen": "supplemental"}
    plain = with_news2(*observed(0, 16, charted, **ill))
    stream = observed(0, 16, charted, **ill, oxygen=share)
    alerts = run(*stream, pipeline=new_pipeline(WithOxygen(), news2=True))
    assert [a["evidence"] for a in alerts if a["kind"] == "news2"] == [a["evidence"] for a in plain]


def test_news2_scale_2_holds_from_its_event_on() -> None:
    breathless = {"spo2": 89.0}  # 3 on scale 1, which alone asks for a review; 0 on scale 2
    assert len(with_news2(*observed(0, 8, ALERT_ON_AIR, **breathless))) == 1
    assert with_news2(event("s", 0, "settings", spo2_scale=2), *observed(0, 8, ALERT_ON_AIR, **breathless)) == []


def test_without_its_setting_there_is_no_news2() -> None:
    assert states(run(*observed(0, 8, spo2=93, hr=115, temp=38.5)), "news2") == []


def test_what_a_nurse_charted_survives_a_restart() -> None:
    stream = observed(0, 20, {"consciousness": "V", "oxygen": "supplemental"}, resp=22.0)
    changelog, first = Changelog(), new_pipeline(news2=True)
    before = process(first, records(stream[:3]))
    changelog.apply(before)
    shown = describe_state(first.stays.layout, "s", 0, changelog.newest)["charted"]
    assert {name: told["last"] for name, told in shown.items()} == {"consciousness": "V", "oxygen": "supplemental"}
    after = process(changelog.recover(news2=True), records(stream[3:], first_offset=3))
    assert decoded(before.alerts + after.alerts) == run(*stream, pipeline=new_pipeline(news2=True))
    assert states(decoded(after.alerts), "news2") == [("raised", 0, "high", None)]


# --- what a forecast and a sensor say ---


def test_a_value_that_is_low_and_then_missing_is_told_of() -> None:
    low = [reading("s", 60 * i, {"hr": 80 + i % 2, "abp_mean": 60 + i / 10}) for i in range(4)]
    gone = [reading("s", 60 * i, {"hr": 80 + i % 2}) for i in range(4, 7)]
    assert states(run(*low, *gone), "limit") == [("raised", 0, "medium", None)]
    limits = {"default": {"abp_mean": {"delay_s": 90}}}
    for values, raised in ((low[2:], [("raised", 0, "medium", None)]), (low[3:], [])):  # one alone does not count
        assert states(run(*values, *gone[:2], pipeline=new_pipeline(limits=limits)), "limit") == raised


def test_a_change_of_a_stays_limit_is_told_in_the_open_alert() -> None:
    own = event("s", 60 * 8, "limits", limits={"abp_mean": {"low": 70}})
    alerts = run(*minutes("s", *[60] * 8), own, *minutes("s", *[60] * 3, start=8))
    assert states(alerts, "limit") == [("raised", 0, "medium", None), ("updated", 1, "medium", None)]
    assert [a["evidence"]["limit"] for a in alerts if a["kind"] == "limit"] == [65, 70]


def test_a_fever_taken_by_hand_is_an_alert_with_its_second_value() -> None:
    values = [reading("s", 60 * i, {"hr": 80 + i % 2, **({"temp": 40.0} if i in (0, 45) else {})}) for i in range(50)]
    raised = [a for a in run(*values) if a["kind"] == "limit"]
    assert [(a["signal"], a["side"], a["event_at"][11:16]) for a in raised] == [("temp", "high", "11:45")]


@pytest.mark.parametrize("every_min", [15, 30, 60])
def test_a_low_cuff_pressure_is_an_alert_with_its_second_value(every_min: int) -> None:
    own = event("s", -20_000, "limits", limits={"nibp_sys": {"low": 90}})
    cuff = {i: {"nibp_sys": 84.0 + i % 7} for i in range(0, 200, every_min)}
    values = [reading("s", 60 * i - 19_980, {"hr": 80 + i % 2, **cuff.get(i, {})}) for i in range(200)]
    (raised,) = (a for a in run(own, *values) if a["kind"] == "limit")
    assert (raised["signal"], raised["source"]["offset"]) == ("nibp_sys", every_min + 1)


times = st.integers(0, 3500)
vitals = st.dictionaries(
    st.sampled_from([*INPUTS, "pulse", "abp_sys", "abp_dia"]), st.sampled_from([35, 45, 60, 80, 160])
)
streams = st.lists(
    st.one_of(
        st.builds(reading, st.sampled_from("ab"), times, vitals),
        st.builds(event, st.sampled_from("ab"), times, st.just("ended")),
    ),
    max_size=80,
)


def time_of(value: bytes) -> datetime:
    """When a reading was observed, or an event came."""
    message = json.loads(value)
    return datetime.fromisoformat(message.get("observed_at") or message["at"])


@given(streams)
@settings(max_examples=60)
@pytest.mark.filterwarnings("error")
def test_any_stream_leaves_chains_from_which_open_alerts_can_be_kept(values: list[bytes]) -> None:
    in_order = sorted(values, key=time_of)
    result: ChunkResult = process(new_pipeline(), records(in_order))
    open_alerts: dict[tuple[Any, ...], dict[str, Any]] = {}
    revisions: defaultdict[str, list[int]] = defaultdict(list)
    for alert in decoded(result.alerts):
        key = tuple(alert[name] for name in ("stay_id", "kind", "signal", "side", "cause"))
        revisions[alert["alert_id"]].append(alert["revision"])
        if alert["state"] == "raised":
            assert key not in open_alerts
            open_alerts[key] = alert
        else:
            assert open_alerts[key]["alert_id"] == alert["alert_id"]
            if alert["state"] == "cleared":
                assert alert["clear_reason"]
                del open_alerts[key]
    assert all(found == list(range(len(found))) for found in revisions.values())


@pytest.mark.parametrize("every_min", [5, 15, 60])
def test_a_cuff_pressure_that_is_severely_low_twice_is_of_high_priority(every_min: int) -> None:
    def course(*pressures: float) -> list[tuple[str, int, str, str | None]]:
        cuff = {every_min * i: {"nibp_mean": pressure} for i, pressure in enumerate(pressures)}
        values = [reading("s", 60 * i - 19_980, {"hr": 80 + i % 2, **cuff.get(i, {})}) for i in range(200)]
        limits = {"default": {"nibp_mean": {"low": 65, "severe_low": 50}}}
        return states(run(*values, pipeline=new_pipeline(limits=limits)), "limit")[:1]

    assert course(80, 39, 41) == [("raised", 0, "high", None)]
    assert course(80, 39, 60) == [("raised", 0, "medium", None)]
