"""Synthetic patients: plausible, consistent, reproducible, and their deteriorations unfold as scripted."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from schemas.codec import decode
from schemas.reading import Reading
from schemas.signals import SENTINELS, VITALS_BY_NAME, is_arterial_triple_consistent
from stream_worker.simulator.episodes import EFFECTS, SCRIPT, Episode, Script
from stream_worker.simulator.feed import admit, history, live, reading, send
from stream_worker.simulator.patient import Patient
from tests.outbox import ListOutbox

START = 1_800_000_000.0
MINUTE = 60.0


def course(kind: str, minutes: int = 25, seed: int = 1) -> list[dict[str, float]]:
    """What the monitor of one patient shows, every ten seconds."""
    patient = Patient("bed", kind, START, (seed,))
    return [patient.step(START + 10 * n) for n in range(minutes * 6)]


def values_of(rows: list[dict[str, float]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows if name in row and row[name] >= 0])


@pytest.mark.parametrize("kind", EFFECTS)
def test_values_are_plausible_or_device_codes_and_the_arterial_triple_agrees(kind: str) -> None:
    for row in course(kind):
        for name, value in row.items():
            signal = VITALS_BY_NAME[name]
            assert signal.low <= value <= signal.high or value in SENTINELS
        assert is_arterial_triple_consistent(row["abp_sys"], row["abp_dia"], row["abp_mean"])


def test_the_same_seed_gives_the_same_patients_and_another_seed_others() -> None:
    assert course("desaturation", seed=3) == course("desaturation", seed=3)
    assert course("desaturation", seed=3) != course("desaturation", seed=4)


def test_a_stable_patient_stays_within_ordinary_limits() -> None:
    rows = course("stable", minutes=120)
    assert values_of(rows, "abp_mean").min() > 60
    assert values_of(rows, "spo2").min() > 90
    assert values_of(rows, "hr").max() < 120


def test_sepsis_lowers_pressure_over_minutes_while_the_heart_speeds_up() -> None:
    rows = course("septic_hypotension")
    pressure, rate = values_of(rows, "abp_mean"), values_of(rows, "hr")
    assert pressure[:2].mean() > 65
    assert pressure.min() < 58
    assert rate.max() - rate[:2].mean() > 20
    assert np.abs(np.diff(pressure)).max() < 12  # it unfolds, it does not jump


def test_saturation_falls_below_ninety() -> None:
    rows = course("desaturation")
    assert values_of(rows, "spo2").min() < 90
    assert values_of(rows, "resp").max() > 20


def test_tachyarrhythmia_is_abrupt_and_irregular() -> None:
    rate = values_of(course("tachyarrhythmia"), "hr")
    fast = rate[rate > 110]
    assert len(fast) > 30
    assert np.diff(fast).std() > np.diff(values_of(course("stable"), "hr")).std() * 2


def test_a_lost_sensor_hides_its_two_signals_and_nothing_else() -> None:
    rows = course("sensor_off")
    hidden = [row for row in rows if "spo2" not in row]
    assert len(hidden) > 30
    assert all("pulse" not in row and "hr" in row and "abp_mean" in row for row in hidden)


def test_artefacts_are_single_readings() -> None:
    rows = course("artefacts")
    odd = [n for n, row in enumerate(rows) if row["spo2"] < 0 or row["abp_mean"] > 200 or row["hr"] > 160]
    assert len(odd) >= 3
    assert len(odd) < len(rows) / 4


def test_an_episode_rises_holds_and_falls() -> None:
    episode = Episode("desaturation", START, onset_s=100, hold_s=200, recovery_s=50)
    at = [episode.strength(START + s) for s in (-1, 0, 50, 100, 250, 300, 325, 350, 400)]
    assert at == [0, 0, 0.5, 1, 1, 1, 0.5, 0, 0]


def test_the_first_episode_begins_within_two_minutes_and_others_follow() -> None:
    script = Script("desaturation", START, np.random.default_rng(0))
    active = [script.at(START + s) is not None for s in range(0, 7200, 10)]
    assert not active[0]
    assert any(active[:13])
    changes = sum(a != b for a, b in itertools.pairwise(active))
    assert changes >= 4


def test_a_ward_has_every_deterioration_and_someone_who_is_well() -> None:
    assert set(SCRIPT) == set(EFFECTS)


def test_history_is_two_hours_at_one_reading_a_minute_ending_now() -> None:
    moments = list(history(admit(2, seed=0, start=START), until=START, minutes=120))
    assert len(moments) == 240
    assert moments[0][0] == START - 120 * MINUTE
    assert moments[-1][0] == START - MINUTE
    assert [at for at, _ in moments] == sorted(at for at, _ in moments)


def test_live_readings_come_at_the_rate_asked_for_spread_over_the_period() -> None:
    moments = list(itertools.islice(live(admit(4, seed=0, start=START), start=START, rate=2.0), 16))
    assert [at - START for at, _ in moments] == [n / 8 for n in range(16)]
    assert [patient.stay_id for _, patient in moments[:4]] == ["bed-01", "bed-02", "bed-03", "bed-04"]


def test_what_is_sent_is_a_reading_of_the_contract() -> None:
    (patient,) = admit(1, seed=0, start=START)
    decoded = decode(reading(patient, START))
    assert isinstance(decoded, Reading)
    assert decoded.stay_id == "bed-01"
    assert decoded.observed_at.timestamp() == START


def test_readings_are_sent_when_their_time_has_come_and_a_stop_ends_it() -> None:
    outbox, stop = ListOutbox(), threading.Event()
    ward = admit(2, seed=0, start=START)
    clock = iter(itertools.count(START, 0.25))

    def stop_after_ten(count: int) -> None:
        if count == 10:
            stop.set()

    sent = send(live(ward, start=START, rate=100.0), outbox, stop, clock=lambda: next(clock), report=stop_after_ten)
    assert sent == outbox.sent == 10
