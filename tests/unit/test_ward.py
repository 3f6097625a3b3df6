"""A ward built from the topics: newest values, forecasts at a horizon, an exact list of open alerts."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from msgspec import structs

from schemas.alert import Heartbeat
from schemas.codec import encode
from schemas.forecast import Source
from schemas.reading import Reading
from stream_worker.settings import Settings
from stream_worker.ward import Band, Ward, usable_values
from stream_worker.ward_feed import take_in
from tests.ward_records import T0, alert, at, came, ended, forecast, reading, ward_of


def ids(ward: Ward) -> list[str]:
    return [alert.alert_id for alert in ward.open_alerts]


def test_an_older_reading_does_not_replace_a_newer_value() -> None:
    ward = ward_of(reading(minutes=2, hr=80), reading(minutes=1, hr=99, spo2=97))
    values = ward.beds["a"].values
    assert (values["hr"].value, values["hr"].at) == (80, at(2))
    assert values["spo2"].value == 97
    assert ward.newest == at(2)


def test_values_are_shown_as_the_worker_takes_them() -> None:
    shown = usable_values(
        Reading(
            stay_id="a",
            observed_at=T0,
            vitals={
                "hr": -100.0,
                "temp": 98.6,
                "abp_mean": 10.0,
                "spo2": 97.0,
                "resp": 12.0,
                "odd": 1.0,
                "pulse": None,
            },
            units={"temp": "[degF]", "abp_mean": "kPa", "resp": "furlong"},
            quality={"spo2": "invalid"},
        )
    )
    assert shown == {"temp": 37.0, "abp_mean": 75.0}


def test_the_band_is_that_of_the_horizon_asked_for() -> None:
    ward = ward_of(forecast(median=70))
    assert ward.beds["a"].band("abp_mean", 900) == Band(70, 65, 75, 900)
    assert ward.beds["a"].band("abp_mean", 30) == Band(70, 69, 71, 60)
    assert ward.beds["a"].band("hr") is None


def test_a_signal_that_only_the_model_declares_is_shown_by_its_forecast() -> None:
    assert ward_of(forecast(signal="value", median=5)).beds["a"].values["value"].value == 5


def test_an_older_forecast_does_not_replace_a_newer_one() -> None:
    ward = ward_of(forecast(minutes=2, median=80), forecast(minutes=1, median=60))
    band = ward.beds["a"].band("abp_mean")
    assert band is not None
    assert band.median == 80


def test_open_alerts_follow_raised_updated_cleared() -> None:
    ward = ward_of(alert("x"), alert("y", priority="high"))
    assert ids(ward) == ["y", "x"]
    ward.apply(alert("x", revision=1, state="updated", priority="high", minutes=5), came())
    assert ids(ward) == ["x", "y"]  # same priority now, and newer
    ward.apply(alert("y", revision=1, state="cleared", priority="high", clear_reason="recovered"), came())
    assert ids(ward) == ["x"]
    ward.apply(alert("x", revision=2, state="cleared", clear_reason="recovered"), came())
    assert ids(ward) == []


def test_beds_are_sorted_by_need() -> None:
    ward = ward_of(
        *(reading(stay_id, hr=80) for stay_id in "abcd"),
        alert("1", "c", priority="high"),
        alert("2", "b"),
        alert("3", "d"),
        alert("4", "d", kind="technical"),
    )
    assert [bed.stay_id for bed, _ in ward.by_need()] == ["c", "d", "b", "a"]


def test_a_stay_known_by_its_alert_alone_is_a_bed_until_the_alert_clears() -> None:
    ward = ward_of(alert("x", "z"))
    assert [(bed.stay_id, len(alerts)) for bed, alerts in ward.by_need()] == [("z", 1)]
    ward.apply(alert("x", "z", revision=1, state="cleared"), came())
    assert ward.by_need() == []


def test_an_ended_stay_leaves_and_its_last_forecasts_do_not_bring_it_back() -> None:
    ward = ward_of(reading(minutes=4, hr=80), ended(5), forecast(minutes=4))
    assert ward.beds == {}
    ward.apply(reading(minutes=60, hr=81), came(4))
    assert list(ward.beds) == ["a"]


def test_an_earlier_end_that_is_read_later_does_not_bring_a_stay_back() -> None:
    ward = ward_of()
    for offset, record in ((3, ended(10)), (1, ended(5)), (2, reading(minutes=7, hr=80))):
        ward.apply(record, came(offset))
    assert ward.beds == {}


def test_a_stay_ends_when_the_event_comes_whatever_its_time() -> None:
    """As the worker ends it: a discharge is often written down with an earlier time."""
    assert ward_of(reading(minutes=9, hr=80), ended(5), forecast(minutes=9)).beds == {}


def test_a_stay_that_goes_on_after_its_end_is_shown_whatever_its_times() -> None:
    """As a replay of old recordings is, after `vitalcast state forget`."""
    ward = ward_of(reading(minutes=0, hr=80), ended(100_000), reading(minutes=1, hr=81))
    assert ward.beds["a"].values["hr"].value == 81
    ward.apply(forecast(minutes=0), came())  # of the reading at offset 1, which came before the end
    assert ward.beds["a"].forecast is None


def test_the_past_of_a_models_own_signal_does_not_replace_its_present() -> None:
    ward = ward_of(forecast(minutes=240, signal="value", median=5), forecast(minutes=0, signal="value", median=1))
    assert ward.beds["a"].values["value"].at == at(240)


def test_pressures_that_contradict_each_other_are_not_shown() -> None:
    ward = ward_of(reading(minutes=0, abp_sys=120, abp_dia=60, abp_mean=80))
    ward.apply(reading(minutes=1, abp_sys=80, abp_dia=120, abp_mean=62, hr=70), came(2))
    assert {name: known.value for name, known in ward.beds["a"].values.items()} == {
        "abp_sys": 120,
        "abp_dia": 60,
        "abp_mean": 80,
        "hr": 70,
    }


def test_an_earlier_revision_does_not_replace_a_later_one() -> None:
    ward = ward_of(alert(), alert(revision=1, state="updated", priority="high"), alert())
    assert [known.priority for known in ward.open_alerts] == ["high"]


def test_an_end_in_the_future_which_the_worker_refuses_is_none() -> None:
    settings = Settings()
    ward = ward_of()
    for offset, record in enumerate((ended(60), reading(minutes=0, hr=80))):
        sent = {"offset": offset, "timestamp": int(at(0).timestamp() * 1000), "value": encode(record)}
        take_in(ward, SimpleNamespace(topic=settings.readings_topic, partition=0, **sent), settings)
    assert list(ward.beds) == ["a"]


def test_a_record_stamped_with_a_time_to_come_makes_no_stay_forgotten() -> None:
    settings, now_ms = Settings(), time.time_ns() // 1_000_000
    ward = Ward(stale_after=timedelta(minutes=15), forget_after=timedelta(days=1))
    for offset, (stay_id, ahead_ms) in enumerate([("a", 0), ("b", 0), ("ahead", 3 * 86_400_000)]):
        sent = {"offset": offset, "timestamp": now_ms + ahead_ms, "value": encode(reading(stay_id, 0, hr=80))}
        take_in(ward, SimpleNamespace(topic=settings.readings_topic, partition=0, **sent), settings)
    assert set(ward.beds) == {"a", "b", "ahead"}


def test_what_nobody_has_heard_of_for_long_is_forgotten() -> None:
    ward = Ward(stale_after=timedelta(minutes=15), forget_after=timedelta(days=1))
    hour_ms = 3_600_000
    for hour, record in (
        (0, reading("gone", 0, hr=80)),
        (0, reading("open", 0, hr=80)),
        (0, alert(stay_id="open")),
        (0, ended(1, "ended")),
        (2, reading("of years ago", -1_000_000, hr=80)),
        (25, reading("here", 0, hr=80)),
    ):
        ward.apply(record, came(1 + hour, hour * hour_ms))
    assert set(ward.beds) == {"open", "of years ago", "here"}
    ward.apply(reading("ended", 1, hr=80), came(0))  # long over, and no longer remembered as such
    assert "ended" in ward.beds


def test_an_alert_whose_end_never_comes_is_let_go() -> None:
    """What is open is told once a day, and cleared a day after the last reading: here the default of evict_after_s."""
    ward = Ward(stale_after=timedelta(minutes=15), forget_after=timedelta(days=1))
    hour_ms = 3_600_000
    for hour in range(50):
        if hour == 0:
            ward.apply(alert("lost"), came(0, 0))
        if hour % 24 == 0:
            ward.apply(alert("open", revision=hour), came(hour, hour * hour_ms))
        ward.apply(reading(minutes=hour * 60, hr=80), came(hour, hour * hour_ms))
        assert ids(ward) == (["lost", "open"] if hour <= 48 else ["open"])


@pytest.mark.parametrize(
    ("quality", "is_shown"), [("good", True), ("questionable", True), ("invalid", False), ("odd", False)]
)
def test_values_of_a_quality_that_nobody_knows_are_not_shown(quality: str, is_shown: bool) -> None:
    taken = usable_values(Reading(stay_id="a", observed_at=at(0), vitals={"hr": 80.0}, quality={"hr": quality}))
    assert ("hr" in taken) == is_shown


def test_age_is_against_the_newest_event_time() -> None:
    ward = ward_of(reading("a", 0, hr=80), reading("b", 10, hr=80))
    assert ward.age(at(0)) == timedelta(minutes=10)
    assert ward.behind(at(14)) is None
    assert ward.behind(at(70)) == timedelta(minutes=60)


def test_a_silent_worker_is_told_from_a_calm_ward() -> None:
    beat = Heartbeat(partition=0, produced_at=at(0), newest_observed_at=None, state="running")
    assert ward_of().worker(at(0)) == "not heard from"
    assert ward_of(beat).worker(at(0.2)) == "running, 1 partition"
    assert ward_of(beat).worker(at(2)) == "silent on 1 of 1 partitions"
    stopping = Heartbeat(partition=0, produced_at=at(1), newest_observed_at=None, state="stopping")
    assert ward_of(beat, stopping).worker(at(1)) == "stopped"
    assert [ward_of(*beats).is_running(at(0.2)) for beats in ((), (beat,), (beat, stopping))] == [False, True, False]


def test_a_worker_whose_clock_is_ahead_is_not_alive_for_longer() -> None:
    settings, now = Settings(), datetime.now(UTC)
    beat = Heartbeat(partition=0, produced_at=now + timedelta(hours=1), newest_observed_at=None, state="running")
    ward = ward_of()
    sent = {"partition": 0, "offset": 0, "timestamp": int(now.timestamp() * 1000), "value": encode(beat)}
    take_in(ward, SimpleNamespace(topic=settings.alerts_topic, **sent), settings)
    assert ward.is_running(now)
    assert not ward.is_running(now + timedelta(minutes=10))


def test_a_worker_that_was_never_heard_from_is_told_once_it_should_have_been() -> None:
    beat = Heartbeat(partition=0, produced_at=at(0), newest_observed_at=None, state="running")
    assert not ward_of().is_unwatched(at(0.4), since=at(0))  # both may just have been started
    assert ward_of().is_unwatched(at(0.6), since=at(0))
    assert not ward_of(beat).is_unwatched(at(0.4), since=at(-9))
    assert ward_of(beat).is_unwatched(at(0.6), since=at(0.5))  # heard from, and silent since


def test_the_past_may_be_read_after_the_present() -> None:
    old = Reading(stay_id="a", observed_at=at(-5), vitals={"hr": 99.0, "temp": 37.0}, care_unit="before")
    new = Reading(stay_id="a", observed_at=at(0), vitals={"hr": 80.0}, care_unit="now")
    ward = ward_of()
    for offset, record in (
        (2, new),
        (2, forecast(minutes=0, median=70)),
        (1, forecast(minutes=-5, median=90)),
        (1, old),
        (0, ended(-60)),
    ):
        ward.apply(record, came(offset))
    bed = ward.beds["a"]
    assert {name: observed.value for name, observed in bed.values.items()} == {"hr": 80, "temp": 37}
    assert bed.care_unit == "now"
    assert bed.forecast is not None
    assert bed.forecast.issued_at == at(0)


def test_of_a_past_that_is_read_after_the_present_the_newest_counts() -> None:
    """The newest reading does not say where the stay is; of two forecasts of one time the later one stands."""
    units = (None, "before", "now", None)
    readings = [
        Reading(stay_id="a", observed_at=at(i), vitals={"hr": 80.0}, care_unit=unit) for i, unit in enumerate(units)
    ]
    forecasts = [structs.replace(forecast(median=70 + i), source=Source("vitals.readings", 0, i)) for i in range(4)]
    ward = ward_of()
    for offset in (3, 0, 1, 2):
        ward.apply(readings[offset], came(offset))
        ward.apply(forecasts[offset], came(offset))
    assert ward.beds["a"].care_unit == "now"
    assert ward.beds["a"].forecast == forecasts[3]


def test_stale_is_what_the_settings_say() -> None:
    ward = Ward(stale_after=timedelta(minutes=3), forget_after=timedelta(days=1))
    ward.apply(reading("a", 0, hr=80), came(1))
    ward.apply(reading("b", 3, hr=80), came(2))
    assert not ward.is_stale(ward.beds["a"])
    ward.apply(reading("b", 4, hr=80), came(3))
    assert ward.is_stale(ward.beds["a"])


def test_a_forecast_for_a_time_that_has_come_is_none() -> None:
    ward = ward_of(reading("a", 0, abp_mean=70), forecast("a", 0), reading("b", 14, hr=80))
    bed = ward.beds["a"]
    assert ward.band(bed, "abp_mean", 900) == Band(70, 65, 75, 900)
    ward.apply(reading("b", 15, hr=80), came(4))
    assert ward.band(bed, "abp_mean", 900) is None


def test_a_stand_in_is_shown_while_the_first_is_not_observed() -> None:
    ward = ward_of(reading(minutes=0, nibp_mean=80), reading(minutes=1, abp_mean=70))
    bed = ward.beds["a"]
    assert ward.shown(bed, ("abp_mean", "nibp_mean")) == "abp_mean"
    ward.apply(reading(minutes=20, nibp_mean=81), came(3))
    assert ward.shown(bed, ("abp_mean", "nibp_mean")) == "nibp_mean"
    assert ward.shown(bed, ("resp",)) is None


def test_a_ward_that_is_fed_no_more_is_told_from_a_replay() -> None:
    def unfed(came_at: float, now: float) -> timedelta | None:
        ward = ward_of()
        ward.apply(reading(hr=80), came(timestamp_ms=int(at(came_at).timestamp() * 1000)))
        return ward.unfed(at(now))

    assert unfed(came_at=0, now=5) is None
    assert unfed(came_at=0, now=7) == timedelta(minutes=7)
    assert unfed(came_at=600, now=601) is None
    assert ward_of(forecast()).unfed(at(7)) is None, "when the last reading came is not known"
