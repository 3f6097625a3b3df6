"""The patients of a ward as a stream of readings, and its thin shell that sends them to Kafka in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import cycle
from typing import Final

from schemas.codec import encode
from schemas.reading import READING_V1
from stream_worker.outbox import Outbox
from stream_worker.simulator.episodes import SCRIPT
from stream_worker.simulator.patient import Patient

CARE_UNIT: Final = "icu-demo"
HISTORY_STEP_S: Final = 60.0
LONGEST_WAIT_S: Final = 0.2  # so that a stop is noticed soon

Moment = tuple[float, Patient]


def admit(patients: int, *, seed: int, start: float) -> list[Patient]:
    """That many patients, whose episodes begin in the minutes after `start` (epoch seconds)."""
    return [
        Patient(f"bed-{index + 1:02d}", SCRIPT[index % len(SCRIPT)], start, (seed, index)) for index in range(patients)
    ]


def history(patients: Sequence[Patient], *, until: float, minutes: float) -> Iterator[Moment]:
    """One moment a minute for each patient, the `minutes` before `until`, merged by time."""
    steps = int(minutes * 60 / HISTORY_STEP_S)
    for step in range(steps):
        for patient in patients:
            yield until - (steps - step) * HISTORY_STEP_S, patient


def live(patients: Sequence[Patient], *, start: float, rate: float) -> Iterator[Moment]:
    """`rate` moments a second for each patient, without end, spread evenly over each period."""
    for number, patient in enumerate(cycle(patients)):
        yield start + number / (rate * len(patients)), patient


def reading(patient: Patient, at: float) -> bytes:
    """The patient's monitor at `at`, as a reading."""
    return encode(
        {
            "schema": READING_V1,
            "stay_id": patient.stay_id,
            "observed_at": datetime.fromtimestamp(round(at, 3), UTC),
            "vitals": patient.step(at),
            "device_id": f"mon-{patient.stay_id}",
            "care_unit": CARE_UNIT,
        }
    )


def send(
    moments: Iterator[Moment],
    outbox: Outbox,
    stop: threading.Event,
    *,
    clock: Callable[[], float] = time.time,
    report: Callable[[int], None] = lambda _: None,
) -> int:
    """Send each moment's reading when its time has come, until they end or `stop` is set. Returns how many."""
    count = 0
    for at, patient in moments:
        while (left := at - clock()) > 0 and not stop.is_set():
            stop.wait(min(left, LONGEST_WAIT_S))
        if stop.is_set():
            break
        outbox.send(patient.stay_id, reading(patient, at))
        count += 1
        report(count)
    outbox.flush()
    return count
