"""Recordings through the worker's pipeline, and the anomaly score of every minute that leaves it."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Floats, Ints
from schemas.recordings import Row, read_rows, stay_id_of
from stream_worker.alerts.observation import Accepted
from stream_worker.alerts.screen import AlertScreen, Changed
from stream_worker.backtest.episodes import MINUTE_S, Recording, recording_of
from stream_worker.backtest.faults import Fault, Values, inject, plan
from stream_worker.backtest.feed import CHUNK_RECORDS, FAR_FUTURE_US, RecordedReading, new_pipeline
from stream_worker.columns import Readings
from stream_worker.replay import encode_row
from stream_worker.settings import Settings
from stream_worker.stays import Layout, Stays
from stream_worker.times import SECOND_US


class ScoredRecording(NamedTuple):
    """One recording through the worker. V forecast signals, Q levels, T minutes.

    recording : without artefacts. artefacts : likewise, only those. scores : (T, V). expected : (T, V, Q) what was
    forecast for each minute in the one before it. NaN where there is none.
    """

    recording: Recording
    artefacts: Values
    faults: list[Fault]
    scores: Floats
    expected: Floats


class ScoreScreen(AlertScreen):
    """Keeps scores and forecasts; raises no alerts."""

    def __init__(self, settings: Settings, stays: Stays) -> None:
        super().__init__(settings, stays)
        self.seen: list[tuple[NDArray[np.str_], Ints, Floats, NDArray[np.int16]]] = []

    def step(self, readings: Readings, accepted: Accepted, held: Counter[str]) -> Iterator[Changed]:
        """Nothing changes an alert."""
        stay_ids = np.array([self._stays.ids[slot] for slot in accepted.slots.tolist()])
        minutes = readings.observed_us[accepted.rows] // (MINUTE_S * SECOND_US)
        self.seen.append((stay_ids, minutes, accepted.scores, accepted.quantiles[:, :, 0].astype(np.int16)))
        return iter(())


def score_recordings(settings: Settings, paths: Sequence[Path], seed: int | None) -> list[ScoredRecording]:
    """The recordings at `paths` through a new pipeline; with faults drawn from `seed`, if there is one."""
    pipeline = new_pipeline(settings)
    pipeline.screen = screen = ScoreScreen(settings, pipeline.stays)
    read = [_read(path, seed) for path in paths]
    records = _side_by_side([(recording, shown) for recording, shown, _ in read])
    while chunk := list(islice(records, CHUNK_RECORDS)):
        pipeline.process({0: chunk}, FAR_FUTURE_US)
    stay_ids, minutes, scores, expected = (np.concatenate(column) for column in zip(*screen.seen, strict=True))
    runs = []
    for recording, shown, faults in read:
        own = stay_ids == recording.stay_id
        runs.append(
            _joined(
                pipeline.stays.layout,
                recording,
                shown,
                faults,
                minutes[own] - recording.start,
                scores[own],
                expected[own],
            )
        )
    return runs


def _read(path: Path, seed: int | None) -> tuple[Recording, Values, list[Fault]]:
    """What is plausible of the recording, what it shows, and the faults in that."""
    stay_id, rows = stay_id_of(path), list(read_rows(path))
    recording = recording_of(stay_id, rows)
    if seed is None:
        return recording, _shown(rows, recording), []
    faults = plan(recording.values, np.random.default_rng([seed, zlib.crc32(stay_id.encode())]))
    shown = inject(recording.values, faults)
    return recording_of(stay_id, _rows(recording, shown)), shown, faults


def _shown(rows: Iterable[Row], recording: Recording) -> Values:
    """All values of the recording, artefacts included."""
    shown = {name: np.full(recording.minutes, np.nan) for name in recording.values}
    for row in rows:
        for name in row.values.keys() & shown.keys():
            shown[name][int(row.time.timestamp()) // MINUTE_S - recording.start] = row.values[name]
    return shown


def _rows(recording: Recording, shown: Values) -> Iterator[Row]:
    """A row for each minute in which anything is shown, and for the first and the last."""
    for minute in range(recording.minutes):
        values = {name: float(column[minute]) for name, column in shown.items() if not np.isnan(column[minute])}
        if values or minute in {0, recording.minutes - 1}:
            yield Row(datetime.fromtimestamp((recording.start + minute) * MINUTE_S, UTC), values)


def _side_by_side(recordings: Sequence[tuple[Recording, Values]]) -> Iterator[RecordedReading]:
    """The first rows of all recordings as records, then the second ones, and so on."""
    offset = 0
    tracks = [(recording.stay_id, _rows(recording, shown)) for recording, shown in recordings]
    while tracks:
        due = [(stay_id, rows, next(rows, None)) for stay_id, rows in tracks]
        tracks = [(stay_id, rows) for stay_id, rows, row in due if row is not None]
        for stay_id, _, row in due:
            if row is not None and row.values:
                yield RecordedReading(offset, encode_row(stay_id, row), int(row.time.timestamp()) * 1000)
                offset += 1


def _joined(
    layout: Layout,
    recording: Recording,
    shown: Values,
    faults: list[Fault],
    minutes: Ints,
    scores: Floats,
    quantiles: NDArray[np.int16],
) -> ScoredRecording:
    placed = np.full((recording.minutes, scores.shape[1]), np.nan)
    placed[minutes] = scores
    expected = np.full((recording.minutes + 1, *quantiles.shape[1:]), np.nan)
    expected[minutes + 1] = quantiles * layout.precision[layout.forecast][:, None]
    artefacts = {name: np.where(np.isnan(recording.values[name]), shown[name], np.nan) for name in shown}
    return ScoredRecording(recording, artefacts, faults, placed, expected[:-1])
