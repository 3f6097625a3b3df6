"""The study of the anomaly score: faults that are put in, what plain ways say of them, and how they are counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from rich.console import Console

from model.manifest import read_manifest
from schemas.recordings import Row
from schemas.signals import ARTERIAL_TRIPLE, VITALS
from stream_worker.backtest import detectors
from stream_worker.backtest.anomalies import OURS, report_of, show, spells, threshold_of, way_of
from stream_worker.backtest.faults import DURATION_MIN, LEAD_MIN, Fault, FaultKind, Values, inject, plan
from stream_worker.backtest.scored import ScoredRecording, score_recordings
from stream_worker.settings import Settings
from tests.recordings import write_recording

NAN = np.nan
START = datetime(2026, 11, 1, tzinfo=UTC)
USUAL = {"hr": 80.0, "resp": 16.0, "spo2": 96.0, "abp_sys": 120.0, "abp_dia": 60.0, "abp_mean": 95.0}


def calm(minutes: int, seed: int = 0) -> Values:
    """Six signals that vary by about 1; the others are never observed."""
    rng = np.random.default_rng(seed)
    values = {signal.name: np.full(minutes, NAN) for signal in VITALS}
    for name, usual in USUAL.items():
        values[name] = np.round(usual + rng.normal(0, 0.8, minutes), 1)
    return values


# --- faults ---


def test_a_plan_can_be_made_again_and_leaves_time_between_faults() -> None:
    values = calm(30 * 1440)
    faults = plan(values, np.random.default_rng(7))
    assert faults == plan(values, np.random.default_rng(7))
    assert {fault.kind for fault in faults} == set(get_args(FaultKind))
    assert all(fault.end - fault.start == DURATION_MIN[fault.kind] for fault in faults)
    ends = [0, *(fault.end for fault in faults)]
    assert all(fault.start - end >= LEAD_MIN for fault, end in zip(faults, ends, strict=False))


def test_no_fault_where_nothing_is_observed() -> None:
    values = calm(30 * 1440)
    for name in ("hr", "resp", "spo2"):
        values[name][:] = NAN
    assert {fault.signals for fault in plan(values, np.random.default_rng(7))} == {ARTERIAL_TRIPLE}


def test_a_fault_changes_its_signals_while_it_lasts_and_nothing_else() -> None:
    values = calm(300)
    values["hr"][110] = NAN
    for kind in get_args(FaultKind):
        signals = ("hr", "resp") if kind == "swap" else ("hr",)
        fault = Fault(kind, signals, 100, 100 + DURATION_MIN[kind], 30.0)
        faulty = inject(values, [fault])
        for name, column in faulty.items():
            outside = np.r_[column[: fault.start], column[fault.end :]]
            np.testing.assert_array_equal(outside, np.r_[values[name][: fault.start], values[name][fault.end :]])
            assert np.isnan(column[np.isnan(values[name])]).all()
            if name not in signals:
                np.testing.assert_array_equal(column, values[name])


def shown(kind: FaultKind, *signals: str, size: float = 30.0) -> Values:
    """What is seen of a fault, from its start to its end."""
    fault = Fault(kind, signals, 100, 100 + DURATION_MIN[kind], size)
    return {name: column[fault.start : fault.end] for name, column in inject(calm(300), [fault]).items()}


def test_faults_are_what_their_names_say() -> None:
    true = {name: column[100:] for name, column in calm(300).items()}
    assert shown("spike", "hr")["hr"] == pytest.approx(true["hr"][:1] + 30)
    assert set(shown("flatline", "hr")["hr"]) == {calm(300)["hr"][99]}
    assert shown("step", "hr", size=-40)["hr"] == pytest.approx(true["hr"][:45] - 40)
    assert shown("swap", "hr", "resp")["hr"] == pytest.approx(np.maximum(true["resp"][:45], 20))  # a rate has a range
    drift = shown("drift", "hr")["hr"] - true["hr"][:120]
    assert (drift[0], drift[-1]) == pytest.approx((0, 0), abs=0.1)
    assert drift.max() == pytest.approx(30, abs=0.5)
    assert np.abs(np.diff(drift)).max() < 1


# --- plain ways ---


@pytest.mark.parametrize(
    "way",
    [detectors.three_sigma, detectors.hampel, detectors.persistence, detectors.spot],
    ids=lambda way: way.__name__,
)
def test_plain_ways_find_a_spike_and_look_back_only(way: detectors.Detector) -> None:
    values = calm(1000)["hr"]
    values[300] = NAN
    values[900] += 40
    odd = way(values, values)
    assert np.nanargmax(odd) in {900, 901}  # coming back is a change too
    assert np.isnan(odd[300])
    changed = values.copy()
    changed[901:] = 20
    np.testing.assert_array_equal(way(changed, changed)[:901], odd[:901])


@pytest.mark.parametrize("way", [detectors.three_sigma, detectors.hampel, detectors.persistence, detectors.spot])
def test_plain_ways_learn_nothing_from_artefacts(way: detectors.Detector) -> None:
    history = calm(1000)["hr"]
    history[800:830] = NAN
    artefacts = history.copy()
    artefacts[800:830] = 300
    after = slice(830, None)
    np.testing.assert_array_equal(way(artefacts, history)[after], way(history, history)[after])
    assert (way(artefacts, history)[800:830] > np.nanmax(way(history, history)[after])).all()


def test_a_generalized_pareto_distribution_is_found_again() -> None:
    shape, scale = 0.3, 2.0
    peaks = scale / shape * (np.random.default_rng(0).uniform(size=5000) ** -shape - 1)
    assert detectors.fit_gpd(peaks) == pytest.approx((shape, scale), rel=0.15)
    assert np.exp(detectors.log_gpd_tail(float(np.quantile(peaks, 0.99)), shape, scale)) == pytest.approx(0.01, rel=0.2)


# --- counting ---


def test_flags_close_to_each_other_are_one_spell() -> None:
    flags = np.zeros(40, np.bool_)
    flags[[0, 1, 6, 12, 30]] = True
    assert spells(flags).tolist() == [0, 12, 30]
    assert spells(flags[20:25]).tolist() == []


def test_the_threshold_is_the_lowest_that_keeps_to_the_budget() -> None:
    odd = np.full((100, 2), 0.0)
    odd[[10, 11, 50], 0] = [5, 6, 3]
    odd[90, 1] = 4
    assert [threshold_of([odd], most) for most in (0, 1, 2, 3)] == [np.inf, 5, 4, 3]


def write(folder: Path, stay_id: str, values: Values) -> Path:
    """A recording of `values`, one row a minute."""
    columns = zip(*(np.round(values[name], 1).tolist() for name in USUAL), strict=True)
    rows = (
        Row(START + timedelta(minutes=i), dict(zip(USUAL, column, strict=True))) for i, column in enumerate(columns)
    )
    return write_recording(folder, stay_id, rows)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calm patient with two artefacts, beyond any rate; at the first there is no history to compare with."""
    values = calm(6 * 240)
    values["hr"][[10, 700]] = 300.0
    return write(tmp_path_factory.mktemp("recordings"), "calm", values)


@pytest.fixture(scope="module")
def plain(recording: Path) -> list[ScoredRecording]:
    """It, scored as it is."""
    return score_recordings(Settings(), [recording], None)


def test_an_artefact_that_a_way_cannot_score_is_missed_by_it(plain: list[ScoredRecording]) -> None:
    signals = read_manifest(Settings().model).signals
    found = {way: way_of(way, plain, plain, signals).found[-1] for way in (OURS, "3 sigma")}
    assert {way: (of.kind, of.faults) for way, of in found.items()} == dict.fromkeys(found, ("artefact", 2))
    assert (found["3 sigma"].found, found["3 sigma"].recall) == (1, 0.5)


def test_the_study_finds_the_faults_of_a_calm_patient(
    recording: Path, plain: list[ScoredRecording], tmp_path: Path
) -> None:
    settings = Settings()
    faulty = score_recordings(settings, [recording], 0)
    assert not plain[0].faults
    assert np.isnan(plain[0].scores[700, 0])
    assert plain[0].artefacts["hr"][700] == 300.0
    report = report_of(read_manifest(settings.model), plain, faulty)
    (group,) = report.groups
    ours = next(way for way in group.ways if way.way == OURS)
    jumps = [found for found in ours.found if found.kind in {"spike", "step", "swap", "artefact"}]
    assert sum(found.faults for found in jumps) > 1
    assert all(found.found == found.faults for found in jumps)
    assert all(found.delay_min == 0 for found in jumps if found.faults)
    with (tmp_path / "tables").open("w") as file:
        show(report, Console(file=file, width=200))
    assert OURS in (tmp_path / "tables").read_text()
