"""`python -m stream_worker.backtest.coverage DIR`: do the published bands cover what they say, learning and without?

Recordings go through the worker's pipeline twice: bands as the model gives them, and bands that learn from their own
errors (`calibration`). What a forecast is held against is what the worker itself accepted later.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from model.arrays import Floats, Floats32
from model.manifest import Manifest, read_manifest
from schemas.forecast import Forecast
from schemas.recordings import find_recordings, stay_id_of
from stream_worker.backtest.feed import new_pipeline, results_of
from stream_worker.replay import with_values
from stream_worker.settings import Settings

BandKind = Literal["none", "adaptive"]

KINDS: Final[dict[BandKind, str]] = {"none": "as the model gives them", "adaptive": "learning from their errors"}
_decode = msgspec.json.Decoder(Forecast).decode


class Course(NamedTuple):
    """A stay's published forecasts, one a step: V signals, H horizons, Q levels."""

    steps: NDArray[np.int64]  # (T,) rising
    observed: Floats32  # (T, V) the step's newest reading (its value, of one reading a step), NaN where none came
    quantiles: Floats32  # (T, V, H, Q) NaN where nothing was forecast
    counts: NDArray[np.bool_]  # (T,) whether the forecast's status was ok


class Quality(NamedTuple):
    """How good the bands of some stays are: by cell (signal, horizon) and band (pair of quantiles, from outside in)."""

    coverage: Floats  # (V, H, Q // 2) pooled over all forecasts
    by_stay: Floats  # (stays, V, H, Q // 2)
    width: Floats  # (V, H, Q // 2) mean, in the signal's unit
    pinball: Floats  # (V, H) mean over the levels


def courses_of(forecasts: Iterable[bytes], manifest: Manifest) -> dict[str, Course]:
    """The forecasts of each stay, the last of each step."""
    rows: dict[str, dict[int, Course]] = defaultdict(dict)
    for value in forecasts:
        forecast = _decode(value)
        row = _row(forecast, manifest)
        rows[forecast.stay_id][int(row.steps[0])] = row
    return {stay_id: _joined([row for _, row in sorted(of_stay.items())]) for stay_id, of_stay in rows.items()}


def _joined(rows: Sequence[Course]) -> Course:
    return Course(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _row(forecast: Forecast, manifest: Manifest) -> Course:
    """A course of one step."""
    step = int(forecast.issued_at.timestamp()) // manifest.step_s
    shape = 1, len(manifest.signals), len(manifest.horizons_s), len(manifest.quantile_levels)
    observed, quantiles = np.full(shape[:2], np.nan, np.float32), np.full(shape, np.nan, np.float32)
    for v, name in enumerate(manifest.signals):
        signal = forecast.signals.get(name)
        if signal is None:
            continue
        quantiles[0, v] = signal.quantiles
        if int(signal.last_at.timestamp()) // manifest.step_s == step:
            observed[0, v] = signal.last
    return Course(np.array([step]), observed, quantiles, np.array([forecast.status == "ok"]))


def truth_of(course: Course, manifest: Manifest) -> Floats32:
    """What came to each forecast of a signal that was observed when it was made, (T, V, H); NaN where nothing came."""
    truth = np.full(course.quantiles.shape[:3], np.nan, np.float32)
    for h, horizon_s in enumerate(manifest.horizons_s):
        due = course.steps + horizon_s // manifest.step_s
        at = np.minimum(np.searchsorted(course.steps, due), len(course.steps) - 1)
        came = (course.steps[at] == due) & course.counts
        truth[came, :, h] = np.where(np.isnan(course.observed[came]), np.nan, course.observed[at[came]])
    return truth


def measure(courses: Sequence[Course], manifest: Manifest) -> Quality:
    """The quality of the bands of `courses`."""
    levels = np.array(manifest.quantile_levels)
    pairs = len(levels) // 2
    hits, widths, losses, numbers = [], [], [], []
    for course in courses:
        truth = truth_of(course, manifest)[..., None]
        lower, upper = course.quantiles[..., :pairs], course.quantiles[..., :pairs:-1]
        is_known = ~np.isnan(truth)
        numbers.append(is_known[..., 0].sum(axis=0))
        hits.append(((lower <= truth) & (truth <= upper)).sum(axis=0))
        widths.append(np.where(is_known, upper - lower, 0.0).sum(axis=0))
        error = truth - course.quantiles
        losses.append(np.nansum(np.maximum(levels * error, (levels - 1) * error), axis=0).mean(axis=-1))
    number = np.array(numbers)[..., None].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return Quality(
            coverage=np.sum(hits, axis=0) / number.sum(axis=0),
            by_stay=np.array(hits) / number,
            width=np.sum(widths, axis=0) / number.sum(axis=0),
            pinball=np.sum(losses, axis=0) / number.sum(axis=0)[..., 0],
        )


def worst_tenth(quality: Quality, nominal: float, pair: int) -> float:
    """How far the band is from covering its `nominal` share in the tenth of the stays where it is furthest from it."""
    off = np.abs(quality.by_stay[..., pair] - nominal)
    cells = [np.sort(cell[~np.isnan(cell)])[::-1] for cell in off.reshape(len(off), -1).T]
    return float(np.mean([cell[: max(1, len(cell) // 10)].mean() for cell in cells if len(cell)]))


def compare(recordings: Sequence[Path], settings: Settings, manifest: Manifest) -> dict[BandKind, Quality]:
    """The quality of the bands of each kind on `recordings`."""
    found: dict[BandKind, Quality] = {}
    for kind in KINDS:
        pipeline = new_pipeline(settings.model_copy(update={"calibration": kind}))
        published = (value for result in results_of(pipeline, recordings) for _, value in result.forecasts)
        courses = courses_of(published, manifest)
        found[kind] = measure([courses[stay_id] for stay_id in sorted(courses)], manifest)
    return found


def show(found: dict[BandKind, Quality], manifest: Manifest, console: Console) -> None:
    """Print a table, a row for each band and kind."""
    table = Table("band", "bands", "covers, lowest and highest cell", "off, mean", "off, worst tenth of stays", "width")
    levels = manifest.quantile_levels
    plain = found["none"]
    for pair in range(len(levels) // 2):
        nominal = levels[-1 - pair] - levels[pair]
        for kind, quality in found.items():
            cells = quality.coverage[..., pair]
            table.add_row(
                f"{nominal:.0%}",
                KINDS[kind],
                f"{np.nanmin(cells):.3f} to {np.nanmax(cells):.3f}",
                f"{np.nanmean(np.abs(cells - nominal)):.3f}",
                f"{worst_tenth(quality, nominal, pair):.3f}",
                f"{np.nanmean(quality.width[..., pair] / plain.width[..., pair]) - 1:+.1%}",
            )
    console.print(table)
    change = np.nanmean(found["adaptive"].pinball / plain.pinball) - 1
    console.print(f"Pinball loss by learning: {change:+.2%} in the mean of the cells.")


def main() -> None:
    """Run the comparison on recordings that the model was not trained on, or on all."""
    parser = argparse.ArgumentParser(description="coverage of the published bands, with and without learning")
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--all", action="store_true", help="also the recordings that the model was trained on")
    arguments = parser.parse_args()
    settings = Settings()
    manifest = read_manifest(settings.model)
    console = Console()
    recordings = [
        path
        for path in with_values(find_recordings(*arguments.recordings))
        if arguments.all or stay_id_of(path) not in manifest.training.stays
    ]
    console.print(f"{len(recordings)} recordings through the pipeline, twice.")
    show(compare(recordings, settings, manifest), manifest, console)


if __name__ == "__main__":
    main()
