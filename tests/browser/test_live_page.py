"""The live page in a real browser: what a viewer must see, and what must not be able to happen."""

from __future__ import annotations

import math
import os
import re
import time

import pytest
from playwright.sync_api import Browser, Page, expect

from schemas.forecast import SignalForecast
from tests.browser.ward import VITALS, Served, forecast_of, row, served
from tests.ward_records import alert

# A minute or half an hour of it, when somebody asks; the shape is the same after seconds.
MANY_BEDS_FOR_S = float(os.environ.get("VITALCAST_MANY_BEDS_S", "6"))
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>"\'>'


def until(page: Page, expression: str, within_s: float = 15.0) -> None:
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
    expect(page.locator("#counts")).to_have_text("◆ 1 high")
    live.apply(alert("x", "c", revision=1, state="cleared", priority="high", clear_reason="recovered"))
    expect(page.locator("#counts")).to_have_text("no open alerts")
    expect(page.locator(".tile .badge:not(.none)")).to_have_count(0)


def test_a_tile_shows_values_forecast_and_band(page: Page, live: Served) -> None:
    live.reading("a", abp_mean=75.0, hr=80.0)
    live.forecast("a", abp_mean=61.0)
    text = page.locator(".tile .rows").inner_text()
    expect(page.locator(".tile .then").last).to_contain_text("↘ 61")
    text = page.locator(".tile .rows").inner_text()
    assert re.search(r"MAP\s+75\s*mmHg.*↘ 61\s+55–67", text, re.DOTALL), text
    assert page.locator(".tile .band").last.get_attribute("d")


def test_the_fan_moves_and_the_past_is_beside_it(page: Page, live: Served) -> None:
    for minute in range(-40, 1):
        live.reading("a", minute)
        live.forecast("a", minute)
    live.apply(alert("x", "a", since=live.at(-20), event_at=live.at(-20), evidence={"limit": 65, "last": 60}))
    page.locator(".tile").click()
    until(page, "document.querySelector('.plot')?.data?.length > 5")
    assert re.search(r"/#bed=[0-9a-f]{20}$", page.url)
    chart = page.locator(".chart", has=page.get_by_text("Mean arterial pressure", exact=True))
    expect(chart.locator(".fact")).to_contain_text("26 minutes of this stay: 100% fell into the 90 % band")
    expect(page.locator(".life summary")).to_contain_text("▲ medium")
    end_of_fan = (
        "document.querySelectorAll('.plot')[1].data.filter(t => t.hovertemplate?.includes('forecast<'))[0].y[5]"
    )
    until(page, f"{end_of_fan} === 75")
    live.forecast("a", 0.5, shift=10)
    until(page, f"{end_of_fan} === 85")
    page.keyboard.press("Escape")
    expect(page.locator(".tile")).to_have_count(1)


def test_a_stale_bed_is_marked(page: Page, live: Served) -> None:
    live.reading("a", -20)
    live.reading("b", 0)
    stale = page.locator(".tile.stale")
    expect(stale.locator(".name")).to_have_text("a")
    expect(stale.locator(".age")).to_have_text("NO DATA · 20 min")
    expect(page.locator(".tile.ok, .tile.no_forecast")).to_have_count(1)


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
    empty = forecast_of(
        "empty", live.at(0), {"hr": SignalForecast(80.0, live.at(0), [])}, horizons_s=[], quantile_levels=[]
    )
    live.apply(empty)
    live.apply(alert("x", "alone", evidence={"probability": "high", "limit": None}))
    expect(page.locator(".tile")).to_have_count(4)
    expect(page.locator(".tile.unseen")).to_have_count(4)
    for name in ("never seen", "alone", "empty"):
        page.get_by_text(name, exact=True).click()
        expect(page.locator("h1")).to_have_text(name)
        page.keyboard.press("Escape")
    page.goto(live.address + "#bed=0123456789")
    expect(page.locator("h1")).to_have_text("This bed is not known here")


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
    for theme in ("dark", "light", "auto"):
        page.keyboard.press("t")
        expect(page.locator("#theme")).to_have_text(f"Theme: {theme}")


def test_a_lost_broker_and_a_silent_worker_are_said(page: Page, live: Served) -> None:
    live.reading("a")
    banner = page.locator("#banner")
    expect(banner).to_be_hidden()
    live.link.turn("lost")
    expect(banner).to_contain_text("Kafka does not answer, since")
    live.link.turn("live")
    expect(banner).to_be_hidden()


def test_times_are_the_viewers_with_utc_in_the_tooltip(page: Page, live: Served) -> None:
    live.reading("a")
    clock = page.locator("#clock")
    expect(clock).to_have_attribute("title", f"{live.start:%Y-%m-%d %H:%M:%S} UTC")
    assert clock.inner_text()[:2] != f"{live.start:%H}", "Zurich is ahead of UTC"


@pytest.mark.timeout(MANY_BEDS_FOR_S + 120)
def test_sixty_four_beds_stay_smooth(page: Page, live: Served) -> None:
    beds = [f"bed-{number:02d}" for number in range(64)]
    for minute in range(-60, 0):
        for stay_id in beds:
            live.reading(stay_id, minute)
    expect(page.locator(".tile")).to_have_count(64)
    page.wait_for_timeout(1000)
    page.evaluate("window.vitalcastLags.length = 0")
    start = time.monotonic()
    second = 0
    while time.monotonic() - start < MANY_BEDS_FOR_S:
        live.heartbeat()
        for number, stay_id in enumerate(beds):
            wave = round(5 * math.sin(second / 5 + number), 1)
            live.reading(stay_id, second / 60, **{name: value + wave / 5 for name, value in VITALS.items()})
            live.forecast(stay_id, second / 60, shift=wave)
            page.wait_for_timeout(1000 / 64)
        second += 1
    lags = sorted(page.evaluate("window.vitalcastLags"))
    assert len(lags) >= 64 * min(second - 2, 10)
    p95 = lags[int(0.95 * len(lags))]
    print(
        f"64 beds at 1 Hz for {second} s: from the record's time to the screen p50 {lags[len(lags) // 2]}, p95 {p95} ms"
    )
    assert p95 < 1000


def test_the_page_finds_its_server_again(browser: Browser) -> None:
    with served() as live:
        live.heartbeat()
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
        page.close()


def test_the_token_lets_in(browser: Browser) -> None:
    token = "correct horse battery"
    with served(view_token=token) as live:
        live.reading("a")
        page = browser.new_page()
        page.goto(live.address)
        page.locator("#token").fill("wrong")
        page.get_by_role("button", name="Look").click()
        expect(page.get_by_text("That was not the token.")).to_be_visible()
        page.locator("#token").fill(token)
        page.get_by_role("button", name="Look").click()
        expect(page.locator(".tile")).to_have_count(1)
        assert token not in page.url
        live.stop()
        live.serve()
        expect(page.locator("#token")).to_be_visible(timeout=10_000)
        page.close()
