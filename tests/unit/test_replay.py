"""Replay without Kafka: placing recordings in time, merging them, and sending in order."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import decode
from schemas.reading import Reading
from schemas.recordings import Extent, RecordingError, Row, extent_of, find_recordings
from stream_worker.playback import SPEEDS, Playback
from stream_worker.replay import Progress, encode_row, merge, replay, tracks_of, with_values
from tests.outbox import ListOutbox
from tests.recordings import minutes, write_recording
from tests.waiting import eventually

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def write(folder: Path, stay_id: str, start: str, values: Sequence[float | None]) -> Path:
    """A recording of one signal, a row a minute from `start`."""
    return write_recording(folder, stay_id, minutes(datetime.fromisoformat(start), values))


def test_a_row_out_of_order_does_not_hold_the_others_back() -> None:
    playback, never = Playback(100), threading.Event()
    playback.wait_until(150, never)  # 1.5 s: the row that follows is later than what a playback makes up for
    playback.wait_until(0, never)
    assert playback.state.at_s >= 150, "the stretch is not played twice"


@pytest.fixture
def ward(tmp_path: Path) -> list[Path]:
    """Stay a, three minutes; stay b, four years later, five minutes of which the first and the third are empty."""
    write(tmp_path, "a", "2011-06-02T16:00:00Z", [80, 81, 82])
    write(tmp_path, "b", "2015-01-01T03:00:00Z", [None, 90, None, 92, 93])
    return find_recordings(tmp_path)


def sent_by(ward: list[Path], **options: Any) -> list[tuple[str, dict[str, Any]]]:
    sender = ListOutbox()
    replay(tracks_of(ward, now=NOW, **options), sender)
    return [(stay_id, json.loads(record)) for stay_id, record in sender.records]


def test_stays_begin_together_and_keep_their_recorded_times(ward: list[Path]) -> None:
    sent = sent_by(ward)
    assert [stay_id for stay_id, _ in sent] == ["a", "b", "a", "a", "b", "b"]
    assert sent[0][1]["observed_at"] == "2011-06-02T16:00:00Z"
    assert sent[1][1]["observed_at"] == "2015-01-01T03:01:00Z"


def test_rows_without_a_value_are_skipped_and_counted(ward: list[Path]) -> None:
    done = replay(tracks_of(ward), ListOutbox())
    assert (done.sent, done.skipped, done.failed) == (6, 2, 0)


def test_shifted_to_now_each_recording_ends_now(ward: list[Path]) -> None:
    sent = sent_by(ward, alignment="end_now")
    ends = {stay_id: record["observed_at"] for stay_id, record in sent}
    assert ends == {"a": "2026-11-22T12:00:00Z", "b": "2026-11-22T12:00:00Z"}
    times = [record["observed_at"] for _, record in sent]
    assert times == sorted(times)


def test_begun_together_the_longest_recording_ends_now(ward: list[Path]) -> None:
    sent = sent_by(ward, alignment="begin_together")
    starts: dict[str, str] = {}
    for stay_id, record in sent:
        starts.setdefault(stay_id, record["observed_at"])
    assert starts == {"a": "2026-11-22T11:57:00Z", "b": "2026-11-22T11:57:00Z"}
    assert max(record["observed_at"] for _, record in sent) == "2026-11-22T12:00:00Z"


def test_a_stay_stays_in_the_order_of_its_file_even_if_that_goes_back(tmp_path: Path) -> None:
    times = (datetime(2011, 6, 2, 16, minute, tzinfo=UTC) for minute in (2, 0, 1))
    path = write_recording(tmp_path, "c", [Row(time, {"hr": value}) for value, time in enumerate(times, 1)])
    other = write(tmp_path, "d", "2011-06-02T16:00:00Z", [4, 5, 6])
    order = [due.row.values["hr"] for due in merge(tracks_of([path, other])) if due.stay_id == "c"]
    assert order == [1, 2, 3]


def test_what_is_sent_is_a_reading_of_the_contract() -> None:
    record = encode_row("s-0041", Row(NOW, {"hr": 88.0, "spo2": 97.5}))
    assert decode(record) == Reading(stay_id="s-0041", observed_at=NOW, vitals={"hr": 88.0, "spo2": 97.5})


def test_speed_is_times_real_time_and_the_head_start_is_sent_at_once(ward: list[Path]) -> None:
    began = time.monotonic()
    replay(tracks_of(ward), ListOutbox(), playback=Playback(600, start_s=60))
    assert 0.15 <= time.monotonic() - began < 60, "3 min, less 1 min, 600 times as fast: 0.2 s; 120 s as recorded"


def test_a_stop_ends_a_slow_replay_at_once(ward: list[Path]) -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    done = replay(tracks_of(ward), ListOutbox(), playback=Playback(0.001), stop=stop)
    assert time.monotonic() - began < 60, "a minute of the recordings takes 1,000 minutes"
    assert done.sent < 6


def test_progress_ends_with_everything(ward: list[Path]) -> None:
    seen: list[Progress] = []
    replay(tracks_of(ward), ListOutbox(), report=seen.append)
    assert seen[-1].sent + seen[-1].skipped == sum(extent_of(path).rows for path in ward) == 8


def test_progress_is_told_while_a_replay_in_real_time_goes_on(ward: list[Path]) -> None:
    seen: list[Progress] = []
    replay(tracks_of(ward), ListOutbox(), playback=Playback(240), report=seen.append)  # a row of each stay in 0.25 s
    assert any(0 < progress.after_s < seen[-1].after_s for progress in seen)


def test_a_recording_without_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"e\.csv\.gz: no values"):
        tracks_of([write(tmp_path, "e", "2011-06-02T16:00:00Z", [None, None])])


def test_a_recording_without_values_is_left_out_and_named(
    ward: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = write(tmp_path, "bed[a]\x1b[31m", "2011-06-02T16:00:00Z", [None, None])
    assert with_values([*ward, empty]) == ward
    assert capsys.readouterr().out == "bed[a]\ufffd[31m.csv.gz: no values, left out\n"
    with pytest.raises(RecordingError, match="no recording with any value"):
        with_values([empty])


def test_the_extent_of_a_recording_is_found_without_parsing_it(tmp_path: Path) -> None:
    path = write(tmp_path, "f", "2011-06-02T16:00:00Z", [80, None, 82, None])
    assert extent_of(path) == Extent(4, datetime(2011, 6, 2, 16, 2, tzinfo=UTC))
    assert extent_of(write(tmp_path, "g", "2011-06-02T16:00:00Z", [None])) == Extent(1, None)


def test_recordings_are_read_while_they_are_sent(tmp_path: Path) -> None:
    write(tmp_path, "a", "2011-06-02T16:00:00Z", [80, 81])
    broken = tmp_path / "b.csv.gz"
    broken.write_bytes(gzip.compress(b"time,hr\n2011-06-02T16:00:00Z,90\n2011-06-02T16:01:00Z,?\n"))
    sender = ListOutbox()
    with pytest.raises(RecordingError, match=r"b\.csv\.gz, line 3"):
        replay(tracks_of(find_recordings(tmp_path)), sender)
    assert len(sender.records) == 2, "what lies before the fault was sent: nothing waits for the whole"


def test_a_paused_playback_stands_still_until_it_goes_on(ward: list[Path]) -> None:
    playback, sender, stop = Playback(6000, start_s=60), ListOutbox(), threading.Event()
    playback.pause()
    player = threading.Thread(target=lambda: replay(tracks_of(ward), sender, playback=playback, stop=stop))
    player.start()
    eventually(lambda: len(sender.records) >= 3, within_s=60)
    time.sleep(0.3)  # the rest would be sent within 0.02 s
    assert len(sender.records) == 3, "the head start alone"
    assert playback.state.at_s == 60
    playback.play()
    player.join(60)
    assert len(sender.records) == 6
    assert playback.state.has_ended


def test_the_speed_can_be_changed_while_it_plays() -> None:
    playback, never = Playback(SPEEDS[0]), threading.Event()
    began = time.monotonic()
    playback.wait_until(0.1, never)
    for _ in SPEEDS:
        playback.faster()
    assert (playback.state.speed, playback.state.is_playing) == (SPEEDS[-1], True)
    playback.wait_until(120, never)
    assert 0.2 <= time.monotonic() - began < 60, "120 s, 600 times as fast; no faster from the start, and not as before"
    for _ in SPEEDS:
        playback.slower()
    assert playback.state.speed == SPEEDS[0]


def test_a_playback_that_was_held_back_does_not_hurry_after() -> None:
    playback, never = Playback(100), threading.Event()
    playback.wait_until(1, never)
    time.sleep(1.4)  # the worker did not take any more meanwhile: 140 s of recorded time
    playback.wait_until(2, never)
    assert playback.state.at_s < 100
