"""The live page in a real browser: what a viewer must see, and what must not be able to happen."""

from __future__ import annotations

import itertools
import math
import os
import re
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from schemas.forecast import SignalForecast
from schemas.reading import STAY_EVENT_V1, Reading, StayEvent
from stream_worker.playback import Playback
from stream_worker.view import server, tiles
from stream_worker.view.link import page_board
from tests.browser.load import BrowserLoad, percentiles
from tests.browser.pictures import PICTURES, keep_picture
from tests.browser.ward import VITALS, Served, forecast_of, row, served
from tests.ward_records import alert

# Twenty seconds in CI, a few at a desk, half an hour when somebody asks.
MANY_BEDS_FOR_S = float(os.environ.get("VITALCAST_TEST_MANY_BEDS_S", "20" if "CI" in os.environ else "6"))
SAMPLE_EVERY_S = 4  # well within the 2,000 updates that the page keeps the delays of
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>"\'>'


def until(page: Page, expression: str, within_s: float = 30) -> None:
    """Return once the expression is true. (Playwright's own wait uses eval, which the page forbids.)"""
    end = time.monotonic() + within_s
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(50)


def test_a_raised_alert_appears_first_and_clears(page: Page, live: Served) -> None:
    for stay_id in ("a", "b", "c"):
        live.reading(stay_id)
    expect(page.locator(".tile")).to_have_count(3)
    expect(page.locator(".tile .name").first).to_have_text("a")
    raised = alert("x", "c", priority="high", since=live.at(0), event_at=live.at(0), evidence={"limit": 65})
    live.apply(raised)
    first = page.locator(".tile").first
    expect(first.locator(".name")).to_have_text("c")
    expect(first.locator(".badge")).to_have_text("◆ high")
    expect(first.locator(".alerts")).to_contain_text("◆ MAP below 65 mmHg")
    expect(first.locator(".signal.high")).to_have_text("◆ MAP")
    keep_picture(page, "alert-open")
    expect(page.locator("#counts")).to_have_text("◆ 1 high")
    live.apply(alert("x", "c", revision=1, state="cleared", priority="high", clear_reason="recovered"))
    expect(page.locator("#counts")).to_have_text("no open alerts")
    expect(page.locator(".tile .badge:not(.none)")).to_have_count(0)


def test_of_more_beds_than_a_house_has_the_page_says_how_many_it_shows(
    page: Page, live: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (server, tiles):
        monkeypatch.setattr(module, "MOST_TILES", 2)
    for stay_id in ("a", "b", "c"):
        live.reading(stay_id)
    expect(page.locator("#status")).to_contain_text("3 beds, the 2 most in need shown · worker")
    expect(page.locator(".tile")).to_have_count(2)


def test_a_tile_shows_values_forecast_and_band(page: Page, live: Served) -> None:
    live.reading("a", abp_mean=75.0, hr=80.0)
    live.forecast("a", abp_mean=61.0)
    text = page.locator(".tile .rows").inner_text()
    expect(page.locator(".tile .then").last).to_contain_text("↘ 61")
    text = page.locator(".tile .rows").inner_text()
    assert re.search(r"MAP\s+75\s*mmHg.*↘ 61\s+55–67", text, re.DOTALL), text
    assert page.locator(".tile .band").last.get_attribute("d")


def test_what_is_heard_of_a_tile_tells_forecasts_from_values(page: Page, live: Served) -> None:
    live.reading("a", abp_mean=75.0)
    live.forecast("a", abp_mean=61.0)
    heard = re.compile(r"MAP 75 mmHg ?, forecast in 15 min, falling: ↘ 61 55–67")
    expect(page.get_by_role("link", name=heard)).to_be_visible()


def test_the_fan_moves_and_the_past_is_beside_it(page: Page, live: Served) -> None:
    for minute in range(-40, 1):
        live.reading("a", minute)
        live.forecast("a", minute)
    live.apply(alert("x", "a", since=live.at(-20), event_at=live.at(-20), evidence={"limit": 65, "last": 60}))
    page.locator(".tile").click()
    until(page, "document.querySelector('.plot')?.data?.length > 5")
    assert re.search(r"/#bed=[0-9a-f]{20}$", page.url)
    chart = page.locator(".chart", has=page.get_by_text("Mean arterial pressure", exact=True))
    expect(chart.locator(".fact")).to_contain_text("26 minutes of this stay: 100% of values in the 90 % band")
    expect(page.locator(".lives h2")).to_have_text("Alerts, open ones first")
    expect(page.locator(".life summary")).to_contain_text("▲ medium")
    end_of_fan = (
        "document.querySelectorAll('.plot')[1].data.filter(t => t.hovertemplate?.includes('forecast<'))[0].y[5]"
    )
    until(page, f"{end_of_fan} === 75")
    live.forecast("a", 0.5, shift=10)
    until(page, f"{end_of_fan} === 85")
    page.locator(".life summary").click()
    for theme in ("dark", "light"):
        page.keyboard.press("t")
        keep_picture(page, f"bed-{theme}")
    page.keyboard.press("Escape")
    expect(page.locator(".tile")).to_have_count(1)


def test_a_news2_alert_says_its_score_and_what_it_is_made_of(page: Page, live: Served) -> None:
    live.reading("a")
    message = "NEWS2 is 7: urgent review by the critical care team"
    evidence = {"score": 7, "points": {"resp": 3, "spo2": 2, "consciousness": 2}}
    score = alert("x", "a", kind="news2", signal=None, side=None, priority="high", message=message, evidence=evidence)
    live.apply(msgspec.structs.replace(score, event_at=live.at(0)))
    expect(page.locator(".tile .alerts")).to_have_text(f"◆ {message}")
    page.locator(".tile").click()
    expect(page.locator(".life b")).to_have_text(message)
    expect(page.locator(".life summary")).to_contain_text("open · NEWS2 · since")
    page.locator(".life summary").click()
    expect(page.locator(".life > .fact")).to_have_text("score 7 · points resp 3, spo2 2, consciousness 2")
    expect(page.locator("h1")).to_have_text("a")


def test_a_forecast_for_a_time_that_has_come_is_not_shown(page: Page, live: Served) -> None:
    live.reading("a", -14)
    live.forecast("a", -14)
    expect(page.locator(".tile .then b").first).to_have_text("→ 80")
    live.reading("b", 2)
    expect(page.locator(".tile", has_text="NO DATA").locator(".then b").first).to_have_text("")


def test_a_cuff_stands_in_for_the_arterial_line(page: Page, live: Served) -> None:
    live.reading("a", hr=80, nibp_sys=120, nibp_dia=70, nibp_mean=87)
    expect(page.locator(".tile .signal")).to_have_text(["HR", "NIBP"])
    page.locator(".tile").click()
    expect(page.locator(".chart h2")).to_have_text(
        ["Heart rate", "Mean cuff pressure", "Systolic cuff pressure", "Diastolic cuff pressure"]
    )
    expect(page.locator(".chart .fact").first).to_have_text("Not forecast, only shown as observed.")


def test_a_replay_is_played_paused_and_sped_up_by_button_and_key(browser: Browser) -> None:
    playback = Playback(60)
    with served(playback=playback) as live, live.worker():
        live.reading("a")
        page = browser.new_page()
        page.goto(live.address)
        bar = page.get_by_role("group", name="Replay")
        expect(bar).to_contain_text("60×")
        page.get_by_role("button", name="Pause").click()
        expect(bar).to_contain_text("paused")
        assert not playback.state.is_playing
        page.keyboard.press("p")
        expect(page.get_by_role("button", name="Pause")).to_be_visible()
        page.keyboard.press("+")
        expect(bar).to_contain_text("200×")
        page.get_by_role("button", name="−").click()
        page.keyboard.press("-")
        expect(bar).to_contain_text("20×")
        keep_picture(page, "replay")
        playback.end()
        expect(bar).to_contain_text("ended")
        expect(page.get_by_role("button", name="Pause")).to_be_disabled()
        page.close()


def test_no_line_and_no_band_goes_over_a_time_without_readings(page: Page, live: Served) -> None:
    for minute in (*range(-150, -120), *range(-40, 1)):
        live.reading("a", minute)
        live.forecast("a", minute)
    page.locator(".tile").click()
    page.get_by_role("button", name="4 h").click()
    until(page, "document.querySelector('.plot')?.data?.length > 2")
    drawn: list[dict[str, Any]] = page.evaluate(
        "document.querySelector('.plot').data.map(t => ({x: t.x.map(at => Date.parse(at) / 60000), y: t.y}))"
    )
    for trace in drawn:
        minutes = [None if y is None else x for x, y in zip(trace["x"], trace["y"], strict=True)]
        steps = [abs(b - a) for a, b in itertools.pairwise(minutes) if a is not None and b is not None]
        assert max(steps, default=0) <= 30, "between the last two horizons of the newest forecast"


def test_what_is_live_has_no_replay(page: Page, live: Served) -> None:
    live.reading("a")
    expect(page.locator(".tile")).to_have_count(1)
    expect(page.locator("#replay")).to_be_hidden()


def test_a_stale_bed_is_marked(page: Page, live: Served) -> None:
    live.reading("a", -20)
    live.reading("b", 0)
    stale = page.locator(".tile.stale")
    expect(stale.locator(".name")).to_have_text("a")
    expect(stale.locator(".age")).to_have_text("NO DATA · 20 min")
    expect(page.locator(".tile.ok, .tile.no_forecast")).to_have_count(1)


def test_a_stale_bed_with_a_long_name_is_marked_too(page: Page, live: Served) -> None:
    live.reading("de24d914-089b-413c-9f02-736bf2b2bf42", -20)
    live.reading("b", 0)
    mark = page.locator(".tile.stale .age")
    expect(mark).to_have_text("NO DATA · 20 min")
    assert mark.evaluate("mark => mark.scrollWidth <= mark.clientWidth")  # else it is cut off


def test_a_bed_whose_stay_ends_is_not_taken_for_one_that_is_awaited(page: Page, live: Served) -> None:
    live.reading("a")
    page.locator(".tile").click()
    expect(page.locator("h1")).to_have_text("a")
    live.apply(StayEvent(schema=STAY_EVENT_V1, stay_id="a", at=live.at(0), event="ended"))
    expect(page.locator("h1")).to_have_text("Unknown bed")
    live.reading("a", 1)
    expect(page.locator("h1")).to_have_text("a")


def test_hostile_names_and_messages_do_nothing(page: Page, live: Served) -> None:
    live.reading(HOSTILE)
    fan = {
        HOSTILE: SignalForecast(1.0, live.at(0), [row(1, 1)] * 5),
        "hr": SignalForecast(80.0, live.at(0), [row(80, 1)] * 5),
    }
    live.apply(forecast_of(HOSTILE, live.at(0), fan))
    evidence = {HOSTILE: HOSTILE}
    live.apply(alert("x", HOSTILE, message=HOSTILE, care_unit=HOSTILE, signal=HOSTILE, evidence=evidence))
    expect(page.locator(".tile .name")).to_have_text(HOSTILE)
    page.locator(".tile").click()
    until(page, "document.querySelector('.plot')?.data?.length > 2")
    expect(page.locator(".life b")).to_have_text(HOSTILE)
    page.locator(".life summary").click()
    page.locator(".messages summary").click()
    expect(page.locator(".messages pre")).to_have_count(3)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, main script").count() == 0
    assert "onerror" not in page.url


def test_bad_records_are_shown_calmly(page: Page, live: Served) -> None:
    live.forecast("never seen")
    live.reading("odd", made_up=1.0)
    live.apply(Reading(stay_id="odd", observed_at=live.at(0), vitals={"hr": None, "spo2": -999.0}))
    ragged = SignalForecast(80.0, live.at(0), [row(80, 1), [80.0], []])
    live.apply(forecast_of("odd", live.at(0), {"hr": ragged, "made_up": SignalForecast(1.0, live.at(0), [])}))
    empty = forecast_of(
        "empty", live.at(0), {"hr": SignalForecast(80.0, live.at(0), [])}, horizons_s=[], quantile_levels=[]
    )
    live.apply(empty)
    live.apply(alert("x", "alone", evidence={"probability": "high", "limit": None}))
    live.apply(alert("y", "alone", kind="technical", signal="made_up", side=None, since=live.at(60), message=""))
    expect(page.locator(".tile")).to_have_count(4)
    expect(page.locator(".tile.unseen")).to_have_count(3)
    expect(page.locator("#status")).to_contain_text("4 beds")
    keep_picture(page, "bad-input")
    for name in ("never seen", "alone", "empty", "odd"):
        page.get_by_text(name, exact=True).click()
        expect(page.locator("h1")).to_have_text(name)
        page.keyboard.press("Escape")
    page.goto(live.address + "#bed=0123456789")
    expect(page.locator("h1")).to_have_text("Unknown bed")


def test_search_filter_and_keys(page: Page, live: Served) -> None:
    for number in range(12):
        live.reading(f"bed-{number:02d}")
    live.apply(alert("x", "bed-07"))
    expect(page.locator(".tile")).to_have_count(12)
    page.keyboard.press("/")
    page.keyboard.type("bed-1")
    expect(page.locator(".tile:visible")).to_have_count(2)
    page.locator("input").fill("")
    page.get_by_role("button", name="With alerts").click()
    expect(page.locator(".tile:visible .name")).to_have_text(["bed-07"])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("bed-07")
    page.keyboard.press("Escape")
    expect(page.locator(".tile")).to_have_count(12)
    for theme in ("dark", "light", "auto"):
        page.keyboard.press("t")
        expect(page.locator("#theme")).to_have_text(f"Theme: {theme}")
        keep_picture(page, f"ward-{theme}")


def test_the_focus_stays_where_it_was(page: Page, live: Served) -> None:
    for number in range(40):
        live.reading(f"bed-{number:02d}")
    for name, signal in (("x", "hr"), ("y", "spo2")):
        live.apply(alert(name, "bed-30", signal=signal, event_at=live.at(0)))
    live.apply(alert("z", "bed-07", priority="high", event_at=live.at(0)))
    tile = page.locator(".tile", has_text="bed-29")
    tile.focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("bed-29")
    page.keyboard.press("Escape")
    expect(tile).to_be_focused()
    expect(tile).to_be_in_viewport()

    page.get_by_text("bed-30").click()
    for revision, summary in enumerate((page.locator(".life summary").last, page.locator(".messages summary")), 1):
        summary.focus()
        live.apply(alert("x", "bed-30", signal="hr", revision=revision, state="updated", event_at=live.at(0)))
        expect(page.locator(".messages pre").first).to_contain_text(f'"revision":{revision}')
        expect(summary).to_be_focused()


def test_a_lost_broker_is_said(page: Page, live: Served) -> None:
    live.reading("a")
    banner = page.locator("#banner")
    expect(banner).to_be_hidden()
    live.link.turn("lost")
    expect(banner).to_contain_text("Kafka does not answer, since")
    expect(banner).to_have_attribute("title", re.compile("UTC$"))
    live.link.turn("live")
    expect(banner).to_be_hidden()


def test_a_silent_and_a_stopped_worker_are_said(browser: Browser) -> None:
    with served() as live:
        live.reading("a")
        live.heartbeat(ago_s=120)
        page = browser.new_page()
        page.goto(live.address)
        banner = page.locator("#banner")
        expect(banner).to_have_text("The worker is silent on 1 of 1 partitions: alerts are missing until it is back.")
        live.heartbeat()
        expect(banner).to_be_hidden()
        live.heartbeat(state="stopping")
        expect(banner).to_have_text("The worker is stopped: alerts are missing until it is back.")
        page.close()


def test_a_worker_that_was_never_heard_from_is_said(browser: Browser) -> None:
    with served() as live:
        live.link.has_read_alerts = False
        live.link.since_ms = 0
        page = browser.new_page()
        page.goto(live.address)
        banner = page.locator("#banner")
        expect(banner).to_contain_text("Loading the alerts")
        live.link.has_read_alerts = True
        expect(banner).to_have_text("The worker is not heard from: alerts are missing until it is back.")
        expect(banner).to_have_class("grave")
        live.heartbeat()
        expect(banner).to_be_hidden()
        page.close()


def test_a_ward_of_which_nothing_comes_any_more_is_said(page: Page, live: Served) -> None:
    banner = page.locator("#banner")
    live.reading("a", -20)
    expect(banner).to_have_text("Not live: values are 20 min behind the clock.")
    live.board.clear()
    live.heartbeat()
    live.apply(Reading(stay_id="a", observed_at=live.at(-10), vitals={"hr": 80.0}), came_ago_s=600)
    expect(banner).to_have_text("No readings have come for 10 min. What you see is old.")
    expect(banner).to_have_class("grave")
    live.reading("a")
    expect(banner).to_be_hidden()


def test_times_are_the_viewers_with_utc_in_the_tooltip(page: Page, live: Served) -> None:
    live.reading("a")
    clock = page.locator("#clock")
    expect(clock).to_have_attribute("title", f"{live.start:%Y-%m-%d %H:%M:%S} UTC")
    assert clock.inner_text()[:2] != f"{live.start:%H}", "Zurich is ahead of UTC"


def test_a_chart_goes_on_over_the_hour_that_comes_twice(page: Page, live: Served) -> None:
    live.start = datetime(2026, 10, 25, 2, 0, tzinfo=UTC)  # in Zurich the clock was set back an hour before
    for minute in range(-120, 1):
        live.reading("a", minute)
    live.forecast("a", 0)
    page.locator(".tile").click()
    until(page, "document.querySelector('.plot')?.data?.length > 2")
    (observed,) = page.evaluate(
        "document.querySelector('.plot').data.filter(t => t.hovertemplate?.includes('observed')).map(t => t.x)"
    )
    assert observed[::60] == [f"2026-10-25T{hour}:00:00.000" for hour in ("01", "02", "03")]
    labels = page.locator(".plot").first.locator(".xtick text")
    expect(labels).to_have_text(["01:00", "01:30", "02:00", "02:30", "03:00", "03:30", "04:00"])


@pytest.mark.timeout(MANY_BEDS_FOR_S + 120)
def test_sixty_four_beds_stay_smooth(page: Page, live: Served) -> None:
    beds = [f"bed-{number:02d}" for number in range(64)]
    for minute in range(-120, 0):
        for stay_id in beds:
            live.reading(stay_id, minute)
    expect(page.locator(".tile")).to_have_count(64)
    page.wait_for_timeout(1000)
    keep_picture(page, "ward-64-beds")
    load = BrowserLoad(page)
    lags: list[float] = []
    start = sampled = time.monotonic()
    second = 0
    while time.monotonic() - start < MANY_BEDS_FOR_S:
        for number, stay_id in enumerate(beds):
            wave = round(5 * math.sin(second / 5 + number), 1)
            live.reading(stay_id, second / 60, **{name: value + wave / 5 for name, value in VITALS.items()})
            live.forecast(stay_id, second / 60, shift=wave)
            if number % 8 == 7:
                due = start + second + number / 64
                page.wait_for_timeout(max(due - time.monotonic(), 0) * 1000)
        second += 1
        if time.monotonic() - sampled > SAMPLE_EVERY_S:
            sampled = time.monotonic()
            lags += load.sample()
    if time.monotonic() - sampled > 1:
        lags += load.sample()
    load.write(PICTURES.parent / "many-beds.csv")
    assert len(lags) > 0.9 * 64 * second
    print(f"64 beds at 1 Hz for {second} s: from the record's time to the screen {percentiles(lags)}")
    assert float(np.percentile(lags, 95)) < 1000
    first, last = load.samples[0], load.samples[-1]
    assert last.elements == first.elements, "the page does not grow"


def test_the_page_finds_its_server_again(browser: Browser) -> None:
    with served() as live, live.worker():
        live.reading("a")
        page = browser.new_page()
        page.goto(live.address)
        expect(page.locator(".tile")).to_have_count(1)
        live.stop()
        expect(page.locator("#banner")).to_contain_text("has lost its server")
        live.serve()
        live.reading("b")
        expect(page.locator(".tile")).to_have_count(2)
        expect(page.locator("#banner")).to_be_hidden()
        # A server that was started anew: other addresses of the same beds, and of those that ended meanwhile none.
        live.stop()
        expect(page.locator("#banner")).to_contain_text("has lost its server")
        live.board = page_board(live.settings)
        live.serve()
        live.reading("b", hr=50)
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.locator(".tile")).to_have_count(1)
        expect(page.locator(".tile .name")).to_have_text("b")
        page.close()


def test_a_server_that_says_nothing_is_told_from_one_that_has_nothing_to_say(page: Page, live: Served) -> None:
    live.reading("a")
    expect(page.locator(".tile")).to_have_count(1)
    page.wait_for_timeout(17_000)  # the page takes 15 s of silence for a lost server
    expect(page.locator("#banner")).to_be_hidden()
    with live.board.lock:  # which the server waits for
        expect(page.locator("#banner")).to_contain_text("has lost its server")
    expect(page.locator("#banner")).to_be_hidden()


def test_a_page_that_slept_does_not_take_what_it_shows_for_new(browser: Browser) -> None:
    with served() as live, live.worker():
        live.reading("a")
        page = browser.new_page()
        page.add_init_script("const now = Date.now; window.slept = 0; Date.now = () => now() + window.slept;")
        page.goto(live.address)
        expect(page.locator(".tile")).to_have_count(1)
        with live.board.lock:  # the server has not noticed yet that the page is back
            page.evaluate("window.slept = 3_600_000")
            expect(page.locator("#banner")).to_contain_text("has lost its server", timeout=8_000)
        expect(page.locator("#banner")).to_be_hidden()
        page.close()


def test_one_viewer_too_many_is_told_so_until_another_leaves(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "VIEWERS", 1)
    with served() as live, live.worker():
        live.reading("a")
        first, second = browser.new_page(), browser.new_page()
        first.goto(live.address)
        expect(first.locator(".tile")).to_have_count(1)
        second.goto(live.address)
        expect(second.locator("#banner")).to_contain_text("viewers have this page open")
        first.close()
        expect(second.locator(".tile")).to_have_count(1)
        expect(second.locator("#banner")).to_be_hidden()
        second.close()


def test_a_chart_library_that_did_not_come_is_asked_for_again(browser: Browser) -> None:
    with served() as live, live.worker():
        live.reading("a")
        page = browser.new_page()
        page.route("**/lib/plotly.js", lambda route: route.abort(), times=1)
        page.goto(live.address)
        with page.expect_event("requestfailed"):
            page.locator(".tile").click()
        live.reading("a", 1)
        until(page, "document.querySelector('.plot')?.data?.length > 0")
        page.close()


def test_a_browser_that_keeps_nothing_for_pages_shows_the_ward(browser: Browser) -> None:
    with served() as live, live.worker():
        live.reading("a")
        page = browser.new_page()
        refuse = "get() { throw new DOMException('denied', 'SecurityError'); }"
        page.add_init_script(f"Object.defineProperty(window, 'localStorage', {{ {refuse} }})")
        page.goto(live.address)
        expect(page.locator(".tile")).to_have_count(1)
        for theme in ("dark", "light", "auto"):
            page.keyboard.press("t")
            expect(page.locator("#theme")).to_have_text(f"Theme: {theme}")
        page.close()


def test_the_token_lets_in(browser: Browser) -> None:
    token = "correct horse battery"
    with served(view_token=token) as live:
        live.reading("a")
        page = browser.new_page()
        page.goto(live.address)
        page.locator("#token").fill("wrong")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_text("That is not the token.")).to_be_visible()
        page.locator("#token").fill(token)
        page.get_by_role("button", name="Open").click()
        expect(page.locator(".tile")).to_have_count(1)
        assert token not in page.url
        live.stop()
        live.serve()
        expect(page.locator("#token")).to_be_visible()
        page.close()
