"""What the live page shows, made from records alone: history, forecasts against what came, alerts, limits, handles."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from schemas.alert import Alert
from schemas.forecast import Forecast, Source
from schemas.reading import LimitRange, Reading, StayEvent
from stream_worker.limits import DEFAULT_LIMITS
from stream_worker.settings import Settings
from stream_worker.times import to_ms
from stream_worker.view import server, tiles
from stream_worker.view.bed_page import bed_page, evidence, quality
from stream_worker.view.board import ALERTS_KEPT, HISTORY_MIN, MESSAGES_KEPT, SIGNALS_KEPT, Board, minute_of
from stream_worker.view.link import Link, page_board
from stream_worker.view.server import changes
from stream_worker.view.tiles import row, sparks, state_of, tile
from stream_worker.ward import Record
from tests.waiting import eventually
from tests.ward_records import STALE_AFTER, alert, at, came, ended, forecast, own_limits, reading


def board_of(*records: Record) -> Board:
    board = Board({"default": DEFAULT_LIMITS}, STALE_AFTER, forget_after=timedelta(days=1))
    for offset, record in enumerate(records):
        board.apply(record, came(offset, 1000 + offset))
    return board


def test_history_is_the_mean_of_each_minute() -> None:
    track = (
        board_of(reading(minutes=0, hr=80), reading(minutes=0.5, hr=90), reading(minutes=1, hr=70))
        .past("a")
        .track("hr")
    )
    assert track.values == {minute_of(at(0)): 85, minute_of(at(1)): 70}


def test_what_is_remembered_is_bounded() -> None:
    board = board_of(
        *(reading(minutes=m, hr=80) for m in range(HISTORY_MIN + 50)),
        *(forecast(minutes=m) for m in range(HISTORY_MIN + 50)),
        *(forecast(minutes=1000, signal=f"s{n}") for n in range(SIGNALS_KEPT + 50)),
        *(
            alert(f"x{n}", state=state, revision=revision)
            for n in range(ALERTS_KEPT + 50)
            for revision, state in enumerate(("raised", "cleared"))
        ),
    )
    past = board.past("a")
    assert len(past.tracks) == SIGNALS_KEPT
    assert max(len(track.values) for track in past.tracks.values()) == HISTORY_MIN
    assert max(len(track.due) for track in past.tracks.values()) == HISTORY_MIN
    assert (len(past.alerts), len(past.messages)) == (ALERTS_KEPT, MESSAGES_KEPT)


def test_forecasts_are_compared_with_what_came_and_with_persistence() -> None:
    # At minute 0: 70 in 15 min, between 65 and 75. It came to 74, then to 80.
    records = [reading(minutes=m, abp_mean=70) for m in (0, 1)] + [forecast(minutes=m, median=70) for m in (0, 1)]
    track = (
        board_of(*records, reading(minutes=15, abp_mean=74), reading(minutes=16, abp_mean=80))
        .past("a")
        .track("abp_mean")
    )
    found = quality(track)
    assert found is not None
    assert (found.scored, found.covered_90, found.error, found.persistence) == (2, 0.5, 7, 7)
    assert quality(board_of(forecast()).past("a").track("abp_mean")) is None


def test_a_value_that_is_doubted_is_shown_and_scores_nothing() -> None:
    before: list[Record] = [reading(abp_mean=70), forecast(median=70)]
    good = reading(minutes=15, abp_mean=120)
    doubted = msgspec.structs.replace(good, quality={"abp_mean": "questionable"})
    track = board_of(*before, doubted).past("a").track("abp_mean")
    assert track.values[minute_of(at(15))] == 120
    assert quality(track) is None
    assert quality(board_of(*before, good).past("a").track("abp_mean")) is not None


def test_limits_of_a_stay_that_ended_do_not_come_back_with_its_past() -> None:
    records: list[Record] = [own_limits(0, hr=LimitRange(low=30.0)), ended(1), reading(minutes=2, hr=80)]
    for order in ((0, 1, 2), (2, 0, 1), (2, 1, 0)):
        board = board_of()
        for offset in order:
            board.apply(records[offset], came(offset, 1000 + offset))
        assert board.limits("a")["hr"].low == 50


def test_limits_that_the_worker_refuses_for_an_unknown_signal_are_not_shown() -> None:
    board = page_board(Settings())
    for known, signal in ((False, "furlongs"), (True, "spo2")):
        limits = {"hr": LimitRange(low=30.0), signal: LimitRange(low=80.0)}
        board.apply(own_limits(0, **limits), came())
        assert board.limits("a")["hr"].low == (30 if known else 50)


def test_reading_back_again_changes_no_alert_and_no_forecast() -> None:
    records: list[Record] = [reading(hr=80), forecast(), alert(), alert(revision=1, state="updated", priority="high")]
    once, twice = board_of(*records), board_of(*records, *records)
    assert once.past("a").alerts == twice.past("a").alerts
    assert once.past("a").track("abp_mean").due == twice.past("a").track("abp_mean").due


def test_an_alert_keeps_its_life_and_says_its_evidence() -> None:
    proof = {"limit": 65, "horizon_s": 900, "probability": 0.82, "last": 71.5}
    board = board_of(
        reading(hr=80),
        alert(evidence=proof),
        alert(
            revision=1, state="cleared", minutes=9, clear_reason="recovered", message="It is over", lead_time_s=240.0
        ),
    )
    (shown,) = bed_page(board, "a")["alerts"]
    assert shown["evidence"] == "limit 65 · horizon 15 min · probability 0.82 · value then 71.5"
    assert (shown["state"], shown["reason"], shown["lead_s"]) == ("cleared", "recovered", 240.0)
    assert [step["state"] for step in shown["steps"]] == ["raised", "cleared"]
    assert shown["text"] == "Mean arterial pressure below 65 mmHg"


def test_an_alert_whose_end_never_comes_is_not_open_for_ever() -> None:
    board = board_of()
    board.apply(alert("lost"), came(0, 0))
    for hour in (0, 49):
        board.apply(reading(minutes=hour * 60, hr=80), came(1, hour * 3_600_000))
    assert bed_page(board, "a")["alerts"] == []


def test_open_alerts_come_first_the_most_urgent_of_them_before_all() -> None:
    board = board_of(
        reading(hr=80),
        alert("gone", minutes=50),
        alert("gone", minutes=60, revision=1, state="cleared"),
        alert("old", minutes=1, priority="high"),
        alert("new", minutes=40),
    )
    assert [shown["id"] for shown in bed_page(board, "a")["alerts"]] == ["old", "new", "gone"]


def test_nothing_of_a_stay_that_ended_is_shown_of_the_one_that_has_its_id_now() -> None:
    limits = own_limits(1, hr=LimitRange(high=160))
    cleared = alert("old", minutes=5, revision=1, state="cleared", clear_reason="stay_ended")
    before: list[Record] = [reading(minutes=0, hr=150, temp=40), alert("old"), forecast(minutes=0), limits]
    now: list[Record] = [reading(minutes=10, hr=60), alert("new", minutes=10), forecast(minutes=10)]
    log = list(enumerate([*before, reading(minutes=4, hr=150), ended(5), cleared, *now]))

    def page(records: Iterable[tuple[int, Record]]) -> dict[str, Any]:
        board = board_of()
        for offset, record in records:
            source = Source("t", 0, offset - 1)  # the reading before
            derived = isinstance(record, Forecast | Alert)
            board.apply(
                msgspec.structs.replace(record, source=source) if derived else record,
                came(offset, offset),
            )
        shown = bed_page(board, "a")
        assert min(message["at"] for message in shown.pop("messages")) > 5
        return shown

    # In order; the present before the past, as when a page is opened; alerts and forecasts ahead of the readings.
    ahead = sorted(log, key=lambda item: isinstance(item[1], Reading | StayEvent))
    for order in (log, [*log[-3:], *log[:-3]], ahead):
        assert page(order) == page(log[-3:])


def test_evidence_of_several_numbers_is_written_by_name() -> None:
    facts = {"score": 7, "upper": 10, "points": {"resp": 3, "spo2": 2}, "missing": ["temp"], "held": []}
    assert evidence(facts) == "score 7 · at most 10 · points resp 3, spo2 2 · missing temp · held none"


def test_evidence_of_unknown_kinds_is_written_as_it_is() -> None:
    assert evidence({"odd": None, "silent_s": 120, "x": [1]}) == "odd None · silent 2 min · x 1"


def test_limits_follow_the_stays_own_events() -> None:
    board = board_of(reading(abp_mean=70), own_limits(1, abp_mean=LimitRange(low=60, high=None)))
    assert bed_page(board, "a")["history:abp_mean"]["limits"] == [
        {"at": 60, "priority": "medium"},
        {"at": 50, "priority": "high"},
    ]


def test_limits_that_contradict_those_in_force_are_not_shown_as_the_worker_refuses_them() -> None:
    limits = [own_limits(i, abp_mean=given) for i, given in enumerate((LimitRange(low=60), LimitRange(high=50)))]
    board = board_of(reading(abp_mean=70), *limits)
    assert (board.limits("a")["abp_mean"].low, board.limits("a")["abp_mean"].high) == (60, None)


def test_a_stay_that_ended_is_forgotten_its_last_alerts_too() -> None:
    board = board_of(reading(hr=80), alert(), ended(5), alert(revision=1, state="cleared", clear_reason="stay_ended"))
    assert board.past("a").alerts == {}


def test_a_stay_unheard_of_for_a_day_is_forgotten_unless_it_has_an_open_alert() -> None:
    hour_ms = 3_600_000
    board = board_of()
    for hour, record in (
        (0, reading("a", hr=80)),
        (0, reading("b", hr=80)),
        (0, alert("x", "b")),
        (2, reading("c", hr=80)),
    ):
        board.apply(record, came(hour, hour * hour_ms))
    handle = board.handle("a")
    board.apply(reading("d", hr=80), came(25, 25 * hour_ms))
    assert sorted(board.beds) == ["b", "c", "d"]
    assert board.stay_of(handle) is None
    assert not board.past("a").tracks
    assert board.past("b").tracks


def test_handles_reveal_nothing_and_lead_back() -> None:
    board, other = board_of(), board_of()
    handle = board.handle("s-0041")
    assert board.stay_of(handle) == "s-0041"
    assert board.handle("s-0041") == handle != other.handle("s-0041")
    assert board.stay_of("s-0041") is None


def test_sparklines_show_two_hours_and_leave_gaps_open() -> None:
    board = board_of(
        *(reading(minutes=m, hr=80 + m % 3) for m in range(200) if not 150 < m < 170), forecast(minutes=199)
    )
    drawn = sparks(board, board.beds["a"])["hr"]
    assert drawn["line"].count("M") == 2
    assert drawn["line"].count("L") + 2 == 100 + 1
    assert sparks(board, board.beds["a"])["abp_mean"]["band"].endswith("Z")


@pytest.mark.parametrize(("median", "word"), [(70, "steady"), (72, "steady"), (73, "up"), (67, "down")])
def test_a_trend_is_a_change_that_is_more_than_doubt(median: float, word: str) -> None:
    board = board_of(reading(abp_mean=70), forecast(median=median))  # its band is 5 to either side
    assert row(board, board.beds["a"], "abp_mean")["trend"] == word


def test_a_bed_says_what_is_missing() -> None:
    board = board_of(reading(hr=80))
    assert state_of(board, board.beds["a"]) == "no_forecast"
    board.apply(forecast(), came())
    assert state_of(board, board.beds["a"]) == "ok"
    board.apply(reading("b", minutes=16, hr=80), came(2))
    assert state_of(board, board.beds["a"]) == "stale"
    never_read = board_of(forecast())
    assert state_of(never_read, never_read.beds["a"]) == "unseen"


def test_cuff_pressure_stands_in_for_the_arterial_line() -> None:
    board = board_of(reading(nibp_mean=80, hr=70, temp=37))
    rows = tile(board, board.beds["a"], [])["rows"]
    assert [row["signal"] for row in rows] == ["hr", "nibp_mean", "temp"]


def test_what_is_read_back_once_more_is_there_once() -> None:
    board = board_of(reading(hr=80))
    board.apply(reading(hr=80), came(0, 1000))
    assert len(board.past("a").messages) == 1


def test_only_changes_are_sent() -> None:
    before = {"a": {"x": 1}, "b": 2}
    assert changes(before, {"a": {"x": 1}, "b": 2}) is None
    assert changes(before, {"a": {"x": 2}, "c": 3}) == {"set": {"a": {"x": 2}, "c": 3}, "drop": ["b"]}


def test_the_sparklines_of_a_huge_ward_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn_slowly(*_: object) -> dict[str, dict[str, str]]:
        time.sleep(0.04)
        return {"hr": {"line": "M0 0"}}

    monkeypatch.setattr(server, "sparks", drawn_slowly)
    monkeypatch.setattr(server, "SPARKS_WITHIN_S", 0.5)
    monkeypatch.setattr(server, "TICK_S", 60.0)
    pages = server.Pages(board_of(*(reading(f"bed-{number}", hr=80) for number in range(50))), Link())

    def are_drawn() -> bool:
        return all(part for name, part in pages.parts("ward").items() if name.startswith("spark:"))

    first = pages.parts("ward")
    assert pages.parts("ward") is first, "made once for all who look, however long that took"
    assert not are_drawn(), "all of them would take 2 s"
    monkeypatch.setattr(server, "TICK_S", 0.0)
    eventually(are_drawn, within_s=60)


def test_the_past_may_be_read_after_the_present() -> None:
    board = board_of()
    for timestamp_ms, record in (
        (9000, reading(minutes=0, abp_mean=70)),
        (9001, own_limits(0, abp_mean=LimitRange(low=60))),
        (4000, own_limits(-30, abp_mean=LimitRange(low=55))),
        (4001, reading(minutes=-30, abp_mean=80)),
    ):
        board.apply(record, came(timestamp_ms, timestamp_ms))
    past = board.past("a")
    assert past.track("abp_mean").values == {minute_of(at(-30)): 80, minute_of(at(0)): 70}
    assert board.limits("a")["abp_mean"].low == 60
    assert past.changed_ms == 9000
    assert [message.timestamp_ms for message in past.messages] == [4000, 4001, 9000, 9001]


def test_an_alert_that_was_said_long_ago_is_not_taken_for_one_of_now() -> None:
    said = alert(message="Mean arterial pressure below 65 mmHg (61)")
    board = board_of(reading(abp_mean=61), said, reading(minutes=180, abp_mean=66))
    (shown,) = tile(board, board.beds["a"], [said])["alerts"]
    assert shown["text"] == "3 h ago: MAP below 65 mmHg (61)"


def test_a_fan_goes_out_from_the_last_value_however_old_it_is() -> None:
    whole = forecast(minutes=40, median=70)
    signals = {name: msgspec.structs.replace(one, last_at=at(0)) for name, one in whole.signals.items()}
    board = board_of(reading(abp_mean=70), reading(minutes=40, hr=80), msgspec.structs.replace(whole, signals=signals))
    fan = bed_page(board, "a")["fan:abp_mean"]
    assert fan["t"] == [to_ms(at(minute)) for minute in (0, 41, 55)]
    assert fan["issued"] == to_ms(at(40))
    median = sparks(board, board.beds["a"])["abp_mean"]["median"]
    assert median.startswith("M80 "), "40 min before the end of the past, which is at 120"


def test_of_more_beds_than_a_house_has_those_in_need_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (server, tiles):
        monkeypatch.setattr(module, "MOST_TILES", 2)
    made_up = [reading(f"bed-{number}", hr=80) for number in range(5)]
    parts = server.Pages(board_of(*made_up, reading("z", hr=80), alert("x", "z")), Link()).parts("ward")
    assert [parts[f"tile:{handle}"]["name"] for handle in parts["order"]] == ["z", "bed-0"]
    assert (parts["head"]["beds"], parts["head"]["shown"]) == (6, 2)
