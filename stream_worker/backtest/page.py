"""The backtest as one HTML page: what alerts cost and bring, and timelines on which a clinician can judge them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, select_autoescape
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from schemas.signals import VITALS_BY_NAME
from stream_worker.backtest.curve import TREES, Curve
from stream_worker.backtest.episodes import HYPOTENSION, Recording, episodes_of
from stream_worker.backtest.measures import Bin, Measures, Span, Warned, Warnings, announcements, warnings_of
from stream_worker.backtest.report import BacktestReport
from stream_worker.backtest.threats import Threats
from stream_worker.limits import SignalLimits
from stream_worker.times import MINUTE_US

TEMPLATE: Final = Path(__file__).with_name("page.html")
INK, FORECAST, QUIET = "#22303c", "#0b6e8f", "#c3ccd2"
PRIORITY_COLOURS: Final = {"high": "#b3303b", "medium": "#c9a227", "low": "#6f9bb3", "info": QUIET}
SHOWN: Final = ("abp_mean", "hr", "spo2", "resp")  # signals of a timeline
KINDS: Final = ("limit", "forecast_limit", "technical", "anomaly", "news2")
WINDOW_MIN: Final = 24 * 60  # shown of a timeline at first: the day with most episodes
FEWEST_EPISODES: Final = 3  # of a stay, to be judged by its early warnings
HALF_HOUR: Final = 30
GAP_MIN: Final = 11  # beyond two of the slowest usual readings (5 min), a band would invent what was not forecast


class Example(NamedTuple):
    """A stay that is shown, and why."""

    title: str
    recording: Recording
    warnings: Warnings


def write_page(
    page: Path,
    report: BacktestReport,
    recordings: Mapping[str, Recording],
    spans: Sequence[Span],
    threats: Mapping[str, Threats],
    horizons_s: Sequence[int],
    limits: Mapping[str, SignalLimits],
) -> None:
    """Write the report to `page`: one file that fetches nothing. The plots can be zoomed and moved."""
    group = report.groups[0]
    plots = [
        ("Alerts raised per patient-day", "", raised_plot(report.groups)),
        ("Episodes alerted", _FOUND_NOTE, found_plot(group)),
    ]
    if report.curve is not None:
        plots.append(("Early warning of low blood pressure", _CURVE_NOTE, curve_plot(report.curve)))
    plots.append(("Do probabilities come true?", _CALIBRATION_NOTE, calibration_plot(group)))
    plots.append(("Lead time", _LEAD_NOTE, lead_plot(group)))
    for example in examples(recordings, spans):
        own = [span for span in spans if span.stay_id == example.recording.stay_id]
        shown = timeline(example.recording, own, threats.get(example.recording.stay_id), horizons_s, limits)
        met = example.warnings
        note = (
            f"{example.recording.days:.1f} days. {met.strict:.0f} of {met.episodes:.0f} episodes of low pressure were "
            f"announced 5 to 60 min ahead; {met.followed:.0f} of {met.alerts:.0f} announcements came true. "
            f"{_TIMELINE_NOTE}"
        )
        plots.append((f"{example.title}: {example.recording.stay_id}", note, shown))
    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        kinds=KINDS,
        plots=[(title, note, figure.to_html(full_html=False, include_plotlyjs=False)) for title, note, figure in plots],
        plotly=get_plotlyjs(),
    )
    page.write_text(text, encoding="utf-8")


_FOUND_NOTE = (
    "An alert that was open when the episode began counts: what lasts is told once. Newly raised: not before the "
    "episode began."
)
_CURVE_NOTE = (
    "Recall: share of episodes (mean pressure below 65 mmHg for 5 min) with an alert raised 5 to 60 min before. "
    "Further up and to the left is better. Points: thresholds chosen on four fifths of the stays and judged on the "
    "fifth, in which most may be stays that the network itself was trained on; unseen stays: the others alone, as the "
    "trees were judged. Line: all stays at each threshold. Plain rules are tuned on all stays. Trees: boosted trees "
    "trained for this, judged on 10 stays of the Challenge 2009."
)
_CALIBRATION_NOTE = (
    "On the diagonal a probability is honest. Points grow with the number of alerts; tenths with fewer than ten are "
    "left out. The other episode types can be switched on in the legend."
)
_LEAD_NOTE = "From a forecast alert to the beginning of the excursion it announced."
_TIMELINE_NOTE = (
    "Shown at first: the day with most episodes; drag to move, use the buttons to zoom. Band: what was forecast 15 "
    "min before. Orange: the median forecast at each announcement. Below: episodes, and alerts while they were open."
)


def _figure(rows: int = 1, columns: int = 1, height: int = 380, **more: Any) -> go.Figure:
    figure = make_subplots(rows=rows, cols=columns, **more)
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        font={"color": INK, "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "y": -0.18},
    )
    return figure


def raised_plot(groups: Sequence[Measures]) -> go.Figure:
    """Stacked bars by kind, a colour for each priority, a panel for each group of stays."""
    figure = _figure(
        1, len(groups), subplot_titles=[f"{g.name}: {g.raised_per_day:.1f} in all" for g in groups], shared_yaxes=True
    )
    for column, group in enumerate(groups, 1):
        for priority, of_kind in group.by_priority.items():
            if of_kind:
                bar = go.Bar(
                    x=list(of_kind),
                    y=list(of_kind.values()),
                    name=priority,
                    legendgroup=priority,
                    showlegend=column == 1,
                    marker_color=PRIORITY_COLOURS[priority],
                )
                figure.add_trace(bar, 1, column)
    figure.update_layout(barmode="stack")
    figure.update_xaxes(categoryorder="array", categoryarray=KINDS)
    figure.update_yaxes(title_text="alerts a patient-day", col=1)
    return figure


def found_plot(group: Measures) -> go.Figure:
    """The share of each type's episodes whose alert was open or raised in time."""
    rows = [*group.found, *group.severe][::-1]
    figure = _figure(height=460)
    bar = go.Bar(
        x=[None if row.share is None else 100 * row.share for row in rows],
        y=[row.episode for row in rows],
        orientation="h",
        marker_color=[PRIORITY_COLOURS["high"] if row in group.severe else PRIORITY_COLOURS["medium"] for row in rows],
        text=[f"{row.alerted} of {row.episodes}, {row.newly} newly raised" for row in rows],
        textposition="inside",
        insidetextanchor="start",
    )
    figure.add_trace(bar)
    figure.add_vline(x=95, line_color=INK, line_dash="dot")
    title = "% whose limit alert was open or raised within 2 min of confirmation (red: of high priority within 60 s)"
    figure.update_xaxes(title_text=title, range=[0, 100])
    return figure


def curve_plot(curve: Curve) -> go.Figure:
    """Recall and precision against alerts a day: ours, plain rules, trees."""
    figure = _figure(1, 2, height=440, subplot_titles=["Recall", "Precision at that recall"])
    unseen = (point.unseen for point in curve.cross_validated if point.unseen is not None)
    series = (
        ("all thresholds", "lines", FORECAST, _prices(curve.swept.values())),
        ("forecast alerts", "markers", FORECAST, _prices(point.warned for point in curve.cross_validated)),
        ("forecast alerts, unseen stays", "markers", INK, _prices(unseen)),
        ("plain rules", "markers", "#c9a227", _prices(point.warned for point in curve.plain)),
        ("trees", "markers", "#6b7f3a", [(recall, alerts, precision) for recall, alerts, precision, _ in TREES]),
    )
    for name, mode, colour, points in series:
        recall, alerts, precision = zip(*points, strict=True) if points else ((), (), ())
        marker = {"color": colour, "size": 11}
        look = {
            "mode": mode,
            "name": name,
            "legendgroup": name,
            "marker": marker,
            "line": {"color": colour, "width": 1.5},
        }
        figure.add_trace(go.Scatter(x=alerts, y=recall, **look), 1, 1)
        figure.add_trace(go.Scatter(x=recall, y=precision, showlegend=False, **look), 1, 2)
    figure.update_xaxes(title_text="alerts a patient-day", range=[0, 12], col=1)
    figure.update_xaxes(title_text="strict recall", range=[0.2, 0.9], col=2)
    figure.update_yaxes(range=[0.2, 0.9], col=1)
    figure.update_yaxes(range=[0.2, 0.75], col=2)
    return figure


def _prices(rows: Iterable[Warned]) -> list[tuple[float, float, float]]:
    """Recall, alerts a day, precision."""
    return [(row.strict, row.alerts_per_day, row.precision) for row in rows]


def calibration_plot(group: Measures) -> go.Figure:
    """Said against came true, all forecast alerts together and by what they announce."""
    figure = _figure(height=440)
    figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": QUIET}, showlegend=False))
    for name, bins in {"all": group.calibration, **group.calibration_by_episode}.items():
        kept = [b for b in bins if b.alerts >= 10]
        if kept:
            figure.add_trace(_reliability(name, kept))
    figure.update_xaxes(title_text="probability said", range=[0, 1])
    figure.update_yaxes(title_text="share that came true", range=[0, 1])
    return figure


def _reliability(name: str, bins: Sequence[Bin]) -> go.Scatter:
    return go.Scatter(
        x=[(b.low + b.high) / 2 for b in bins],
        y=[b.true / b.alerts for b in bins],
        mode="lines+markers",
        name=name,
        marker={"size": [min(6 + b.alerts**0.5 / 1.5, 30) for b in bins]},
        line={"width": 3 if name == "all" else 1},
        text=[f"{b.true} of {b.alerts}" for b in bins],
        visible=True if name in ("all", str(HYPOTENSION)) else "legendonly",
    )


def lead_plot(group: Measures) -> go.Figure:
    """How far ahead the forecast alerts were that their limit's alert superseded."""
    figure = _figure(height=300)
    figure.add_trace(
        go.Histogram(x=group.lead_times_min, xbins={"start": 0, "end": 90, "size": 5}, marker_color=FORECAST)
    )
    figure.update_xaxes(title_text="min")
    figure.update_yaxes(title_text="alerts")
    return figure


# --- timelines ---


def examples(recordings: Mapping[str, Recording], spans: Sequence[Span]) -> Iterator[Example]:
    """The best, the middle and the worst stay by early warning, each stay once.

    By the harmonic mean of recall and precision.
    """
    found: list[tuple[float, str, Warnings]] = []
    for stay_id, recording in recordings.items():
        met = warnings_of(recording, announcements(span for span in spans if span.stay_id == stay_id))
        if met.episodes >= FEWEST_EPISODES:
            recall, precision = met.strict / met.episodes, met.followed / max(met.alerts, 1)
            found.append((2 * recall * precision / max(recall + precision, 1e-9), stay_id, met))
    found.sort(reverse=True)
    last = len(found) - 1
    titles = {last: "Worst stay", round(last / 2): "Typical stay", 0: "Best stay"}
    for place, (_, stay_id, met) in enumerate(found):
        if place in titles:
            yield Example(titles[place], recordings[stay_id], met)


def timeline(
    recording: Recording,
    spans: Sequence[Span],
    threats: Threats | None,
    horizons_s: Sequence[int],
    limits: Mapping[str, SignalLimits],
) -> go.Figure:
    """Values and their limits, the forecast of the mean pressure, and bars for episodes and alerts.

    Hours from the recording's start.
    """
    shown = [name for name in SHOWN if not np.isnan(recording.values[name]).all()]
    rows = len(shown) + 1
    heights = [*([1.0] * len(shown)), 1.3]
    figure = _figure(rows, 1, 200 * rows, shared_xaxes=True, vertical_spacing=0.02, row_heights=heights)
    for row, name in enumerate(shown, 1):
        if name == HYPOTENSION.signal and threats is not None:
            for trace in (*_band(recording, threats, horizons_s), _fans(recording, spans, threats, horizons_s)):
                figure.add_trace(trace, row, 1)
        signal = VITALS_BY_NAME[name]
        values, line = recording.values[name].astype(np.float32), {"color": INK, "width": 1}
        figure.add_trace(go.Scatter(x0=0, dx=1 / 60, y=values, line=line, name=name, showlegend=False), row, 1)
        low, high = np.nanpercentile(values, (0.5, 99.5)).tolist()  # artefacts would flatten all else
        margin = 0.25 * max(high - low, 8)
        figure.update_yaxes(title_text=f"{name}, {signal.written_unit}", range=[low - margin, high + margin], row=row)
        its_limits = limits.get(name, SignalLimits())
        for limit in (its_limits.low, its_limits.high):
            if limit is not None:
                figure.add_hline(y=limit, line={"color": "#b3303b", "dash": "dot", "width": 1}, row=row, col=1)
    for trace in _bars(recording, spans):
        figure.add_trace(trace, rows, 1)
    begin = _busiest(recording)
    figure.update_xaxes(range=[begin / 60, (begin + WINDOW_MIN) / 60])
    figure.update_xaxes(title_text="hours", row=rows)
    figure.update_yaxes(automargin=True, row=rows)
    figure.update_layout(hovermode="x", legend_y=-0.07)
    return figure


def _busiest(recording: Recording) -> int:
    begins = np.array([e.start for e in episodes_of(recording)])
    if not len(begins):
        return 0
    counts = [int(((begins >= begin) & (begins < begin + WINDOW_MIN)).sum()) for begin in begins]
    return max(int(begins[int(np.argmax(counts))]) - HALF_HOUR, 0)


def _band(recording: Recording, threats: Threats, horizons_s: Sequence[int]) -> Iterator[go.Scatter]:
    """What was forecast for each time a quarter of an hour before: ribbons of 90 % and 50 %, none over a long gap."""
    h = int(np.argmin(np.abs(np.array(horizons_s) - 900)))
    hours = (threats.at_us / MINUTE_US - recording.start + horizons_s[h] / 60) / 60
    parts = np.split(np.arange(len(hours)), np.flatnonzero(np.diff(hours) > GAP_MIN / 60) + 1)
    levels = threats.quantiles.shape[2]
    for inner in range(levels // 2):
        low, high = threats.quantiles[:, h, inner], threats.quantiles[:, h, levels - 1 - inner]
        yield go.Scatter(
            x=np.concatenate(
                [np.r_[hours[part], hours[part[::-1]], hours[part[0]]] for part in parts], dtype=np.float32
            ),
            y=np.concatenate([np.r_[high[part], low[part[::-1]], np.nan] for part in parts], dtype=np.float32),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor="rgba(11,110,143,0.16)",
            hoverinfo="skip",
            showlegend=False,
        )


def _fans(recording: Recording, spans: Sequence[Span], threats: Threats, horizons_s: Sequence[int]) -> go.Scatter:
    """The median forecast at each announcement, from there to the longest horizon."""
    minutes = threats.at_us / MINUTE_US - recording.start
    x: list[float | None] = []
    y: list[float | None] = []
    for span in spans:
        if span.is_announcement:
            at = int(np.searchsorted(minutes, span.raised - 1e-6))  # the same time, divided another way
            x += [span.raised / 60, *((span.raised + horizon_s / 60) / 60 for horizon_s in horizons_s), None]
            y += [float(threats.values[at]), *threats.quantiles[at, :, threats.quantiles.shape[2] // 2].tolist(), None]
    return go.Scatter(x=x, y=y, mode="lines", line={"color": "#d3541b", "width": 2}, name="announced", showlegend=False)


def _bars(recording: Recording, spans: Sequence[Span]) -> Iterator[go.Scatter]:
    """A bar for each episode of low pressure, and one for each alert, by what it is about and how pressing it was."""
    yield _bar([(str(HYPOTENSION), *episode) for episode in episodes_of(recording)], INK, "episode")
    for priority, colour in PRIORITY_COLOURS.items():
        own = [s for s in spans if s.priority == priority]
        if own:
            yield _bar([(s.about, s.raised, min(s.cleared, recording.minutes)) for s in own], colour, priority)


def _bar(bars: Sequence[tuple[str, float, float]], colour: str, name: str) -> go.Scatter:
    x: list[float | None] = []
    y: list[str | None] = []
    for about, begin, end in bars:
        x += [begin / 60, max(end, begin + 1) / 60, None]
        y += [about, about, None]
    return go.Scatter(x=x, y=y, mode="lines", line={"color": colour, "width": 9}, name=name)
