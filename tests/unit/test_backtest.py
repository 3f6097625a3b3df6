"""Episodes, and what alerts are worth beside them: small cases that can be counted by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from schemas.recordings import Row, read_rows
from stream_worker.alerts.outlook import SUREST, probability_of
from stream_worker.backtest.command import show
from stream_worker.backtest.curve import Told, calibrated, cross_validated, curve_of, fit, told_of
from stream_worker.backtest.episodes import HYPOTENSION, EpisodeType, Recording, find_episodes, recording_of
from stream_worker.backtest.feed import alerts_of, results_of
from stream_worker.backtest.measures import (
    Span,
    Warnings,
    calibration,
    found,
    measure,
    plain_alerts,
    spans_of,
    warned,
)
from stream_worker.backtest.page import examples, found_plot, timeline, write_page
from stream_worker.backtest.report import report_of
from stream_worker.backtest.threats import Threats, announced_at
from stream_worker.limits import DEFAULT_LIMITS, SignalLimits
from stream_worker.times import MINUTE_US, to_us
from tests.arithmetic_model import MANIFEST
from tests.recordings import write_recording
from tests.records import new_pipeline

NAN = np.nan
START = datetime(2026, 11, 1, tzinfo=UTC)


def rows(*pressures: float | None) -> list[Row]:
    """A row a minute."""
    return [
        Row(START + timedelta(minutes=i), {} if p is None else {"hr": 80.0 + i % 2, "abp_mean": p})
        for i, p in enumerate(pressures)
    ]


def recording(*pressures: float | None) -> Recording:
    return recording_of("s", rows(*pressures))


def spans(*times: tuple[float, float], kind: str = "forecast_limit", probability: float | None = None) -> list[Span]:
    return [
        Span("s", kind, "abp_mean", "low", None, raised, cleared, probability=probability, horizon_min=60)
        for raised, cleared in times
    ]


@pytest.mark.parametrize(
    ("values", "episodes"),
    [
        ([80, 60, 60, 60, 60, 60, 80], [(1, 6)]),
        ([80, 60, 60, 60, 60, 80, 80], []),  # too short
        ([80, 60, NAN, 60, NAN, 60, 80], [(1, 6)]),  # most were observed
        ([80, 60, NAN, NAN, NAN, 60, 80], []),  # too few were
        ([80, 60, 60, 60, 60, 60, NAN, 60, 80], [(1, 8)]),  # it lasts until a value is seen inside
        ([60] * 5 + [80] * 30 + [60] * 5, [(0, 40)]),  # so soon after: the same
        ([60] * 5 + [80] * 31 + [60] * 5, [(0, 5), (36, 41)]),
    ],
)
def test_episodes_are_those_of_the_definition(values: list[float], episodes: list[tuple[int, int]]) -> None:
    assert find_episodes(np.array(values, float), HYPOTENSION) == episodes


def test_a_brief_return_does_not_end_a_long_episode() -> None:
    half_an_hour = EpisodeType("abp_mean", "low", 60, 30)
    values = np.full(40, 55.0)
    values[[10, 15, 20]] = 70
    assert [e.start for e in find_episodes(values[:30], half_an_hour)] == [0]
    values[25] = 70
    assert find_episodes(values[:30], half_an_hour) == []


def test_artefacts_are_not_the_truth() -> None:
    row = Row(START, {"hr": 400.0, "abp_sys": 80.0, "abp_dia": 90.0, "abp_mean": 85.0, "spo2": 97.0})
    values = recording_of("s", [row]).values
    assert {name for name, found in values.items() if not np.isnan(found[0])} == {"spo2"}


def test_a_value_out_of_range_contradicts_no_other() -> None:
    """As in the worker: what is out of range was never there, and the other two pressures stand."""
    values = recording_of("s", [Row(START, {"abp_sys": 20.0, "abp_dia": 60.0, "abp_mean": 80.0})]).values
    assert {name for name, found in values.items() if not np.isnan(found[0])} == {"abp_dia", "abp_mean"}


@pytest.mark.parametrize(("raised", "in_time"), [(10.0, 1), (16.0, 1), (17.0, 0)])
def test_a_limit_alert_is_in_time_until_two_minutes_after_confirmation(raised: float, in_time: int) -> None:
    #        10   confirmed with the reading at 14    latest 16
    stay = recording(*[80] * 10, *[60] * 20)
    alerts = {"s": spans((raised, 30), kind="limit")}
    assert found(HYPOTENSION, [stay], alerts).alerted == in_time


def test_an_alert_that_ended_before_the_episode_does_not_count_for_it() -> None:
    stay = recording(*[80] * 10, *[60] * 20)
    assert found(HYPOTENSION, [stay], {"s": spans((5, 9), kind="limit")}).alerted == 0


def test_an_alert_that_was_open_already_is_in_time_but_not_newly_raised() -> None:
    stay = recording(*[80] * 10, *[45] * 20)
    severe = EpisodeType("abp_mean", "low", 50, 2)
    for raised, newly in ((4.0, 0), (10.0, 1), (11.0, 1)):
        alert = Span("s", "limit", "abp_mean", "low", None, raised, 40, high_from=raised)
        for row in (found(HYPOTENSION, [stay], {"s": [alert]}), found(severe, [stay], {"s": [alert]}, is_severe=True)):
            assert (row.alerted, row.newly) == (1, newly)


def test_the_tables_say_that_open_alerts_count(capsys: pytest.CaptureFixture[str]) -> None:
    alert = Span("s", "limit", "abp_mean", "low", None, 4, 40)
    show(measure("one stay", [recording(*[80] * 10, *[60] * 20)], [alert]), Console(width=200))
    said = capsys.readouterr().out
    assert "open or raised in time" in said
    (row,) = (line for line in said.splitlines() if f" {HYPOTENSION} " in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == ["1", "1", "1", "1.000", "0"]


def test_days_without_data_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    half = recording(*[80] * 10, *[None] * 9, 80, *[500] * 10)  # beyond any pressure: nothing to judge
    half.values["hr"][20:] = NAN
    group = measure("half", [half], spans((1, 5)))
    assert (group.days, group.monitored_days) == (round(30 / 1440, 2), round(11 / 1440, 2))
    assert (group.raised_per_day, group.raised_per_monitored_day) == (48, round(1440 / 11, 2))
    show(group, Console(width=200))
    assert "130.9 alerts raised a monitored day" in capsys.readouterr().out
    nothing = measure("nothing", [recording(None, None)], [])
    assert (nothing.monitored_days, nothing.raised_per_monitored_day) == (0, None)


def test_without_episodes_no_share_of_them_is_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    group = measure("calm", [recording(*[80] * 20)], [])
    assert {row.share for row in (*group.found, *group.severe)} == {None}
    assert set(found_plot(group).data[0].x) == {None}
    show(group, Console(width=200))
    (row,) = (line for line in capsys.readouterr().out.splitlines() if str(HYPOTENSION) in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == ["0", "0", "0", "-", "0"]


def test_early_warnings_are_counted_as_the_definition_says() -> None:
    stay = recording(*[80] * 100, *[60] * 10, *[80] * 90)  # one episode, at 100
    #                    too early, but open 5 min before; strict; too late to warn; after it
    alerts = {"too early": (20, 96), "strict": (60, 70), "too late": (97, 99), "after": (150, 160)}
    one = {name: warned(name, [stay], {"s": [times]}) for name, times in alerts.items()}
    assert [row.strict for row in one.values()] == [0, 1, 0, 0]
    assert [row.loose for row in one.values()] == [1, 1, 0, 0]
    assert [row.precision for row in one.values()] == [0, 1, 1, 0]
    together = warned("all", [stay], {"s": list(alerts.values())})
    assert (together.precision, together.open) == (0.5, (76 + 10 + 2 + 10) / 200)


def test_plain_rules_wait_between_raises() -> None:
    values = np.array([80, 69, 73, 69, 73, 80, 69, NAN])
    assert plain_alerts(values, 70, 72, 0) == [(1, 2), (3, 4), (6, 8)]
    assert plain_alerts(values, 70, 72, 5) == [(1, 2), (6, 8)]


def test_calibration_asks_whether_an_episode_began_within_the_horizon() -> None:
    stay = recording(*[80] * 100, *[60] * 10)
    alerts = [*spans((50, 60), probability=0.35), *spans((20, 30), probability=0.31), *spans((90, 99), probability=0.6)]
    bins = calibration([stay], {"s": alerts})
    assert [(b.low, b.alerts, b.true) for b in bins] == [(0.3, 2, 1), (0.6, 1, 1)]


def test_recordings_go_through_the_pipeline_and_their_alerts_are_judged(tmp_path: Path) -> None:
    paths = [write_recording(tmp_path, "low", rows(*[*[80.0] * 20, *[60.0] * 10, *[80.0, None] * 6]))]
    paths.append(write_recording(tmp_path, "calm", rows(*[80.0] * 30)))
    recordings = {path.name.split(".")[0]: recording_of(path.name.split(".")[0], read_rows(path)) for path in paths}
    done: list[int] = []
    alerts = list(alerts_of(results_of(new_pipeline(), paths, report=done.append)))
    limit = [span for span in spans_of(alerts, recordings) if span.kind == "limit"]
    assert [(s.stay_id, s.raised, s.cleared, s.clear_reason) for s in limit] == [("low", 24, 40, "recovered")]
    assert sum(done) == 72
    group = measure("all", list(recordings.values()), limit)
    assert {row.episode: (row.episodes, row.alerted) for row in group.found if row.episodes} == {
        str(HYPOTENSION): (1, 1)
    }
    assert group.by_kind == {"limit": round(1440 / (42 + 30), 3)}
    report = report_of(MANIFEST, recordings, limit)
    assert set(report.stays) == {"low", "calm"}
    assert report.stays["calm"] == {"all": 0}


def announcing(recording: Recording, times: Sequence[int]) -> Threats:
    """What the rule sees of a stay whose forecast is sure of a fall at `times`, minutes, and of none at others."""
    n = recording.minutes
    ahead = np.full(n, -6.0)
    ahead[list(times)] = 3.0
    quantiles = np.tile(np.array([60, 65, 70], np.float32), (n, 3, 1))
    return Threats((recording.start + np.arange(n)) * 60_000_000, recording.values["abp_mean"], ahead, quantiles)


def test_the_rule_is_replayed_from_what_it_saw() -> None:
    stay = recording(*[80, 72, 71] * 40)
    limits = DEFAULT_LIMITS.root["abp_mean"]
    times = announced_at(announcing(stay, [0, 10, 11, 12, 100, 101]), limits)
    # The first alone is not sustained. An hour must pass; the odds end both.
    assert [(raised - stay.start, cleared - stay.start) for raised, cleared in times] == [(11, 13), (101, 102)]
    assert announced_at(announcing(stay, [10, 11]), limits.changed({"low": None})) == []


def test_thresholds_are_judged_on_stays_they_were_not_chosen_on() -> None:
    few, many = Warnings(10, 4, 4, 5, 5, 0, 1), Warnings(10, 8, 8, 20, 8, 0, 1)
    table = {"strict": {f"s{i}": few for i in range(10)}, "lax": {f"s{i}": many for i in range(10)}}
    half, most = cross_validated(table, 0.4), cross_validated(table, 0.8)
    assert half is not None
    assert most is not None
    assert (half.settings, half.warned.alerts_per_day) == (("strict",) * 5, 5.0)
    assert (most.settings, most.warned.strict, most.warned.precision) == (("lax",) * 5, 0.8, 0.4)
    assert cross_validated(table, 0.9) is None
    odd = {"strict": {**table["strict"], "s0": Warnings(100, 0, 0, 0, 0, 0, 1)}, "lax": table["lax"]}
    point = cross_validated(odd, 0.4)
    assert point is not None
    # s0 needs the lax threshold, and is judged by the strict one: it was not there when that was chosen.
    assert point.settings == ("strict", "lax", "lax", "lax", "lax")


def test_stays_the_model_has_not_seen_are_judged_apart() -> None:
    few, many = Warnings(10, 4, 4, 5, 5, 0, 1), Warnings(10, 8, 8, 20, 8, 0, 1)
    table = {"strict": {**{f"s{i}": many for i in range(9)}, "s9": few}}
    point = cross_validated(table, 0.4, unseen=["s8", "s9"])
    assert point is not None
    assert point.unseen is not None
    assert (point.warned.strict, point.unseen.strict, point.unseen.alerts_per_day) == (0.76, 0.6, 12.5)
    # Of a model that was trained on none of them, all is unseen.
    everything = cross_validated(table, 0.4, unseen=[f"s{i}" for i in range(10)])
    assert everything is not None
    assert everything.unseen is None


def test_announcements_are_joined_to_what_came_of_them() -> None:
    stay = recording(*[72, 71] * 50, *[60] * 10, *[72, 71] * 50)
    told = told_of(stay, announcing(stay, [10, 11, 80, 81, 150, 151]), DEFAULT_LIMITS.root["abp_mean"])
    # Episode at 100: 89 min after the first alert, 19 min after the second, before the third.
    assert told.ahead.tolist() == [3.0] * 3
    assert told.is_true.tolist() == [False, True, False]


def test_probabilities_are_fitted_on_some_stays_and_judged_on_others() -> None:
    rng = np.random.default_rng(7)
    ahead = rng.uniform(-3, 1, 20_000)
    is_true = rng.random(len(ahead)) < [probability_of(x, (0.4, 0.5)) for x in ahead.tolist()]
    assert fit([Told(ahead, is_true)]) == pytest.approx((0.4, 0.5), abs=0.08)
    # What a stay says is fitted on the others: in the last nothing came true, which only they are told of.
    told = {f"s{i}": Told(np.full(50, SUREST), np.arange(50) < 25) for i in range(4)}
    told["s4"] = Told(np.full(50, SUREST), np.zeros(50, np.bool_))
    assert [(b.low, b.alerts, b.true) for b in calibrated(told)] == [(0.3, 200, 100), (0.5, 50, 0)]


@pytest.mark.parametrize("stays", [0, 1])
def test_too_few_stays_have_no_curve(stays: int) -> None:
    """None: a model that does not forecast the mean pressure."""
    stay = recording(*[72, 71] * 50, *[60] * 10)
    threats = dict.fromkeys([f"s{i}" for i in range(stays)], announcing(stay, [80, 81]))
    assert curve_of({"s0": stay}, threats, DEFAULT_LIMITS.root["abp_mean"]) is None


def test_two_stays_have_a_curve_though_nothing_is_announced() -> None:
    stays = {name: recording(*[72, 71] * 50)._replace(stay_id=name) for name in "ab"}
    threats = {name: announcing(stay, []) for name, stay in stays.items()}
    curve = curve_of(stays, threats, DEFAULT_LIMITS.root["abp_mean"])
    assert curve is not None
    assert (curve.cross_validated, curve.calibration, curve.fitted) == ((), (), (0.0, 0.0))


def test_without_announcements_nothing_is_fitted() -> None:
    assert fit([]) == (0.0, 0.0)
    assert calibrated({}) == ()


def test_the_page_holds_all_it_shows(tmp_path: Path) -> None:
    stays = {
        name: recording(*[80] * 100, *[60] * 10, *[80] * 90, *[60] * 10, *([70] * 50 + [60] * 6)) for name in "abc"
    }
    stays = {name: stay._replace(stay_id=name) for name, stay in stays.items()}
    alerts = [
        Span("a", "forecast_limit", "abp_mean", "low", None, raised, raised + 20, probability=0.45, horizon_min=60)
        for raised in (70, 180, 245)
    ]
    alerts.append(Span("b", "technical", "hr", None, "sensor_off", 10, priority="low"))
    threats = {name: announcing(stay, [70]) for name, stay in stays.items()}
    curve = curve_of(stays, threats, DEFAULT_LIMITS.root["abp_mean"])
    report = report_of(MANIFEST, stays, alerts, curve)
    write_page(tmp_path / "page.html", report, stays, alerts, threats, MANIFEST.horizons_s, DEFAULT_LIMITS.root)
    page = (tmp_path / "page.html").read_text()
    for said in ("Best stay: a", "3 of 3 announcements came true", "Worst stay", "sensor_off", "all thresholds"):
        assert said in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)


def test_an_announcement_at_the_last_reading_is_shown_whatever_its_fraction_of_a_second() -> None:
    for ms in range(30):
        at = START + timedelta(milliseconds=ms)
        stay = recording_of("s", [Row(at - timedelta(minutes=1), {"abp_mean": 80.0}), Row(at, {"abp_mean": 70.0})])
        raised = Span("s", "forecast_limit", "abp_mean", "low", None, at.timestamp() / 60 - stay.start)
        at_us = np.array([to_us(at) - MINUTE_US, to_us(at)])
        threats = Threats(at_us, np.array([80.0, 70.0]), np.array([0.0, 1.0]), np.zeros((2, 3, 3), np.float32))
        shown = timeline(stay, [raised], threats, MANIFEST.horizons_s, {})
        (announced,) = (trace for trace in shown.data if trace.name == "announced")
        assert announced.y[0] == 70


@pytest.mark.parametrize(("number", "titles"), [(0, ""), (1, "Best"), (2, "Best Worst"), (5, "Best Typical Worst")])
def test_each_stay_is_an_example_once(number: int, titles: str) -> None:
    ill = recording(*([80] * 40 + [60] * 5) * 3)
    shown = list(examples({f"s{n}": ill for n in range(number)}, []))
    assert [example.title for example in shown] == [f"{title} stay" for title in titles.split()]


def test_no_band_is_drawn_over_a_time_without_readings() -> None:
    stay = recording(*[80] * 10, *[None] * 60, *[80] * 10)
    at = np.r_[:10, 70:80]
    quantiles = np.full((20, 3, 3), [60, 70, 80], np.float32)
    threats = Threats((stay.start + at) * MINUTE_US, np.full(20, 80.0), np.zeros(20), quantiles)
    (band,) = (trace for trace in timeline(stay, [], threats, MANIFEST.horizons_s, {}).data if trace.fill == "toself")
    hours = np.where(np.isnan(band.y), np.nan, band.x)
    assert np.nanmax(np.abs(np.diff(hours))) * 60 < 2
    assert (np.nanmin(band.y), np.nanmax(band.y)) == (60, 80)


def test_the_limits_that_are_drawn_are_those_of_the_settings() -> None:
    shown = timeline(recording(*[80] * 10), [], None, MANIFEST.horizons_s, {"abp_mean": SignalLimits(low=70)})
    assert [line.y0 for line in shown.layout.shapes] == [70]


def test_the_tables_fit_a_usual_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(measure("one stay", [recording(*[60] * 10)], spans((1, 5), probability=0.4)), Console(width=80))
    said = capsys.readouterr().out
    for row in ("Early warning", "abp_mean < 60 for 30 min", "below 70, off 72, rearm 30"):
        assert row in said
