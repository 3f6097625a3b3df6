"""`vitalcast backtest`: recordings through the worker's pipeline, and what its alerts are worth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.manifest import read_manifest, write_json
from schemas.recordings import find_recordings, read_rows, stay_id_of
from stream_worker.backtest.curve import FEWEST_STAYS, Curve, curve_of
from stream_worker.backtest.episodes import HYPOTENSION, recording_of
from stream_worker.backtest.feed import run_all
from stream_worker.backtest.measures import Bin, EpisodesFound, Measures, Warned, spans_of
from stream_worker.backtest.page import write_page
from stream_worker.backtest.report import report_of, unseen_of
from stream_worker.limits import limits_of
from stream_worker.replay import with_values
from stream_worker.settings import Settings

REPORT_FILE = "backtest.json"
PAGE_FILE = "backtest.html"


def run_backtest(settings: Settings, paths: Sequence[Path], out: Path, console: Console, *, with_curve: bool) -> None:
    """Backtest the default pipeline of `settings`, print the tables and write the report to the folder `out`.

    Raises: RecordingError, ArtifactError.
    """
    found = with_values(find_recordings(*paths))
    read = (recording_of(stay_id_of(path), read_rows(path)) for path in found)  # inside the bar, which ends with it
    shown = track(read, "Reading recordings", total=len(found), console=console)
    recordings = {recording.stay_id: recording for recording in shown}
    manifest = read_manifest(settings.model)
    run = run_all(settings, found, console)
    spans = spans_of(run.alerts, recordings)
    limits = limits_of(settings.limits, None, {})
    curve = None
    if with_curve:
        bar = partial(track, description="Thresholds", console=console)
        curve = curve_of(recordings, run.threats, limits[HYPOTENSION.signal], unseen_of(recordings, manifest), bar)
        if curve is None:
            console.print(
                f"No other thresholds: they need {FEWEST_STAYS} stays whose {HYPOTENSION.signal} is forecast, "
                f"here are {len(run.threats)}."
            )
    report = report_of(manifest, recordings, spans, curve)
    for group in report.groups:
        show(group, console)
    if curve is not None:
        console.print(_curve(curve))
        console.print(_calibration(curve.calibration, "Probabilities of low pressure fitted on the other stays"))
    out.mkdir(parents=True, exist_ok=True)
    path = out / REPORT_FILE
    write_json(path, report)
    page = out / PAGE_FILE
    write_page(page, report, recordings, spans, run.threats, manifest.horizons_s, limits)
    console.print(f"Report: {page} (figures: {path})", soft_wrap=True)


def show(group: Measures, console: Console) -> None:
    """Print one group's tables."""
    console.rule(f"{group.name}: {group.stays}")
    console.print(f"{group.days:.1f} patient-days: {group.raised_per_day:.1f} alerts raised a day.")
    if group.raised_per_monitored_day is not None:
        each = f"{group.raised_per_monitored_day:.1f} alerts raised a monitored day"
        console.print(f"{group.monitored_days:.1f} of them with any plausible value: {each}.")
    came_true = _calibration(group.calibration, "Forecast alerts that came true within their horizon")
    for table in (_alerts(group), _found(group), _warned(group), came_true):
        console.print(table)


def _table(title: str, about: str, *numbers: str) -> Table:
    """What each row is about, and its numbers."""
    table = Table(about, title=title, title_justify="left")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _alerts(group: Measures) -> Table:
    table = _table("Alerts raised per patient-day", "alerts raised", "a day")
    for name, number in group.by_kind.items():
        table.add_row(name, f"{number:.2f}", style="bold")
    for name, number in group.by_about.items():
        if number >= 0.1:
            table.add_row(f"  {name}", f"{number:.2f}")
    return table


def _found(group: Measures) -> Table:
    title = "Episodes whose limit alert was open or raised in time, or newly raised"
    table = _table(title, "episode", "stays", "episodes", "in time", "share", "newly")
    for heading, rows in (
        ("within 2 min of confirmation", group.found),
        ("of high priority within 60 s", group.severe),
    ):
        table.add_row(heading, "", *_found_cells(rows), style="bold")
        for row in rows:
            table.add_row(f"  {row.episode}", str(row.stays), *_found_cells([row]))
    return table


def _found_cells(rows: Sequence[EpisodesFound]) -> tuple[str, ...]:
    episodes, alerted = sum(row.episodes for row in rows), sum(row.alerted for row in rows)
    share = f"{alerted / episodes:.3f}" if episodes else "-"
    return str(episodes), str(alerted), share, str(sum(row.newly for row in rows))


def _warned(group: Measures) -> Table:
    title = "Early warning of mean pressure < 65 mmHg for 5 min; recall, strict and loose"
    table = _table(title, "alerts by", "strict", "loose", "a day", "precision", "open")
    for row in group.warned:
        cells = (row.strict, row.loose, row.alerts_per_day, row.precision, row.open)
        style = "bold" if row is group.warned[0] else ""
        table.add_row(row.by, *(f"{cell:.3f}" for cell in cells), style=style)
    return table


def _curve(curve: Curve) -> Table:
    title = (
        "Early warning at other thresholds, chosen on four fifths of the stays and judged on the fifth; "
        "unseen: on those of them that the model was not trained on"
    )
    names = ("recall", "a day", "precision", "open")
    table = _table(title, "alerts by", "at least", *names, *(f"unseen: {name}" for name in names))
    ours = [(point, "forecast_limit") for point in curve.cross_validated]
    if curve.rested is not None:
        ours.append((curve.rested, "the same, rests chosen too"))
    for point, by in [*ours, *((point, point.warned.by) for point in curve.plain)]:
        cells = (*_warned_cells(point.warned), *(_warned_cells(point.unseen) if point.unseen else ()))
        table.add_row(by, f"{point.recall:g}", *cells, style="bold" if (point, by) in ours else "")
    return table


def _warned_cells(row: Warned) -> tuple[str, ...]:
    return f"{row.strict:.3f}", f"{row.alerts_per_day:.2f}", f"{row.precision:.3f}", f"{row.open:.3f}"


def _calibration(bins: Sequence[Bin], title: str) -> Table:
    table = _table(title, "probability", "alerts", "came true", "share")
    for row in bins:
        share = row.true / row.alerts
        table.add_row(f"{row.low:.1f} to {row.high:.1f}", str(row.alerts), str(row.true), f"{share:.2f}")
    return table
