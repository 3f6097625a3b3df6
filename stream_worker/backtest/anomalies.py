"""What the anomaly score is worth: `python -m stream_worker.backtest.anomalies RECORDINGS [--out FOLDER]`.

Recordings go through the worker's pipeline twice: as they are, and with faults put in. The first pass tells how often
normal readings exceed a score, and sets for each way of scoring the threshold that flags one spell in a patient-day;
the second how many of the faults are flagged then.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple, get_args

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from model.arrays import Bools, Floats, Ints
from model.manifest import Manifest, read_manifest, write_json
from schemas.recordings import find_recordings
from schemas.signals import VITALS_BY_NAME
from stream_worker import anomaly
from stream_worker.backtest import detectors
from stream_worker.backtest.faults import FaultKind, Values
from stream_worker.backtest.scored import ScoredRecording, score_recordings
from stream_worker.settings import Settings

REPORT_FILE: Final = "anomalies.json"
SCORES: Final = (0.9, 0.99, 0.998, 0.999)  # of which it is told how often they are exceeded
SPELL_MIN: Final = 5  # flags of a signal so close to each other are one spell; a fault is found until so long after it
FLAGS_PER_DAY: Final = 1.0  # spells of all signals in a patient-day, in recordings as they are
SEED: Final = 1
_OTHERS: Final[dict[str, detectors.Detector]] = {
    "3 sigma": detectors.three_sigma,
    "Hampel": detectors.hampel,
    "SPOT": detectors.spot,
    "change by usual change": detectors.persistence,
}
OURS: Final = "anomaly score"


# --- how odd each minute is ---


class Judged(NamedTuple):
    """How odd the minutes (T, V) of a recording are by one way of scoring: its values, and its artefacts."""

    normal: Floats
    artefacts: Floats


def judged(runs: Sequence[ScoredRecording], signals: tuple[str, ...], way: str) -> list[Judged]:
    """How odd the minutes of each run are by `way`."""
    return [_by_forecast(run, signals) if way == OURS else _by_history(run, signals, way) for run in runs]


def _by_forecast(run: ScoredRecording, signals: tuple[str, ...]) -> Judged:
    """The worker refuses artefacts unscored; had it not, it would have scored them so."""
    scale = anomaly.Scale.of(signals)
    precision = np.array([VITALS_BY_NAME[name].precision for name in signals])
    shown = _columns(run.artefacts, signals)
    still = np.zeros(shown.shape, np.int64)
    return Judged(run.scores, anomaly.score(anomaly.distances(run.expected, shown, still, precision, scale), scale))


def _by_history(run: ScoredRecording, signals: tuple[str, ...], way: str) -> Judged:
    values, artefacts = _columns(run.recording.values, signals), _columns(run.artefacts, signals)
    shown = np.where(np.isnan(values), artefacts, values)
    odd = np.stack([_OTHERS[way](shown[:, v], values[:, v]) for v in range(len(signals))], axis=1)
    return Judged(np.where(np.isnan(values), np.nan, odd), np.where(np.isnan(artefacts), np.nan, odd))


def _columns(values: Values, signals: tuple[str, ...]) -> Floats:
    return np.stack([values[name] for name in signals], axis=1)


def spells(flags: Bools) -> Ints:
    """The first minutes of the spells in a signal's `flags` (T,): flags close to each other are one."""
    minutes = np.flatnonzero(flags)
    return minutes[np.diff(minutes, prepend=-SPELL_MIN - 1) > SPELL_MIN]


def threshold_of(odd: Sequence[Floats], most: float) -> float:
    """The lowest threshold on `odd` (T, V) of all recordings that at most `most` spells reach.

    Among the highest tenth of the minutes: were more flagged, spells would flow together and become fewer again.
    """
    flat = np.concatenate([minutes.ravel() for minutes in odd])
    levels = np.unique(flat[flat > np.nanquantile(flat, 0.9)])
    low, high = 0, len(levels)  # beyond the highest there is none
    while low < high:
        middle = (low + high) // 2
        count = sum(len(spells(column >= levels[middle])) for minutes in odd for column in minutes.T)
        low, high = (low, middle) if count <= most else (middle + 1, high)
    return float(levels[low]) if low < len(levels) else np.inf


class FaultsFound(msgspec.Struct, frozen=True):
    """Faults of one kind by one way of scoring.

    precision : of the flags, were there one such fault in each patient-day. delay_min : median of those found; None
    without any.
    """

    kind: str
    faults: int
    found: int
    recall: float
    precision: float
    delay_min: float | None


class Way(msgspec.Struct, frozen=True):
    """One way of scoring at its threshold: spells of flags beside faults in a patient-day, and what was found.

    precision : share of all spells in the recordings with faults that are at a fault.
    """

    way: str
    threshold: float
    false_per_day: float
    precision: float
    found: tuple[FaultsFound, ...]


def way_of(
    way: str, plain: Sequence[ScoredRecording], faulty: Sequence[ScoredRecording], signals: tuple[str, ...]
) -> Way:
    """`way` on the recordings as they are, for its threshold and the artefacts in them, and with faults."""
    days = sum(run.recording.days for run in plain)
    before = judged(plain, signals, way)
    threshold = threshold_of([minutes.normal for minutes in before], days * FLAGS_PER_DAY)
    delays: dict[str, list[float]] = {kind: [] for kind in (*get_args(FaultKind), "artefact")}
    true = false = 0
    for run, minutes in zip(faulty, judged(faulty, signals, way), strict=True):
        flags = minutes.normal >= threshold
        at_fault = np.zeros(flags.shape, np.bool_)
        for fault in run.faults:
            own = [signals.index(name) for name in fault.signals if name in signals]
            window = slice(fault.start, fault.end + SPELL_MIN)
            at_fault[window, own] = True
            delays[fault.kind].append(_first(np.logical_or.reduce(flags[window][:, own], axis=1)))
        begun = [(spells(flags[:, v]), v) for v in range(len(signals))]
        true += sum(int(at_fault[starts, v].sum()) for starts, v in begun)
        false += sum(int((~at_fault[starts, v]).sum()) for starts, v in begun)
    for run, minutes in zip(plain, before, strict=True):
        shown = ~np.isnan(_columns(run.artefacts, signals))
        for column, seen in zip(minutes.artefacts.T, shown.T, strict=True):
            # One that the way cannot score is missed, as a fault is: so all ways are asked for the same ones.
            bounds = [*spells(seen).tolist(), len(column)]
            delays["artefact"] += [_first(column[start:end] >= threshold) for start, end in pairwise(bounds)]
    false_per_day = false / days
    found = tuple(_found(kind, np.array(first), false_per_day) for kind, first in delays.items())
    return Way(way, threshold, false_per_day, true / max(true + false, 1), found)


def _first(flags: Bools) -> float:
    """How many minutes after the first the first flag is; NaN without any."""
    return float(np.argmax(flags)) if flags.any() else np.nan


def _found(kind: str, delays: Floats, false_per_day: float) -> FaultsFound:
    is_found = ~np.isnan(delays)
    recall = float(is_found.mean()) if len(delays) else 0.0
    precision = recall / (recall + false_per_day) if recall else 0.0
    delay = float(np.median(delays[is_found])) if is_found.any() else None
    return FaultsFound(kind, len(delays), int(is_found.sum()), recall, precision, delay)


# --- how often a score is exceeded ---


class Exceeded(msgspec.Struct, frozen=True):
    """Of `readings` scored ones of a signal: the shares with a score above each of SCORES, over what they should be."""

    signal: str
    readings: int
    ratios: tuple[float, ...]


def exceeded(runs: Sequence[ScoredRecording], signals: tuple[str, ...]) -> tuple[Exceeded, ...]:
    """The calibration of the score on recordings as they are."""
    rows = []
    for name, column in zip(signals, np.concatenate([run.scores for run in runs]).T, strict=True):
        scores = column[~np.isnan(column)]
        shares = [float((scores > score).mean()) / (1 - score) if len(scores) else np.nan for score in SCORES]
        rows.append(Exceeded(name, len(scores), tuple(shares)))
    return tuple(rows)


def tails(runs: Sequence[ScoredRecording], signals: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """The distances that the shares `anomaly.LEVELS` of the readings exceed: the table in `anomaly`, made anew."""
    distances = anomaly.distance_of(np.concatenate([run.scores for run in runs]), anomaly.Scale.of(signals))
    at = [1 - level for level in anomaly.LEVELS]
    return {name: tuple(np.nanquantile(distances[:, v], at).tolist()) for v, name in enumerate(signals)}


# --- the report ---


class StudyGroup(msgspec.Struct, frozen=True):
    """Some stays: how the score is calibrated, and how each way of scoring does."""

    name: str
    stays: int
    days: float
    exceeded: tuple[Exceeded, ...]
    ways: tuple[Way, ...]


class StudyReport(msgspec.Struct, frozen=True):
    """What the study found. tails : of the stays the model was trained on, or of all."""

    model: str
    version: str
    sha256: str
    groups: tuple[StudyGroup, ...]
    tails: Mapping[str, tuple[float, ...]]


def report_of(manifest: Manifest, plain: Sequence[ScoredRecording], faulty: Sequence[ScoredRecording]) -> StudyReport:
    """The report on runs of the same recordings as they are and with faults."""
    trained = [run.recording.stay_id in manifest.training.stays for run in plain]
    parts = {"stays the model was not trained on": ~np.array(trained), "stays it was trained on": np.array(trained)}
    groups = []
    for name, mask in parts.items():
        chosen = np.flatnonzero(mask).tolist()
        if chosen:
            groups.append(_group(name, [plain[i] for i in chosen], [faulty[i] for i in chosen], manifest.signals))
    known = [run for run, is_known in zip(plain, trained, strict=True) if is_known] or plain
    return StudyReport(manifest.name, manifest.version, manifest.sha256, tuple(groups), tails(known, manifest.signals))


def _group(
    name: str, plain: Sequence[ScoredRecording], faulty: Sequence[ScoredRecording], signals: tuple[str, ...]
) -> StudyGroup:
    ways = tuple(way_of(way, plain, faulty, signals) for way in (OURS, *_OTHERS))
    return StudyGroup(name, len(plain), sum(run.recording.days for run in plain), exceeded(plain, signals), ways)


def show(report: StudyReport, console: Console) -> None:
    """Print the report's tables."""
    for group in report.groups:
        console.rule(f"{group.name}: {group.stays}, {group.days:.1f} patient-days")
        for table in (_calibration(group), _recall(group)):
            console.print(table)
    table = Table("signal", *(f"{level:g}" for level in anomaly.LEVELS), title="Distances that these shares exceed")
    for name, distances in report.tails.items():
        table.add_row(name, *(f"{distance:.3g}" for distance in distances))
    console.print(table)


def _calibration(group: StudyGroup) -> Table:
    table = Table("signal", "readings", title="Readings with a higher score, over what there should be")
    for score in SCORES:
        table.add_column(f"{score:g}", justify="right")
    for row in group.exceeded:
        table.add_row(row.signal, str(row.readings), *(f"{ratio:.2f}" for ratio in row.ratios))
    return table


def _recall(group: StudyGroup) -> Table:
    title = f"Found at {FLAGS_PER_DAY:g} flag per patient-day: recall, precision at one such fault a day, median delay"
    kinds = [f"{found.kind} ({found.faults})" for found in group.ways[0].found]
    table = Table("by", *kinds, "precision", "false a day", title=title)
    for way in group.ways:
        cells = [f"{found.recall:.2f}  {found.precision:.2f}  {_minutes(found.delay_min)}" for found in way.found]
        style = "bold" if way.way == OURS else ""
        table.add_row(way.way, *cells, f"{way.precision:.2f}", f"{way.false_per_day:.2f}", style=style)
    return table


def _minutes(delay: float | None) -> str:
    return "-" if delay is None else f"{delay:.0f} min"


def main() -> None:
    """Run the study; prints the tables and writes the report."""
    parser = argparse.ArgumentParser(prog="python -m stream_worker.backtest.anomalies", description=__doc__)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder for the report")
    arguments = parser.parse_args()
    console, settings = Console(), Settings()
    paths = find_recordings(*arguments.recordings)
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    with (
        console.status("Recordings as they are, and with faults, through the worker"),
        ProcessPoolExecutor(2, context) as pool,
    ):
        plain, faulty = (pool.submit(score_recordings, settings, paths, seed) for seed in (None, SEED))
        report = report_of(read_manifest(settings.model), plain.result(), faulty.result())
    show(report, console)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / REPORT_FILE
    write_json(path, report)
    print(f"Report: {path}")


if __name__ == "__main__":
    main()
