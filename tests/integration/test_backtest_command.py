"""`vitalcast backtest` as a user runs it: recordings in, tables and a report out, on all cores."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from model.config import vital_signs
from tests.launch import spawned
from tests.model.synthetic import synthetic_recording
from tests.recordings import minutes, write_recording
from tests.worker_process import run_vitalcast


def backtest(recordings: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it; its report is in the subfolder `report`."""
    command = ("backtest", str(recordings), "--out", str(folder / "report"), "--curve")
    # Spawned: what is forked may not have processes of its own.
    run = run_vitalcast(*command, folder=folder, timeout_s=180, launch=spawned)
    assert run.returncode == 0, run.stderr
    return run


def test_a_backtest_writes_its_report(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for seed in range(5):  # enough for the folds of the curve
        synthetic_recording(folder, vital_signs(), 240, seed)
    backtest(folder, tmp_path)
    report = json.loads((tmp_path / "report" / "backtest.json").read_text(encoding="utf-8"))
    assert set(report["stays"]) == {f"synthetic-{seed:02d}" for seed in range(5)}
    assert any((tmp_path / "report").glob("*.html"))


def test_one_stay_beside_a_recording_without_values_has_a_report_too(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    synthetic_recording(folder, vital_signs(), 240, 0)
    write_recording(folder, "empty", minutes(datetime(2026, 11, 1, tzinfo=UTC), [None] * 9))
    run = backtest(folder, tmp_path)
    assert "empty.csv.gz: no values, left out" in run.stdout
    assert "No other thresholds" in run.stdout
    report = json.loads((tmp_path / "report" / "backtest.json").read_text(encoding="utf-8"))
    assert (list(report["stays"]), report["curve"]) == (["synthetic-00"], None)
