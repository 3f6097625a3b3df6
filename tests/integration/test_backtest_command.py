"""`vitalcast backtest` as a user runs it: recordings in, tables and a report out, on all cores."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from model.config import vital_signs
from stream_worker.backtest.command import run_backtest
from stream_worker.settings import Settings
from tests.launch import spawned
from tests.model.synthetic import synthetic_recording
from tests.recordings import minutes, write_recording
from tests.worker_process import run_vitalcast


def test_a_backtest_writes_its_report(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for seed in range(5):  # enough for the folds of the curve
        synthetic_recording(folder, vital_signs(), 240, seed)
    command = ("backtest", str(folder), "--out", str(tmp_path / "report"), "--curve")
    # Spawned: what is forked may not have processes of its own.
    run = run_vitalcast(*command, folder=tmp_path, timeout_s=180, launch=spawned)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "report" / "backtest.json").read_text(encoding="utf-8"))
    assert set(report["stays"]) == {f"synthetic-{seed:02d}" for seed in range(5)}
    assert any((tmp_path / "report").glob("*.html"))


def test_one_stay_beside_a_recording_without_values_has_a_report_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    synthetic_recording(folder, vital_signs(), 240, 0)
    write_recording(folder, "empty", minutes(datetime(2026, 11, 1, tzinfo=UTC), [None] * 9))
    run_backtest(Settings(), [folder], tmp_path / "report", Console(width=200), with_curve=True)
    shown = capsys.readouterr().out
    assert "empty.csv.gz: no values, left out" in shown
    assert "No other thresholds" in shown
    report = json.loads((tmp_path / "report" / "backtest.json").read_text(encoding="utf-8"))
    assert (list(report["stays"]), report["curve"]) == (["synthetic-00"], None)
