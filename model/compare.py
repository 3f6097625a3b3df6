"""Cross-validation: every stay is forecast by a model that has not seen it, beside baselines fitted on the same stays.

python -m model.compare RECORDINGS --out reports/folds
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from model.baselines import quantile_cells
from model.config import ForecasterConfig, vital_signs
from model.dataset import Stay, folds, read_stays
from model.evaluate import evaluate, evaluate_degraded, publish, rivals_of
from model.export import write_artifact
from model.manifest import Training
from model.predictor import Predictor
from model.scores import Cell, Evaluation, Report, Rival, beside_trees, rival_gains, scores_of
from model.train import UPDATES, fit
from schemas.recordings import find_recordings


def cross_validate(
    recordings: Sequence[Path],
    config: ForecasterConfig,
    out: Path,
    *,
    count: int = 5,
    seed: int = 0,
    updates: int = UPDATES,
    baselines: bool = True,
    quantile_rows: int = 0,
) -> Report:
    """Scores over all stays, each forecast by the model of the fold it was kept from; the page is written to `out`.

    quantile_rows : origins from which boosted trees of every quantile learn each cell; 0 for no such trees.
    """
    evaluations: list[Evaluation] = []
    rivals: list[Rival] = []
    degraded: list[Evaluation] = []
    rival_cells: dict[tuple[str, int], list[Cell]] = {}
    parts = folds(recordings, count, seed)
    known = dict(zip(recordings, read_stays(recordings, config), strict=True))
    for part in parts:
        training = [known[path] for path in recordings if path not in part]
        predictor = _trained(training, config, seed, updates)
        found = evaluate(predictor, [known[path] for path in part])
        degraded.append(evaluate_degraded(predictor, found.stays, seed))
        evaluations.append(found)
        if baselines:
            rivals += rivals_of(training, found)
        if quantile_rows:
            for signal, horizon_s, cell in quantile_cells(training, found.stays, config, quantile_rows):
                rival_cells.setdefault((signal, horizon_s), []).append(cell)
    evaluation = joined(evaluations)
    trees = ((key, Cell(*map(np.concatenate, zip(*parts, strict=True)))) for key, parts in rival_cells.items())
    report = Report(
        name=f"{count}-fold",
        version=f"seed {seed}, {updates} updates",
        sha256="",
        scores=evaluation.scores(),
        stays=evaluation.alone(),
        rivals=tuple(rivals),
        degraded=joined(degraded).scores(),
        seen=False,
        page=str(out / "report.html"),
        quantile_trees=scores_of(trees, config),
    )
    publish(report, evaluation)
    return report


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Evaluations of different stays as one."""
    return Evaluation(
        parts[0].config,
        [copy for part in parts for copy in part.shown],
        [forecast for part in parts for forecast in part.forecasts],
    )


def _trained(stays: Sequence[Stay], config: ForecasterConfig, seed: int, updates: int) -> Predictor:
    """A model of `stays`, by way of its artifact: what is scored is what would serve."""
    forecaster = fit(stays, config, seed=seed, updates=updates)
    names = tuple(stay.stay_id for stay in stays)
    training = Training(data="", stays=names, held_out=(), seed=seed, updates=updates, revision="", trained_at="")
    with TemporaryDirectory() as folder:
        write_artifact(forecaster, config, training, Path(folder), name="fold", version="0")
        return Predictor.load(Path(folder), "cpu")


def summary(report: Report) -> str:
    """Mean change against persistence over all cells, of the model and each baseline, pooled and by stay."""
    lines = []
    by_stay = [[score.gain for score in scores] for scores in report.stays.values() if scores]
    model = {(score.signal, score.horizon_s): score.gain for score in report.scores}
    lines.append(
        f"model: {np.mean(list(model.values())):+.2f} % pooled, "
        f"{np.mean([np.mean(gains) for gains in by_stay]):+.2f} % mean of stays"
    )
    for label, gains in rival_gains(report).items():
        wins = sum(model[cell] < gain for cell, gain in gains.items())
        lines.append(
            f"{label}: {np.mean(list(gains.values())):+.2f} % pooled; the model is better in {wins} of {len(gains)}"
        )
    if report.quantile_trees:
        pairs = beside_trees(report)
        less = 100 * (1 - np.mean([model.pinball / trees.pinball for model, trees in pairs]))
        wins = sum(model.pinball < trees.pinball for model, trees in pairs)
        lines.append(f"quantile trees: our pinball loss is {less:.2f} % less, lower in {wins} of {len(pairs)}")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="cross-validate the forecaster beside its baselines")
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("reports/folds"))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--quantile-rows", type=int, default=0, help="origins a cell for trees of every quantile")
    arguments = parser.parse_args()
    report = cross_validate(
        find_recordings(*arguments.recordings),
        vital_signs(),
        arguments.out,
        count=arguments.folds,
        seed=arguments.seed,
        updates=arguments.updates,
        baselines=not arguments.no_baselines,
        quantile_rows=arguments.quantile_rows,
    )
    print(summary(report))


if __name__ == "__main__":
    main()
