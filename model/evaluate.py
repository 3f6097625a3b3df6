"""How good an artifact is on stays it has not seen: always beside persistence, by the very steps that serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.augment import Copy, copies, irregular, rare
from model.config import ForecasterConfig
from model.dataset import FRESH_S, Floats, Stay, by_length, read_stay, scored_origins, steps_of, truth
from model.manifest import Manifest, Score
from model.predictor import Predictor
from schemas.recordings import stay_id_of

Doubles = NDArray[np.float64]


class Cell(NamedTuple):
    """All scored origins of one signal and horizon: y (N,) truth, quantiles (N, Q), last (N,) value at the origin."""

    y: Floats
    quantiles: Floats
    last: Floats


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline's mean absolute error in one cell of one stay."""

    label: str
    signal: str
    horizon_s: int
    stay_id: str
    count: int
    mae: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation found.

    scores : pooled, each origin counting once. stays : the same for each stay alone, by stay_id.
    quantile_trees : scores of boosted trees of each quantile on the same origins, if they were fitted.
    degraded : pooled, on copies of the stays as wards degrade data (`model.augment`), the same ones for each artifact.
    sparse : pooled, on the stays as read more rarely, by how rarely; origins count as in `degraded`.
    seen : whether these stays were used in training, so that the figures flatter. page : the report with its plots.
    """

    name: str
    version: str
    sha256: str
    scores: tuple[Score, ...]
    stays: Mapping[str, tuple[Score, ...]]
    rivals: tuple[Rival, ...]
    degraded: tuple[Score, ...]
    seen: bool
    page: str
    quantile_trees: tuple[Score, ...] = ()
    sparse: Mapping[str, tuple[Score, ...]] = {}


class Evaluation(NamedTuple):
    """Stays with the forecasts made at each of their steps, float32 (T, V, H, Q).

    whole : the same stays before they were degraded, where the truth is looked up. Then an origin counts if its
    signal's last value is at most FRESH_S old: few would have enough steps observed.
    """

    config: ForecasterConfig
    stays: Sequence[Stay]
    forecasts: Sequence[Floats]
    whole: Sequence[Stay] | None = None

    def cell(self, signal: str, horizon_s: int) -> Cell:
        """The scored origins of one signal and horizon, stay after stay."""
        config = self.config
        v, h, column = config.signals.index(signal), config.horizons_s.index(horizon_s), config.input_index(signal)
        parts = []
        for stay, forecast, whole in zip(self.stays, self.forecasts, self.whole or self.stays, strict=True):
            later = truth(whole, config)[:, v, h]
            counts = scored_origins(stay, config)[:, v] if whole is stay else stay.elapsed[:, column] <= FRESH_S
            kept = counts & ~np.isnan(later)
            observed = np.where(stay.observed[:, column], np.arange(stay.length), 0)
            last = stay.x[np.maximum.accumulate(observed), column]
            parts.append((later[kept], forecast[kept, v, h], last[kept]))
        return Cell(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def scores(self) -> tuple[Score, ...]:
        """Pooled scores of every signal and horizon that has any truth."""
        cells = (
            (name, horizon_s, self.cell(name, horizon_s))
            for name in self.config.signals
            for horizon_s in self.config.horizons_s
        )
        precisions = {signal.name: signal.precision for signal in self.config.forecast_signals}
        return tuple(
            score(*found, self.config.quantile_levels, precisions[found[0]]) for found in cells if len(found[2].y)
        )

    def alone(self) -> dict[str, tuple[Score, ...]]:
        """Scores of each stay by itself."""
        pairs = zip(self.stays, self.forecasts, strict=True)
        return {stay.stay_id: Evaluation(self.config, [stay], [forecast]).scores() for stay, forecast in pairs}


def evaluate(predictor: Predictor, stays: Sequence[Stay]) -> Evaluation:
    """The forecasts of `predictor` at every step of `stays`, the state rounded after each step as in serving."""
    ordered = by_length(stays)
    config = config_of(predictor.manifest)
    shape = (len(config.signals), len(config.horizons_s), len(config.quantile_levels))
    forecasts = [np.empty((stay.length, *shape), np.float32) for stay in ordered]
    state = predictor.initial_state(len(ordered))
    for batch in steps_of(ordered):
        x, observed, elapsed = (torch.from_numpy(part) for part in (batch.x, batch.observed, batch.elapsed))
        quantiles, state = predictor.step(x, observed, elapsed, state[: len(x)])
        state = predictor.round_state(state)
        for forecast, row in zip(forecasts, quantiles.numpy(), strict=False):  # stays that ended have no row any more
            forecast[batch.t] = row
    return Evaluation(config, ordered, forecasts)


def evaluate_degraded(predictor: Predictor, stays: Sequence[Stay], seed: int = 0) -> Evaluation:
    """The forecasts of `predictor` where it sees degraded copies of `stays`, drawn with `seed`."""
    return evaluate_copies(predictor, list(copies(stays, config_of(predictor.manifest), np.random.default_rng(seed))))


def evaluate_copies(predictor: Predictor, drawn: Sequence[Copy]) -> Evaluation:
    """The forecasts of `predictor` where it sees what the copies show; the truth is what there was."""
    found = evaluate(predictor, [copy.seen for copy in drawn])
    whole = {id(copy.seen): copy.whole for copy in drawn}
    return found._replace(whole=[whole[id(stay)] for stay in found.stays])


def evaluate_sparse(predictor: Predictor, stays: Sequence[Stay], seed: int = 0) -> dict[str, tuple[Score, ...]]:
    """Scores where readings come every step, every second and fifth step, and irregularly, by that name."""
    config, random = config_of(predictor.manifest), np.random.default_rng(seed)
    step_s = config.step_s
    drawn = {f"every {n * step_s} s": [rare(stay, n, config) for stay in stays] for n in (1, 2, 5)}
    drawn[f"irregular, {3 * step_s} s in the mean"] = [irregular(stay, 3.0, config, random) for stay in stays]
    return {name: evaluate_copies(predictor, shown).scores() for name, shown in drawn.items()}


def config_of(manifest: Manifest) -> ForecasterConfig:
    """What the manifest tells of the forecaster: all that concerns its task, nothing of its inside."""
    return ForecasterConfig(
        inputs=manifest.inputs,
        signals=manifest.signals,
        step_s=manifest.step_s,
        horizons_s=manifest.horizons_s,
        quantile_levels=manifest.quantile_levels,
        context_steps=manifest.context_steps,
    )


def score(signal: str, horizon_s: int, cell: Cell, levels: tuple[float, ...], precision: float) -> Score:
    """Score of one cell.

    MAE = mean |y - median|; persistence: the same of y - last. Pinball: mean over origins and levels. A band covers y
    if y lies between its quantiles, ends included; it is the narrowest there is of at least the nominal mass.
    `served_50` rounds the band to the signal's precision first, as forecasts are sent: then y often ties with an end,
    which counts half.
    """
    y, quantiles = cell.y.astype(np.float64), cell.quantiles.astype(np.float64)
    error, q = y[:, None] - quantiles, np.array(levels)
    (low_50, high_50), (low_90, high_90) = band(quantiles, levels, 0.5), band(quantiles, levels, 0.9)
    pinball = np.maximum(q * error, (q - 1.0) * error)
    return Score(
        signal=signal,
        horizon_s=horizon_s,
        count=len(y),
        mae=_mean(np.abs(error[:, len(levels) // 2])),
        persistence_mae=_mean(np.abs(y - cell.last.astype(np.float64))),
        pinball=_mean(pinball),
        coverage_50=_mean((low_50 <= y) & (y <= high_50)),
        coverage_90=_mean((low_90 <= y) & (y <= high_90)),
        width_90=_mean(high_90 - low_90),
        width_50=_mean(high_50 - low_50),
        crps=_mean(crps(pinball, q)),
        served_50=_mean(covered(*(np.rint(part / precision) for part in (low_50, y, high_50)))),
    )


def crps(pinball: Doubles, q: Doubles) -> Doubles:
    """Twice the integral of the pinball loss (N, Q) over its levels (Q,), by trapezes from 0 at level 0 to 0 at 1."""
    spans = np.diff(np.concatenate([[0.0], q, [1.0]]))
    return np.asarray(pinball @ (spans[:-1] + spans[1:]))


def covered(low: Doubles, y: Doubles, high: Doubles) -> Doubles:
    """1 where y is between, 1/2 where it equals an end, 0 elsewhere."""
    return np.asarray(((low <= y) & (y <= high)) * 0.5 + ((low < y) & (y < high)) * 0.5)


def band(quantiles: Doubles, levels: tuple[float, ...], mass: float) -> tuple[Doubles, Doubles]:
    """Lower and upper end of the narrowest central band of at least `mass`, or of the widest there is."""
    outside = [i for i, level in enumerate(levels) if level <= (1.0 - mass) / 2.0 + 1e-9]
    i = outside[-1] if outside else 0
    return quantiles[..., i], quantiles[..., len(levels) - 1 - i]


def evaluate_artifact(artifact: Path, recordings: list[Path], out: Path, *, baselines: bool = False) -> Report:
    """Score `artifact` on those `recordings` it was not trained on, print a table, write the report's page to `out`.

    out : a folder, or the path of the HTML page. baselines : fit them on the recordings that the artifact was trained
    on, and show their errors beside it; takes half an hour for a week's recordings of forty stays.
    If all recordings were used in training, they are scored all the same, and the report says so.
    """
    predictor = Predictor.load(artifact, "cpu")
    manifest, config = predictor.manifest, config_of(predictor.manifest)
    known = set(manifest.training.stays)
    unseen = [path for path in recordings if stay_id_of(path) not in known]
    stays = [read_stay(path, config) for path in track(unseen or recordings, "Reading recordings")]
    evaluation = evaluate(predictor, [stay for stay in stays if stay.length])
    rivals: tuple[Rival, ...] = ()
    if baselines:
        training = [read_stay(path, config) for path in recordings if stay_id_of(path) in known]
        rivals = rivals_of(training, evaluation)
    page = out if out.suffix == ".html" else out / "report.html"
    report = Report(
        name=manifest.name,
        version=manifest.version,
        sha256=manifest.sha256,
        scores=evaluation.scores(),
        stays=evaluation.alone(),
        rivals=rivals,
        degraded=evaluate_degraded(predictor, evaluation.stays).scores(),
        sparse=evaluate_sparse(predictor, evaluation.stays),
        seen=not unseen,
        page=str(page),
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

    Raises: ValueError if there is no stay to fit them on.
    """
    from model.baselines import median_errors  # noqa: PLC0415 - scikit-learn is in the extra `train`

    if not training:
        raise ValueError("the baselines need the recordings that the artifact was trained on, beside unseen ones")
    return tuple(median_errors(training, evaluation.stays, evaluation.config))


def rival_gains(report: Report) -> dict[str, dict[tuple[str, int], float]]:
    """Each baseline's change of the pooled error against persistence, per cent, by label, then signal and horizon."""
    gains: dict[str, dict[tuple[str, int], float]] = {}
    for label in dict.fromkeys(rival.label for rival in report.rivals):
        for found in report.scores:
            cell = found.signal, found.horizon_s
            own = [r for r in report.rivals if (r.label, r.signal, r.horizon_s) == (label, *cell)]
            if own and found.persistence_mae > 0.0:
                mae = sum(rival.mae * rival.count for rival in own) / sum(rival.count for rival in own)
                gains.setdefault(label, {})[cell] = 100.0 * (mae / found.persistence_mae - 1.0)
    return gains


def table_of(report: Report) -> Table:
    """Change of the error against persistence (per cent) and coverage of the 90 % band, per signal and horizon."""
    seen = ", on stays it was trained on" if report.seen else ""
    table = Table(title=f"{report.name} {report.version}: error against persistence, % (90 % coverage){seen}")
    horizons = sorted({found.horizon_s for found in report.scores})
    table.add_column("signal")
    for horizon_s in horizons:
        table.add_column(f"{horizon_s / 60:g} min", justify="right")
    by_cell = {(found.signal, found.horizon_s): found for found in report.scores}
    for signal in dict.fromkeys(found.signal for found in report.scores):
        cells = (by_cell.get((signal, horizon_s)) for horizon_s in horizons)
        table.add_row(signal, *(f"{c.gain:+.1f} ({c.coverage_90:.2f})" if c else "" for c in cells))
    return table


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return round(float(values.mean()), 4)
