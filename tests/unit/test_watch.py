"""The ward as text: what a viewer must be able to read off it, at any width and without colours."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Literal

import pytest
from rich.console import Console

from schemas.alert import Heartbeat
from stream_worker.times import to_ms
from stream_worker.ward import Ward
from stream_worker.watch import WardView, plain_lines, shown_signals, status_line
from tests.ward_records import alert, at, came, forecast, reading, ward_of


def text_of(ward: Ward, width: int = 120, height: int = 40, now: datetime | None = None) -> str:
    console = Console(width=width, height=height, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(WardView(ward, lambda: now or at(0), footer=lambda: ["foot"]))
    return capture.get()


def test_a_bed_shows_value_forecast_and_band() -> None:
    text = text_of(ward_of(reading(abp_mean=71.5, hr=88, temp=37.25), forecast(median=66)))
    assert "72" in text
    assert "↘66 61-71" in text
    assert "37.2" in text
    assert "never the sole source of an alarm" in text


@pytest.mark.parametrize(("priority", "shown"), [("high", "◆ HIGH"), ("medium", "▲ MEDIUM"), ("low", "● LOW")])
def test_a_priority_is_a_shape_and_a_word(priority: str, shown: str) -> None:
    ward = ward_of(reading(hr=88), alert(priority=priority))
    assert f"{shown} MAP below 65 mmHg" in text_of(ward)
    assert f"1 {priority}" in status_line(ward, at(0))


def test_what_a_terminal_would_act_on_is_not_printed() -> None:
    name = "\x1b[2J\x1b]0;own\x07x\nb: ◆ HIGH"
    ward = ward_of(reading(name, hr=88), alert(stay_id=name, message="\x1b[31mred"))
    shown = text_of(ward) + "\n".join(plain_lines(ward, SimpleNamespace(read={}), at(0)))  # type: ignore[arg-type]
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert not [line for line in shown.splitlines() if line.startswith("b: ")]


@pytest.mark.parametrize(("states", "is_red"), [((), True), (("running",), False), (("running", "stopping"), True)])
def test_a_worker_that_does_not_run_is_red(states: tuple[Literal["running", "stopping"], ...], is_red: bool) -> None:
    beats = (Heartbeat(partition=0, produced_at=at(0), newest_observed_at=None, state=state) for state in states)
    console = Console(width=120, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(WardView(ward_of(*beats), lambda: at(0)))
    assert ("\x1b[1;31mworker " in capture.get()) == is_red


def test_an_old_value_says_how_old_it_is() -> None:
    ward = ward_of(reading("a", 0, hr=88), reading("b", 20, hr=70))
    assert "88 (20 min)" in text_of(ward, now=at(20))


def test_readings_far_behind_the_clock_are_not_taken_for_live() -> None:
    ward = ward_of(reading(hr=88))
    assert "2 h BEHIND THE CLOCK" in status_line(ward, at(150))
    assert "BEHIND" not in status_line(ward, at(1))


def test_a_narrow_terminal_does_not_cut_off_that_nothing_comes_any_more() -> None:
    ward = ward_of()
    ward.apply(reading(hr=88), came(timestamp_ms=to_ms(at(0))))
    text = text_of(ward, width=60, now=at(150))
    assert "NO READINGS FOR 2 h · 2 h BEHIND THE CLOCK · 1 bed" in text


def test_one_bed_is_one_bed() -> None:
    one = reading("a", hr=88)
    assert status_line(ward_of(one), at(0)).startswith("1 bed ")
    assert status_line(ward_of(one, reading("b", hr=70)), at(0)).startswith("2 beds ")


def test_narrow_terminals_show_fewer_signals_and_no_line_is_too_long() -> None:
    every = reading(hr=88, abp_mean=70, spo2=97, resp=12, abp_sys=110, abp_dia=55, temp=37, pulse=88)
    ward = ward_of(every, alert(message="x" * 500))
    assert shown_signals(ward, 80) == ["hr", "abp_mean", "spo2"]
    assert shown_signals(ward, 200) == ["hr", "abp_mean", "spo2", "resp", "abp_sys", "abp_dia", "temp"]
    for width in (40, 80, 120, 200):
        assert max(map(len, text_of(ward, width).splitlines())) <= width


def test_beds_that_do_not_fit_are_counted_and_those_in_need_stay() -> None:
    ward = ward_of(*(reading(f"bed-{n:02d}", hr=80) for n in range(30)), alert("x", "bed-29", priority="high"))
    text = text_of(ward, height=20)
    assert "bed-29" in text
    assert "more beds" in text
    assert len(text.splitlines()) <= 20


def test_a_bed_without_data_says_so_and_shows_no_forecast_of_the_past() -> None:
    ward = ward_of(reading("a", 0, abp_mean=70), forecast("a", 0), reading("b", 16, hr=80))
    text = text_of(ward, now=at(16))
    assert "NO DATA" in text
    assert "65-75" not in text


def test_a_cuff_stands_in_for_the_arterial_line() -> None:
    text = text_of(ward_of(reading(nibp_mean=83, hr=80)))
    assert "83" in text
    assert "NIBP" in text


def test_an_alert_that_was_said_long_ago_says_so() -> None:
    said = alert(minutes=0, message="Mean arterial pressure below 65 mmHg (61)")
    ward = ward_of(reading(minutes=0, abp_mean=61), said, reading(minutes=180, abp_mean=66))
    assert "▲ MEDIUM 3 h ago: MAP below 65 mmHg (61)" in text_of(ward, width=160, now=at(180))
    (line,) = plain_lines(ward, SimpleNamespace(read={}), at(180))[1:]  # type: ignore[arg-type]
    assert line == "  a: ▲ MEDIUM 3 h ago: Mean arterial pressure below 65 mmHg (61)"
