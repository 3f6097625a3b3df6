"""Training and evaluation, end to end on a signal of no clinical meaning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from model.ablations import forecast
from model.augment import Copy
from model.config import ForecasterConfig, config_for
from model.dataset import read_stay, survey
from model.evaluate import evaluate, evaluate_artifact, evaluate_degraded
from model.export import export_artifact, write_artifact, write_card
from model.features import FeatureSet
from model.losses import pinball
from model.manifest import ArtifactError, read_manifest
from model.network import Forecaster
from model.predictor import Predictor
from model.scores import Cell, Evaluation, score
from model.train import _chunks, fit, prepare, samples_of, train_artifact
from schemas.recordings import RecordingError, Row
from tests.model.synthetic import NO_TRAINING, VALUE, synthetic_recording, synthetic_stay, untrained
from tests.recordings import minutes, write_recording


def test_same_seed_same_weights(value_config: ForecasterConfig, value_forecaster: Forecaster) -> None:
    stays = [synthetic_stay(value_config, 200, seed) for seed in range(4)]
    again = fit(stays, value_config, seed=3, updates=12)
    for ours, theirs in zip(value_forecaster.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    other = fit(stays, value_config, seed=4, updates=2)
    assert any(not torch.equal(a, b) for a, b in zip(again.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("minutes", [97, 98, 481])
def test_stays_whose_last_chunk_is_short_are_trained_on(value_config: ForecasterConfig, minutes: int) -> None:
    stays = [synthetic_stay(value_config, minutes, seed) for seed in range(3)]
    fit(stays, value_config, seed=0, updates=25)


def test_a_stay_that_a_grid_cuts_too_short_is_found_again(value_config: ForecasterConfig) -> None:
    lesson = prepare([synthetic_stay(value_config, 20)], value_config, np.random.default_rng(0), degraded_copies=0)
    for seed in range(100):
        assert next(_chunks(lesson.samples[:1], np.random.default_rng(seed)))[0].anchor.shape[1] == 20


def test_a_value_far_from_all_others_can_be_trained_on(tmp_path: Path) -> None:
    levels = [400_000.0 if i in (100, 200) else float(i % 2) for i in range(300)]
    path = write_recording(tmp_path, "spikes", minutes(datetime(2026, 1, 1, tzinfo=UTC), levels, "value"))
    train_artifact([path], tmp_path / "out", updates=3, hold_out=0)
    Predictor.load(tmp_path / "out", "cpu")


def test_a_column_in_another_unit_is_told_of(tmp_path: Path) -> None:
    rows = [
        row._replace(values={"hr": 80.0, "spo2": 0.97}) for row in minutes(datetime(2026, 1, 1, tzinfo=UTC), range(20))
    ]
    with pytest.raises(RecordingError, match=r"^signal 'spo2': .* no plausible value \(40 to 100 %\)$"):
        train_artifact([write_recording(tmp_path, "a", rows)], tmp_path / "out", updates=1, hold_out=0)


def test_rare_readings_are_learned_from_and_scored_where_the_last_one_is_fresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin, random = datetime(2026, 1, 1, tzinfo=UTC), np.random.default_rng(0)
    rates = np.round(80 + np.cumsum(random.normal(size=100)), 1).tolist()
    every_5_min = [Row(begin + timedelta(minutes=5 * i), {"hr": rate}) for i, rate in enumerate(rates)]
    paths = [write_recording(tmp_path, name, every_5_min) for name in ("a", "b")]
    config = config_for(*survey(paths, 60))
    lesson = prepare([read_stay(paths[0], config)], config, np.random.default_rng(0))
    change = np.abs(np.subtract(rates[3:], rates[:-3])).mean()
    assert float(lesson.changes[config.horizons_s.index(900), 0]) == pytest.approx(change, rel=0.15)
    assert train_artifact(paths, tmp_path / "out", updates=1, hold_out=1).scores == ()
    assert "not scored: no held-out recording has values in half of 60 steps" in capsys.readouterr().out
    report = evaluate_artifact(tmp_path / "out", paths, tmp_path / "report")
    assert report.rare
    assert "No step has enough readings" in Path(report.page).read_text(encoding="utf-8")
    found = next(score for score in report.scores if score.horizon_s == 900)
    assert found.persistence_mae == pytest.approx(change, rel=1e-5)
    assert found.count == len(rates) - 3


def test_a_report_on_an_hour_tells_what_can_be_told(value_config: ForecasterConfig, tmp_path: Path) -> None:
    config = msgspec.structs.replace(value_config, horizons_s=(60, 3600))
    write_artifact(untrained(config), config, NO_TRAINING, tmp_path / "out", name="random", version="0")
    levels = [float(i % 7) for i in range(61)]
    path = write_recording(tmp_path, "hour", minutes(datetime(2026, 1, 1, tzinfo=UTC), levels, "value"))
    report = evaluate_artifact(tmp_path / "out", [path], tmp_path / "report")
    assert {name: len(scores) for name, scores in report.sparse.items()}["irregular, 180 s in the mean"] == 1
    assert "nan" not in Path(report.page).read_text(encoding="utf-8").partition("With rarer readings")[2]


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_a_signal_is_learned_and_scored_in_any_unit(value_config: ForecasterConfig, unit: float) -> None:
    signal = msgspec.structs.replace(VALUE, low=unit * VALUE.low, high=unit * VALUE.high, precision=unit * 0.1)
    config = msgspec.structs.replace(value_config, inputs=(signal,))
    stays = [synthetic_stay(value_config, 200, seed) for seed in range(3)]
    scaled = [stay._replace(x=(stay.x * unit).astype(np.float32)) for stay in stays]
    forecaster = fit(scaled, config, seed=0, updates=40)
    samples = samples_of([Copy(stay) for stay in scaled], forecaster.features, config)
    forecasts = [forecast(forecaster.network, forecaster.features, sample) for sample in samples]
    by_unit = [(each / unit).astype(np.float32) for each in forecasts]
    (found, _) = Evaluation(config, [Copy(stay) for stay in scaled], forecasts).scores()
    (expected, _) = Evaluation(value_config, [Copy(stay) for stay in stays], by_unit).scores()
    assert found.mae / unit == pytest.approx(expected.mae, rel=1e-3)
    assert found.gain == pytest.approx(expected.gain, abs=0.1)
    assert found.gain < -1.0


def test_errors_in_a_small_unit_are_written_out(value_config: ForecasterConfig, tmp_path: Path) -> None:
    signal = msgspec.structs.replace(VALUE, low=0.0, high=0.1, precision=0.0001)
    config = msgspec.structs.replace(value_config, inputs=(signal,))
    manifest = write_artifact(untrained(config), config, NO_TRAINING, tmp_path, name="random", version="0")
    levels = [0.001 * (i % 7) for i in range(100)]
    path = write_recording(tmp_path, "small", minutes(datetime(2026, 1, 1, tzinfo=UTC), levels, "value"))
    report = evaluate_artifact(tmp_path, [path], tmp_path / "report")
    write_card(tmp_path, msgspec.structs.replace(manifest, scores=report.scores))
    error = f"{report.scores[0].persistence_mae:.5f}"
    assert error.startswith("0.001")
    for page in (Path(report.page), tmp_path / "MODEL_CARD.md"):
        assert error in page.read_text(encoding="utf-8")


def test_a_trained_artifact_serves_and_carries_its_scores(value_config: ForecasterConfig, tmp_path: Path) -> None:
    recordings = [synthetic_recording(tmp_path, value_config, 300, seed) for seed in range(4)]
    made = [
        train_artifact(recordings, tmp_path / out, updates=40, hold_out=1, name="toy", config=value_config)
        for out in ("a", "b")
    ]
    assert made[0].scores == made[1].scores
    predictor = Predictor.load(tmp_path / "a", "cpu")
    assert predictor.manifest == read_manifest(tmp_path / "a") == made[0]
    assert [s.signal for s in made[0].scores] == ["value", "value"]
    assert made[0].scores[0].mae < made[0].scores[0].persistence_mae
    assert (tmp_path / "a" / "MODEL_CARD.md").exists()


def test_training_runs_the_sequence_that_serving_steps_through(
    vitals: ForecasterConfig, value_config: ForecasterConfig
) -> None:
    for config in (vitals, value_config):
        forecaster = untrained(config)
        stays = [synthetic_stay(config, 50, seed) for seed in (1, 2)]
        state, stepped, seen = forecaster.initial_state(2), [], []
        exact, half = (rows.unsqueeze(1).repeat(1, 2) for rows in forecaster.features.initial_rows())
        with torch.inference_mode():
            for t in range(50):
                x, observed, elapsed = (
                    torch.stack([torch.from_numpy(stay[part][t]).float() for stay in stays]) for part in (1, 2, 3)
                )
                quantiles, state = forecaster.step(x, observed, elapsed, state)
                features, exact, half = forecaster.features.step(x.t(), observed.t(), elapsed.t(), exact, half)
                stepped.append(quantiles)
                seen.append(features)
            sequence = FeatureSet(*(torch.stack(rows, dim=-2).flatten(-2) for rows in zip(*seen, strict=True)))
            blank = torch.zeros(1, 2 * len(config.signals), config.hidden)
            moves, _ = forecaster.network(sequence, (blank, blank), 0, 1)
        anchor = sequence.anchor.view(-1, 50, 2)
        whole = (anchor + moves).permute(3, 4, 2, 1, 0)
        low, high = forecaster.features.low.view(-1, 1, 1), forecaster.features.high.view(-1, 1, 1)
        torch.testing.assert_close(whole.maximum(low).minimum(high), torch.stack(stepped), atol=1e-3, rtol=1e-5)


def test_pinball_by_hand() -> None:
    errors, levels = torch.tensor([[2.0, -2.0], [2.0, -2.0]]), torch.tensor([0.1, 0.5])
    torch.testing.assert_close(pinball(errors, levels), torch.tensor([[0.2, 1.8], [1.0, 1.0]]))


def test_score_by_hand() -> None:
    y = np.array([1.0, 2.0, 9.0, 4.0], np.float32)
    quantiles = np.tile(np.array([0.0, 1.0, 2.0, 3.0, 5.0], np.float32), (4, 1))
    found = score("value", 60, Cell(y, quantiles, np.ones(4, np.float32)), (0.05, 0.25, 0.5, 0.75, 0.95), 1.0)
    assert (found.count, found.mae, found.persistence_mae) == (4, 2.5, 3.0)
    assert (found.coverage_50, found.coverage_90, found.width_90, found.width_50) == (0.5, 0.75, 5.0, 2.0)
    assert found.served_50 == (0.5 + 1.0) / 4  # the first truth ties with an end of the band
    # One forecast by hand: pinball 0.05 x 1, 0, 0.5 x 1, 0.25 x 2, 0.05 x 4 of truth 1, over trapezes of the levels.
    one = score("value", 60, Cell(y[:1], quantiles[:1], y[:1]), (0.05, 0.25, 0.5, 0.75, 0.95), 1.0)
    assert one.crps == pytest.approx(0.05 * 0.25 + 0.5 * 0.5 + 0.5 * 0.45 + 0.2 * 0.25, abs=1e-4)
    assert found.gain == pytest.approx(100 * (2.5 / 3 - 1))


def test_evaluation_walks_the_steps_of_serving(predictor: Predictor, vitals: ForecasterConfig) -> None:
    stays = [synthetic_stay(vitals, minutes, minutes) for minutes in (150, 200)]
    evaluation = evaluate(predictor, stays)
    for stay, quantiles in zip(evaluation.stays, evaluation.forecasts, strict=True):
        state = predictor.initial_state(1)
        for t in range(stay.length):
            x, observed, elapsed = (torch.from_numpy(part[t : t + 1]) for part in stay[1:])
            expected, state = predictor.step(x, observed, elapsed, state)
            state = predictor.round_state(state)
            np.testing.assert_allclose(quantiles[t], expected[0].numpy(), atol=0.05)
    scores = evaluation.scores()
    assert len(scores) == 30
    assert all(s.count > 0 and s.pinball > 0 for s in scores)
    assert [len(alone) for alone in evaluation.alone().values()] == [30, 30]


def test_a_checkpoint_gives_the_artifact_again_and_a_report(value_config: ForecasterConfig, tmp_path: Path) -> None:
    recordings = [synthetic_recording(tmp_path, value_config, 200, seed) for seed in range(5)]
    trained = train_artifact(
        recordings,
        tmp_path / "trained",
        updates=10,
        hold_out=2,
        config=value_config,
        checkpoint=tmp_path / "kept" / "checkpoint.pt",
    )
    exported = export_artifact(tmp_path / "kept" / "checkpoint.pt", tmp_path / "exported")
    assert (exported.training, exported.inputs, exported.signals) == (trained.training, trained.inputs, trained.signals)
    report = evaluate_artifact(tmp_path / "exported", recordings, tmp_path / "report", baselines=True)
    assert report.scores == trained.scores
    assert set(report.stays) == set(trained.training.held_out)
    assert not report.seen
    assert [found.signal for found in report.degraded] == ["value", "value"]
    assert {rival.label for rival in report.rivals} == {"best mean", "ridge", "boosted trees"}
    page = Path(report.page).read_text(encoding="utf-8")
    assert "Reliability" in page
    assert page.count("data:image/png") == 3


def test_degraded_copies_are_scored_against_what_was_there(predictor: Predictor, vitals: ForecasterConfig) -> None:
    stay = synthetic_stay(vitals, 300, seed=9)
    found = evaluate_degraded(predictor, [stay], seed=2)
    cell = found.cell("hr", 300)
    truths, v = stay.x[:, vitals.input_index("hr")], vitals.signals.index("hr")
    (seen, whole), forecast = found.shown[0], found.forecasts[0]
    assert whole is not None
    assert 0 < len(cell.y) < seen.length
    assert set(cell.y.tolist()) <= set(truths.tolist()) | set(np.round(truths).tolist())
    origins = [
        t
        for t in range(seen.length - 5)
        if seen.elapsed[t, vitals.input_index("hr")] <= 600 and whole.observed[t + 5, vitals.input_index("hr")]
    ]
    first = [np.flatnonzero(seen.observed[: t + 1, vitals.input_index("hr")])[-1] for t in origins]
    np.testing.assert_array_equal(cell.last[: len(origins)], seen.x[first, vitals.input_index("hr")])
    np.testing.assert_array_equal(cell.quantiles[: len(origins)], forecast[origins, v, 1])


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    for content in (torch.zeros(2), [1, 2], {"description": 3}, None):
        if content is None:
            (tmp_path / "checkpoint.pt").write_bytes(b"nothing of ours")
        else:
            torch.save(content, tmp_path / "checkpoint.pt")
        with pytest.raises(ArtifactError, match="checkpoint"):
            export_artifact(tmp_path / "checkpoint.pt", tmp_path / "out")
