"""The evaluation as one HTML page: skill beside the baselines, reliability, forecasts one can look at, each stay."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, select_autoescape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.config import ForecasterConfig
from model.dataset import Stay, scored_origins, truth
from model.manifest import Score
from model.scores import Evaluation, Report, beside_trees, rival_gains

TEMPLATE = Path(__file__).parent / "report.html"
HISTORY = 120  # steps shown before a forecast
GRID = 10  # steps between the origins among which examples are chosen
INK, MODEL, LAST = "#22303c", "#0b6e8f", "#9aa5ad"
RIVAL_COLOURS = ("#c9a227", "#b3563b", "#6b7f3a", "#7a5c99")

RELIABILITY_NOTE = (
    "How often the truth was below each quantile; ties count half. On the diagonal a forecast is honest. "
    "A signal that often rests at the end of its range, as saturation at 100 %, ties with its upper quantiles."
)
FORECASTS_NOTE = (
    "Of each signal a forecast that did much better than persistence, a typical and a much worse one: chosen "
    "by rank, not by hand. Bands of 50 % and 90 %; what came is paler."
)


def write_page(page: Path, report: Report, evaluation: Evaluation) -> None:
    """Write the report to `page`: one file, plots inside, nothing fetched from elsewhere."""
    mpl.use("Agg")
    config = evaluation.config
    examples = {signal.name: chosen_examples(evaluation, signal.name) for signal in config.forecast_signals}
    fans = [signal for signal in config.forecast_signals if examples[signal.name]]
    plots = [
        ("Error against persistence", "", skill_plot(report, config)),
        (
            "Reliability",
            RELIABILITY_NOTE,
            reliability_plot(evaluation),
        ),
        *(
            (
                f"Forecasts: {signal.title}",
                FORECASTS_NOTE if i == 0 else "",
                fan_plot(config, signal.name, examples[signal.name]),
            )
            for i, signal in enumerate(fans)
        ),
    ]
    environment = Environment(autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page.parent.mkdir(parents=True, exist_ok=True)
    text = template.render(
        report=report,
        summary=summary_of(report) if report.scores else None,
        plots=[(title, note, embedded(figure)) for title, note, figure in plots],
        stays=[(stay_id, stay_summary(scores)) for stay_id, scores in sorted(report.stays.items()) if scores],
        rivals=rival_gains(report),
        beside_trees=beside_trees(report),
        horizons=config.horizons_s,
        decimals={signal.name: signal.decimals for signal in config.forecast_signals},
        sparse=[(name, means_of_signals(scores, config)) for name, scores in report.sparse.items() if scores],
    )
    page.write_text(text, encoding="utf-8")


def summary_of(report: Report) -> dict[str, float]:
    """The page in a few numbers: cells and stays better than persistence, mean and worst changes, worst coverage."""
    gains = [found.gain for found in report.scores]
    stays = [stay_summary(scores) for scores in report.stays.values() if scores]
    coverages = [found.coverage_90 for found in report.scores]
    return {
        "cells": len(gains),
        "better": sum(gain < 0 for gain in gains),
        "gain": float(np.mean(gains)),
        "stays": len(stays),
        "stays_better": sum(stay["gain"] < 0 for stay in stays),
        "stay_gain": float(np.mean([stay["gain"] for stay in stays])),
        "worst_stay_gain": max(stay["gain"] for stay in stays),
        "least_coverage": min(coverages),
        "most_coverage": max(coverages),
        "least_stay_coverage": min(stay["coverage_90"] for stay in stays),
    }


def means_of_signals(scores: tuple[Score, ...], config: ForecasterConfig) -> dict[str, object]:
    """Change against persistence at each horizon (None: nothing was scored), and coverages over all cells, each the
    mean of the signals."""
    gains = ([found.gain for found in scores if found.horizon_s == horizon_s] for horizon_s in config.horizons_s)
    return {
        "gains": [float(np.mean(of_horizon)) if of_horizon else None for of_horizon in gains],
        "coverage_50": float(np.mean([found.coverage_50 for found in scores])),
        "coverage_90": float(np.mean([found.coverage_90 for found in scores])),
    }


def embedded(figure: Figure) -> str:
    """The figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def stay_summary(scores: tuple[Score, ...]) -> dict[str, float]:
    """One stay in four numbers: origins, mean change against persistence, coverages."""
    return {
        "origins": max(found.count for found in scores),
        "gain": float(np.mean([found.gain for found in scores])),
        "coverage_50": float(np.mean([found.coverage_50 for found in scores])),
        "coverage_90": float(np.mean([found.coverage_90 for found in scores])),
    }


def skill_plot(report: Report, config: ForecasterConfig) -> Figure:
    """Bars per horizon, a panel per signal: how much smaller the error is than persistence's."""
    figure, axes = panels(len(config.signals))
    rivals = rival_gains(report)
    width = 0.8 / (1 + len(rivals))
    for axis, signal in zip(axes, config.forecast_signals, strict=True):
        found = [score for score in report.scores if score.signal == signal.name]
        at = np.arange(len(found))
        axis.bar(at, [-score.gain for score in found], width, color=MODEL, label=report.name)
        for i, (label, gains) in enumerate(rivals.items()):
            heights = [-gains.get((signal.name, score.horizon_s), np.nan) for score in found]
            axis.bar(at + width * (i + 1), heights, width, color=RIVAL_COLOURS[i % len(RIVAL_COLOURS)], label=label)
        axis.axhline(0, color=INK, lw=0.8)
        axis.set_title(signal.title)
        axis.set_xticks(at + width * len(rivals) / 2, [f"{score.horizon_s / 60:g} min" for score in found])
        axis.set_ylabel("error below persistence, %")
    lows, highs = zip(*(axis.get_ylim() for axis in axes), strict=True)
    for axis in axes:
        axis.set_ylim(min(lows), max(highs))  # one scale, so that the panels compare
    if rivals:
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, frameon=False, ncols=len(names), loc="outside lower center")
    return figure


def reliability_plot(evaluation: Evaluation) -> Figure:
    """Share of truths at or below each quantile, a panel per signal, a line per horizon; the diagonal is honest."""
    config = evaluation.config
    figure, axes = panels(len(config.signals))
    for axis, signal in zip(axes, config.forecast_signals, strict=True):
        axis.plot([0, 1], [0, 1], color=LAST, lw=1)
        for i, horizon_s in enumerate(config.horizons_s):
            cell = evaluation.cell(signal.name, horizon_s)
            if not len(cell.y):
                continue
            # Values come in steps of the precision, so "at" counts half: ties would look like bias otherwise.
            near = np.abs(cell.y[:, None] - cell.quantiles) <= signal.precision / 2
            below = (cell.y[:, None] < cell.quantiles) & ~near
            shade = 0.25 + 0.75 * i / max(len(config.horizons_s) - 1, 1)
            label = f"{horizon_s / 60:g} min"
            axis.plot(
                config.quantile_levels, (below + near / 2).mean(0), "o-", color=MODEL, alpha=shade, ms=4, label=label
            )
        axis.set_title(signal.title)
        axis.set_xlabel("quantile level")
        axis.set_ylabel("share of truths below")
    axes[0].legend(frameon=False)
    return figure


Example = tuple[Stay, NDArray[np.float32], int]


def fan_plot(config: ForecasterConfig, signal: str, examples: list[tuple[str, Example]]) -> Figure:
    """Forecasts with what came after, a panel for each."""
    figure, axes = panels(len(examples))
    for axis, (title, (stay, forecast, t)) in zip(axes, examples, strict=True):
        draw_fan(axis, config, signal, stay, forecast[t], t)
        axis.set_title(title)
    return figure


def chosen_examples(evaluation: Evaluation, signal: str) -> list[tuple[str, Example]]:
    """Origins at fixed ranks of (error - persistence's error), both over all horizons: nobody picks them by hand.

    None where no origin has all of its truths.
    """
    config = evaluation.config
    v, column, middle = config.signals.index(signal), config.input_index(signal), len(config.quantile_levels) // 2
    found: list[tuple[float, Example]] = []
    for stay, forecast in zip(evaluation.stays, evaluation.forecasts, strict=True):
        later = truth(stay, config)[:, v]
        error = np.abs(forecast[:, v, :, middle] - later).mean(1) - np.abs(stay.x[:, [column]] - later).mean(1)
        kept = scored_origins(stay, config)[:, v] & ~np.isnan(error)
        found += [(float(error[t]), (stay, forecast, int(t))) for t in np.flatnonzero(kept)[::GRID]]
    if not found:
        return []
    found.sort(key=lambda pair: pair[0])
    ranks = (("better than 99 of 100", 0.01), ("typical", 0.5), ("worse than 99 of 100", 0.99))
    return [(title, found[int(share * (len(found) - 1))][1]) for title, share in ranks]


def draw_fan(
    axis: Axes, config: ForecasterConfig, signal: str, stay: Stay, quantiles: NDArray[np.float32], t: int
) -> None:
    """The last hours, the forecast's bands, and what came."""
    v, column = config.signals.index(signal), config.input_index(signal)
    start, stop = max(t - HISTORY, 0), min(t + max(config.horizon_steps) + 1, stay.length)
    minutes = (np.arange(start, stop) - t) * config.step_s / 60.0
    values = np.where(stay.observed[start:stop, column], stay.x[start:stop, column], np.nan)
    past = minutes <= 0
    axis.plot(minutes[past], values[past], color=INK, lw=1)
    axis.plot(minutes[~past], values[~past], color=INK, lw=1, alpha=0.45)
    ahead = np.array([0.0, *(horizon_s / 60.0 for horizon_s in config.horizons_s)])
    fan = np.vstack([np.full(quantiles.shape[-1], stay.x[t, column]), quantiles[v]])
    for i in range(fan.shape[1] // 2):
        axis.fill_between(ahead, fan[:, i], fan[:, -1 - i], color=MODEL, alpha=0.18, lw=0)
    axis.plot(ahead, fan[:, fan.shape[1] // 2], color=MODEL, lw=1.6)
    axis.axvline(0, color=LAST, lw=0.8)
    axis.set_xlabel("min from the forecast")
    axis.set_ylabel(f"{signal}, {config.inputs[column].written_unit}")


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, three in a row."""
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes
