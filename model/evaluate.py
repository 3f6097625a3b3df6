"""How good an artifact is on stays it has not seen: always beside persistence, by the very steps that serve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model.augment import Copy, copies, irregular, longest_first, rare
from model.config import ForecasterConfig
from model.dataset import FRESH_S, Stay, UnfitArgumentError, read_stays, steps_of
from model.manifest import Manifest, Score
from model.predictor import Predictor, one_thread
from model.scores import Evaluation, Report, Rival
from schemas.recordings import RecordingError, stay_id_of


def evaluate(predictor: Predictor, stays: Sequence[Stay]) -> Evaluation:
    """The forecasts of `predictor` at every step of `stays`, the state rounded after each step as in serving."""
    return evaluate_copies(predictor, [Copy(stay) for stay in stays])


@one_thread()
def evaluate_copies(predictor: Predictor, drawn: Sequence[Copy]) -> Evaluation:
    """The same where it sees what the copies show; the truth is what there was."""
    shown = longest_first(drawn)
    config = config_of(predictor.manifest)
    shape = (len(config.signals), len(config.horizons_s), len(config.quantile_levels))
    forecasts = [np.empty((copy.seen.length, *shape), np.float32) for copy in shown]
    state = predictor.initial_state(len(shown))
    for batch in steps_of([copy.seen for copy in shown]):
        x, observed, elapsed = (torch.from_numpy(part) for part in (batch.x, batch.observed, batch.elapsed))
        quantiles, state = predictor.step(x, observed, elapsed, state[: len(x)])
        state = predictor.round_state(state)
        for forecast, row in zip(forecasts, quantiles.numpy(), strict=False):  # stays that ended have no row any more
            forecast[batch.t] = row
    return Evaluation(config, shown, forecasts)


def evaluate_degraded(predictor: Predictor, stays: Sequence[Stay], seed: int = 0) -> Evaluation:
    """The forecasts of `predictor` where it sees degraded copies of `stays`, drawn with `seed`."""
    return evaluate_copies(predictor, list(copies(stays, config_of(predictor.manifest), np.random.default_rng(seed))))


def evaluate_sparse(predictor: Predictor, stays: Sequence[Stay]) -> dict[str, tuple[Score, ...]]:
    """Scores where readings come every step, every second and fifth step, and irregularly, by that name."""
    config, random = config_of(predictor.manifest), np.random.default_rng(0)
    step_s = config.step_s
    drawn = {f"every {n * step_s} s": [rare(stay, n, config) for stay in stays] for n in (1, 2, 5)}
    drawn[f"irregular, {3 * step_s} s in the mean"] = [irregular(stay, 3.0, config, random) for stay in stays]
    return {name: evaluate_copies(predictor, shown).scores() for name, shown in drawn.items()}


def config_of(manifest: Manifest) -> ForecasterConfig:
    """What the manifest tells of the forecaster: all that concerns its task, nothing of its inside."""
    return ForecasterConfig(**manifest.task)


def page_in(out: Path) -> Path:
    """The report's page, for `out`: a folder, or the page itself."""
    return out if out.suffix == ".html" else out / "report.html"


def evaluate_artifact(artifact: Path, recordings: list[Path], out: Path, *, baselines: bool = False) -> Report:
    """Score `artifact` on those `recordings` it was not trained on, print a table, write the report's page to `out`.

    out : a folder, or the path of the HTML page. baselines : fit them on the recordings that the artifact was trained
    on, and show their errors beside it; takes half an hour for a week's recordings of forty stays.
    If all recordings were used in training, they are scored all the same, and the report says so; so are recordings
    of which no step has enough readings before it, wherever the last one is fresh.
    Raises: RecordingError if no forecast of them can be scored.
    """
    predictor = Predictor.load(artifact, "cpu")
    manifest, config = predictor.manifest, config_of(predictor.manifest)
    known = set(manifest.training.stays)
    unseen = [path for path in recordings if stay_id_of(path) not in known]
    stays = read_stays(unseen or recordings, config)
    evaluation = evaluate(predictor, [stay for stay in stays if stay.length])
    rare = not evaluation.scores()
    if rare:
        evaluation = evaluation.by_freshness()
    scores = evaluation.scores()
    if not scores:
        raise RecordingError(f"no forecast can be scored: too few plausible values of {', '.join(config.signals)}")
    rivals: tuple[Rival, ...] = ()
    if baselines:
        training = read_stays([path for path in recordings if stay_id_of(path) in known], config)
        rivals = rivals_of(training, evaluation)
    report = Report(
        name=manifest.name,
        version=manifest.version,
        sha256=manifest.sha256,
        scores=scores,
        stays=evaluation.alone(),
        rivals=rivals,
        degraded=evaluate_degraded(predictor, evaluation.stays).scores(),
        sparse=evaluate_sparse(predictor, evaluation.stays),
        seen=not unseen,
        rare=rare,
        page=str(page_in(out)),
    )
    publish(report, evaluation)
    return report


def publish(report: Report, evaluation: Evaluation) -> None:
    """Print the table and write the page."""
    from model.report import write_page  # noqa: PLC0415 - plots need the extra `train`; scores do not

    Console().print(table_of(report))
    write_page(Path(report.page), report, evaluation)


def rivals_of(training: Sequence[Stay], evaluation: Evaluation) -> tuple[Rival, ...]:
    """The baselines, fitted on `training`, on the very origins of `evaluation`.

    Raises: UnfitArgumentError if there is no stay to fit them on.
    """
    from model.baselines import median_errors  # noqa: PLC0415 - scikit-learn is in the extra `train`

    if not training:
        raise UnfitArgumentError(
            "the baselines need the recordings that the artifact was trained on, beside unseen ones"
        )
    return tuple(median_errors(training, evaluation.stays, evaluation.config))


def table_of(report: Report) -> Table:
    """Change of the error against persistence (per cent) and coverage of the 90 % band, per signal and horizon."""
    seen = ", on stays it was trained on" if report.seen else ""
    rare = f", up to {FRESH_S / 60:g} min after a reading" if report.rare else ""
    table = Table(title=f"{report.name} {report.version}: error against persistence, % (90 % coverage){seen}{rare}")
    horizons = sorted({found.horizon_s for found in report.scores})
    table.add_column("signal")
    for horizon_s in horizons:
        table.add_column(f"{horizon_s / 60:g} min", justify="right")
    by_cell = {(found.signal, found.horizon_s): found for found in report.scores}
    for signal in dict.fromkeys(found.signal for found in report.scores):
        cells = (by_cell.get((signal, horizon_s)) for horizon_s in horizons)
        table.add_row(signal, *(f"{c.gain:+.1f} ({c.coverage_90:.2f})" if c else "" for c in cells))
    return table
