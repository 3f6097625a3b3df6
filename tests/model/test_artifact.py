"""Artifacts: written, read back, refused when they are not what they say."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from model.config import Column, ForecasterConfig, config_for
from model.dataset import Stay, read_stay
from model.evaluate import evaluate
from model.export import write_artifact
from model.manifest import DEFAULT_ARTIFACT, ArtifactError, read_manifest, write_manifest
from model.predictor import Predictor
from schemas.recordings import RecordingError
from schemas.signals import Signal
from tests.model.synthetic import NO_TRAINING, synthetic_stay, untrained


@pytest.fixture
def copied(vitals_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vitals_artifact, tmp_path / "artifact"))


def test_manifest_survives_the_round_trip(copied: Path) -> None:
    manifest = read_manifest(copied)
    write_manifest(copied, manifest)
    assert read_manifest(copied) == manifest
    assert manifest.sha256 == hashlib.sha256((copied / "model.pt").read_bytes()).hexdigest()


def test_altered_model_is_refused(copied: Path) -> None:
    payload = bytearray((copied / "model.pt").read_bytes())
    payload[len(payload) // 2] ^= 1
    (copied / "model.pt").write_bytes(payload)
    with pytest.raises(ArtifactError, match="sha256"):
        Predictor.load(copied, "cpu")


@pytest.mark.parametrize("name", ["model.pt", "manifest.json"])
def test_missing_file_is_refused(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        Predictor.load(copied, "cpu")


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"\xff", b'{"name": 3}'])
def test_unreadable_manifest_is_refused(copied: Path, text: bytes) -> None:
    (copied / "manifest.json").write_bytes(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        read_manifest(copied)


def put_model(artifact: Path, payload: bytes) -> None:
    """Write other bytes as the artifact's model, with a manifest whose hash fits."""
    (artifact / "model.pt").write_bytes(payload)
    digest = hashlib.sha256(payload).hexdigest()
    write_manifest(artifact, msgspec.structs.replace(read_manifest(artifact), sha256=digest))


def test_foreign_bytes_with_a_fitting_hash_are_refused(copied: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(2)}, buffer)
    put_model(copied, buffer.getvalue())
    with pytest.raises(ArtifactError):
        Predictor.load(copied, "cpu")


class WithoutSteps(nn.Module):
    """A module that knows where to begin, and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, 3)


def test_a_module_without_steps_is_refused(copied: Path) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(WithoutSteps()), buffer)
    put_model(copied, buffer.getvalue())
    with pytest.raises(ArtifactError, match="does not take"):
        Predictor.load(copied, "cpu")


def test_manifest_of_another_module_is_refused(copied: Path) -> None:
    manifest = read_manifest(copied)
    write_manifest(copied, msgspec.structs.replace(manifest, horizons_s=manifest.horizons_s[:-1]))
    with pytest.raises(ArtifactError, match="shape"):
        Predictor.load(copied, "cpu")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quantile_levels": (0.5,)}, "from 0.05 to 0.95"),
        ({"quantile_levels": (0.1, 0.25, 0.5, 0.75, 0.9)}, "from 0.05 to 0.95"),
        ({"quantile_levels": (0.05, 0.25, 0.5, 0.5, 0.95)}, "must rise"),
        ({"quantile_levels": (0.05, 0.3, 0.5, 0.7, 0.95)}, "in their middle"),
        ({"quantile_levels": (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)}, "in their middle"),
        ({"quantile_levels": (0.05, 0.1, 0.25, 0.5, 0.75, 0.95)}, "those of bands"),
        ({"quantile_levels": (0.05, 0.1, 0.25, 0.5, 0.75, 0.8, 0.95)}, "those of bands"),
        ({"horizons_s": (300, 900)}, "one step"),
        ({"horizons_s": (60, 90)}, "whole steps"),
        ({"horizons_s": ()}, "horizons"),
        ({"step_s": 0}, "positive"),
    ],
)
def test_a_manifest_that_a_worker_could_not_score_is_refused(copied: Path, changes: dict[str, Any], why: str) -> None:
    write_manifest(copied, msgspec.structs.replace(read_manifest(copied), **changes))
    with pytest.raises(ArtifactError, match=why):
        read_manifest(copied)


@pytest.mark.parametrize("odd", [{"precision": 0.0}, {"precision": 1e-9}, {"low": 5.0, "high": 5.0}])
def test_a_signal_whose_values_no_worker_could_hold_is_refused(copied: Path, odd: dict[str, float]) -> None:
    manifest = read_manifest(copied)
    signal = msgspec.structs.replace(Signal(name="my value", unit="1", low=0.0, high=10.0), **odd)
    write_manifest(copied, msgspec.structs.replace(manifest, inputs=(*manifest.inputs, signal)))
    with pytest.raises(ArtifactError, match="my value: its range must rise"):
        read_manifest(copied)


@pytest.mark.parametrize("name", ["", 'say "x"', "back\\slash", "two\nlines"])
def test_a_signal_whose_name_no_worker_could_write_is_refused(copied: Path, name: str) -> None:
    manifest = read_manifest(copied)
    signal = Signal(name=name, unit="1", low=0.0, high=10.0)
    write_manifest(copied, msgspec.structs.replace(manifest, inputs=(*manifest.inputs, signal)))
    with pytest.raises(ArtifactError, match="name must be printable"):
        read_manifest(copied)
    with pytest.raises(RecordingError, match="name must be printable"):  # as of a column without a head
        config_for({name: Column(0.0, 10.0, 1)}, 100)


def test_forecasters_that_script_differently_are_not_written(
    vitals: ForecasterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.export.largest_difference", lambda *_: float("nan"))
    with pytest.raises(ArtifactError, match="differ"):
        write_artifact(untrained(vitals), vitals, NO_TRAINING, tmp_path / "out", name="a", version="0")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def unseen_stay(vitals: ForecasterConfig) -> Stay:
    """A stay kept from the default artifact's training: a real one where there are recordings, else a synthetic one."""
    folder = Path(os.environ.get("RECORDINGS", "../shared/data/icu/cinc2009"))
    held_out = read_manifest(DEFAULT_ARTIFACT).training.held_out
    found = sorted(
        (folder / f"{stay_id}.csv.gz" for stay_id in held_out), key=lambda p: p.stat().st_size if p.exists() else 0
    )
    if found and found[0].exists():
        return read_stay(found[0], vitals)
    print("no recordings: a synthetic stay stands in")
    return synthetic_stay(vitals, 1500, seed=11)


def test_default_artifact_beats_persistence_on_a_stay_it_has_not_seen(unseen_stay: Stay) -> None:
    scores = evaluate(Predictor.load(DEFAULT_ARTIFACT, "cpu"), [unseen_stay]).scores()
    assert sum(score.gain for score in scores) / len(scores) < -1.0
    assert 0.8 < sum(score.coverage_90 for score in scores) / len(scores) < 0.99


def test_the_default_artifact_s_manifest_tells_of_scores_better_than_persistence() -> None:
    manifest = Predictor.load(DEFAULT_ARTIFACT, "cpu").manifest
    assert manifest.scores
    assert all(score.mae < score.persistence_mae for score in manifest.scores)
    assert not set(manifest.training.stays) & set(manifest.training.held_out)
    assert (DEFAULT_ARTIFACT / "model.pt").stat().st_size < 2_000_000
