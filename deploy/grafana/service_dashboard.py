"""Writes the service dashboard: `python deploy/grafana/service_dashboard.py`. A test keeps file and script equal.

The top row answers three questions: is it up, is it late, is it wrong? The rows below say where to look.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parent / "dashboards" / "service.json"
COLUMNS: Final = 24  # of Grafana's grid
RATE: Final = "[$__rate_interval]"
# Forecasts come due in bursts, all stays at once every few minutes: whether they are good takes hours to tell.
SHOWN: Final = "[$__range]"
LONG: Final = "[6h]"
# Short horizons follow the last value, long ones the average; between them a forecast can be of use.
HORIZON: Final = 'horizon_s="$horizon_s"'


Steps = tuple[tuple[float | None, str], ...]  # thresholds: from which value which colour


@dataclass(frozen=True)
class Panel:
    """One panel: what it shows, in which unit, and what a reader should make of it."""

    title: str
    unit: str
    queries: dict[str, str]  # legend -> PromQL
    description: str
    type: str = "timeseries"
    height: int = 8
    steps: Steps = ()
    defaults: dict[str, Any] = field(default_factory=dict)


def ratio(part: str, whole: str, by: str = "", window: str = RATE) -> str:
    """The ratio of two counters' rates: no data, rather than a division by zero, while nothing moves."""
    grouping = f"sum by ({by})" if by else "sum"
    return f"{grouping} (rate({part}{window})) / ({grouping} (rate({whole}{window})) > 0)"


def quantile(q: float, histogram: str) -> str:
    """A quantile of a histogram over all workers."""
    return f"histogram_quantile({q}, sum by (le) (rate({histogram}_bucket{RATE})))"


def skill(by: str, where: str, window: str) -> str:
    """1 - the model's absolute error / that of "stays as it is": above 0 the model is of use."""
    live = f'vitalcast_forecast_absolute_error_total{{role="live", {where}}}'
    naive = f"vitalcast_persistence_absolute_error_total{{{where}}}"
    return f"1 - {ratio(live, naive, by, window)}"


def coverage(by: str, where: str, window: str) -> str:
    """The share of values that fell into their band."""
    scored = 'vitalcast_forecast_scored_total{role="live", %s}'
    covered = f'covered="true", {where}'
    return ratio(scored % covered, scored % where, by, window)


def number(title: str, unit: str, query: str, description: str, steps: Steps) -> Panel:
    """A panel of the top row: one number, in the colour of the highest of `steps` that it reaches."""
    return Panel(title, unit, {title: query}, description, type="stat", height=4, steps=steps)


def rates(title: str, counter: str, by: str, description: str, where: str = "") -> Panel:
    """How often a second a counter goes up, over all workers: a line for each value of the label `by`."""
    query = f"sum by ({by}) (rate({counter}{{{where}}}{RATE}))"
    return Panel(title, "eps", {f"{{{{{by}}}}}": query}, description)


GOOD_ABOVE_ZERO: Final = ((None, "red"), (0.0, "green"))
ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Is it up? Is it late? Is it wrong?": (
        number(
            "Workers ready",
            "none",
            "sum(vitalcast_ready) or vector(0)",
            "Workers that have their state and are in no rebalance, spare ones included. 0: no forecasts are made.",
            ((None, "red"), (1, "green")),
        ),
        number(
            "Readings not yet read",
            "short",
            "sum(vitalcast_consumer_lag_records)",
            "Records waiting in Kafka. It may jump while recordings are replayed; on a ward it stays near 0.",
            ((None, "green"), (1_000, "orange"), (10_000, "red")),
        ),
        number(
            "Reading to forecast, 99th percentile",
            "s",
            quantile(0.99, "vitalcast_end_to_end_seconds"),
            "From a reading's arrival in Kafka until its forecast is committed; 99 of 100 are faster than this.",
            ((None, "green"), (1, "orange"), (5, "red")),
        ),
        number(
            "Records without a forecast",
            "percentunit",
            ratio("vitalcast_dead_letters_total", "vitalcast_readings_total"),
            "Share of records that became dead letters. A sudden rise means that a sender changed, not the patients.",
            ((None, "green"), (0.01, "orange"), (0.1, "red")),
        ),
        number(
            "Skill at the chosen horizon",
            "percentunit",
            skill("", HORIZON, SHOWN),
            'How much smaller the error is than that of "stays as it is", over the time shown (an hour tells little). '
            "Below 0: ignore the forecasts.",
            GOOD_ABOVE_ZERO,
        ),
        number(
            "Values inside the 90 % band",
            "percentunit",
            coverage("", 'band="90"', SHOWN),
            "Honest bands hold 90 of 100 values, over the time shown (an hour tells little). Below 85 %: the forecasts "
            "claim to know more than they do.",
            ((None, "red"), (0.85, "green"), (0.96, "orange")),
        ),
    ),
    "Readings": (
        rates("Records by outcome", "vitalcast_readings_total", "outcome", "Each record has exactly one outcome."),
        rates(
            "Dead letters by reason",
            "vitalcast_dead_letters_total",
            "reason",
            "Why records got no forecast: what a sender has to fix.",
        ),
        rates(
            "Values ignored by reason",
            "vitalcast_values_ignored_total",
            "reason",
            "Single values left out of readings that were otherwise used.",
        ),
    ),
    "Latency": (
        Panel(
            "Reading to forecast",
            "s",
            {f"{q:.0%}": quantile(q, "vitalcast_end_to_end_seconds") for q in (0.5, 0.95, 0.99)},
            "From the Kafka timestamp of a reading to the commit of its forecast.",
        ),
        Panel(
            "Records not yet read, by partition",
            "short",
            {"{{partition}}": "sum by (partition) (vitalcast_consumer_lag_records)"},
            "If one partition alone is behind, one stay sends too much or one worker is slow.",
        ),
        Panel(
            "Age of the newest reading",
            "s",
            {"{{instance}}": "min by (instance) (vitalcast_event_lag_seconds)"},
            "Now minus when it was observed. If it grows while readings come, what feeds Kafka is behind.",
        ),
        Panel(
            "Model run",
            "s",
            {f"{q:.0%}": quantile(q, "vitalcast_inference_seconds") for q in (0.5, 0.99)},
            "One run of the model, for all readings of a chunk at once.",
        ),
    ),
    "Forecasts: do they deserve trust?": (
        Panel(
            "Skill by signal at the chosen horizon",
            "percentunit",
            {"{{signal}}": skill("signal", HORIZON, LONG)},
            '1 - error / error of "stays as it is", over the six hours before. Above 0: of use.',
            steps=GOOD_ABOVE_ZERO,
        ),
        Panel(
            "Values inside their band",
            "percentunit",
            {
                "90 % band, {{horizon_s}} s": coverage("horizon_s", 'band="90"', LONG),
                "50 % band, {{horizon_s}} s": coverage("horizon_s", 'band="50"', LONG),
            },
            "Over the six hours before. Should be near 90 % and 50 %.",
            defaults={"min": 0, "max": 1},
        ),
        Panel(
            "Bands widened by their own errors",
            "percentunit",
            {"{{band}} % band, {{horizon_s}} s": "avg by (band, horizon_s) (vitalcast_calibration_shift)"},
            "0: as the model gives them. Far from 0: these patients are not like those it was trained on.",
        ),
        rates(
            "Forecasts by status",
            "vitalcast_forecasts_total",
            "status",
            "warming_up: less than half an hour of data. stale: the monitor went silent.",
        ),
    ),
    "Alerts": (
        rates(
            "Alerts raised by kind",
            "vitalcast_alerts_total",
            "kind",
            "New alerts; updates and clearings are not counted here.",
            'state="raised"',
        ),
        Panel(
            "Open alerts by priority",
            "short",
            {"{{priority}}": "sum by (priority) (vitalcast_alerts_open)"},
            "Alerts raised and not yet cleared.",
        ),
        rates(
            "Alerts held back by reason",
            "vitalcast_alerts_suppressed_total",
            "reason",
            "Not raised: suspect, because of its sensor; rearm, raised not long ago; budget, too many already.",
        ),
        Panel(
            "Advice made rarer by the budget",
            "short",
            {"partition {{partition}}": "max by (partition) (vitalcast_alert_threshold_shift)"},
            "Log-odds that the alert budget adds to the thresholds of advisory alerts. 0: the budget is kept.",
        ),
    ),
    "Workers": (
        Panel(
            "Partitions and stays",
            "short",
            {
                "partitions, {{instance}}": "sum by (instance) (vitalcast_assigned_partitions)",
                "stays, {{instance}}": "sum by (instance) (vitalcast_tracked_stays)",
                "stays without data, {{instance}}": "sum by (instance) (vitalcast_stale_stays)",
            },
            "What each worker is responsible for.",
        ),
        rates(
            "Rebalances",
            "vitalcast_rebalances_total",
            "instance",
            "Partitions moved between workers: one started, stopped, or was too slow to answer.",
        ),
        Panel(
            "Model in use",
            "none",
            {"{{name}} {{version}} ({{role}})": "max by (name, version, sha256, role) (vitalcast_model_info)"},
            "One line for each model. If two are live, the workers run different ones.",
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, members in ROWS.items():
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row, "gridPos": _at(0, y, COLUMNS, 1), "panels": []}
        )
        y, x, width = y + 1, 0, COLUMNS // len(members)
        for panel in members:
            panels.append(_panel(panel, len(panels) + 1, _at(x, y, width, panel.height)))
            x += width
        y += members[0].height
    return {
        "uid": "vitalcast-service",
        "title": "Vitalcast: service",
        "description": "Is it up, is it late, is it wrong? Reference only: never the sole source of an alarm.",
        "tags": ["vitalcast"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                {
                    "name": "horizon_s",
                    "label": "Horizon in seconds",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": "label_values(vitalcast_forecast_absolute_error_total, horizon_s)",
                    "refresh": 2,
                    "sort": 3,
                    "current": {"text": "900", "value": "900"},
                },
            ]
        },
        "panels": panels,
    }


SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def _at(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    steps = [{"value": value, "color": color} for value, color in panel.steps or ((None, "green"),)]
    defaults = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}, **panel.defaults}
    return {
        "id": number,
        "type": panel.type,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for index, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
