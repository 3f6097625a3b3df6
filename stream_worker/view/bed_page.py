"""The bed page as plain values, ready for JSON: charts, alerts with their lives, forecast quality, raw messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from schemas.alert import Alert, Kind
from schemas.forecast import Forecast
from schemas.signals import VITALS_BY_NAME
from stream_worker.limits import SignalLimits
from stream_worker.times import to_ms
from stream_worker.view.board import MINUTE_S, Board, Due, Past, Track
from stream_worker.view.tiles import row, state_of
from stream_worker.ward import RANK, Bed, nearest
from stream_worker.ward_words import SHORT_TITLE, STAND_IN_TITLE

KIND: Final[Mapping[Kind, str]] = {
    "limit": "beyond a limit",
    "forecast_limit": "forecast",
    "anomaly": "unexpected values",
    "technical": "technical",
    "news2": "NEWS2",
}
PRINTED: Final = 4000  # bytes of a raw message
MINUTE_MS: Final = MINUTE_S * 1000


class Quality(NamedTuple):
    """How the stay's forecasts turned out, over the minutes that were observed and not doubted."""

    scored: int
    covered_90: float
    covered_50: float
    error: float  # mean absolute, of the median
    persistence: float  # the same of "stays as it is"
    horizon_s: int


def bed_page(board: Board, stay_id: str) -> dict[str, Any]:
    """All of the page, in parts of which only the changed ones have to be sent."""
    bed, past = board.beds.get(stay_id) or Bed(stay_id), board.past(stay_id)
    limits = board.limits(stay_id)
    parts: dict[str, Any] = {
        "bed": {
            "name": stay_id,
            "unit": bed.care_unit or "",
            "state": state_of(board, bed),
            "at": None if bed.newest is None else to_ms(bed.newest),
            "model": _model(bed.forecast),
            "open": sum(alert.stay_id == stay_id for alert in board.open_alerts),
        },
        "order": _signals(bed, past),
        "alerts": [_alert(revisions) for revisions in _open_first(past)],
        "messages": [_message(*message) for message in reversed(past.messages)],
    }
    for signal in parts["order"]:
        track = past.track(signal)
        parts[f"now:{signal}"] = row(board, bed, signal)
        parts[f"history:{signal}"] = _history(track, limits.get(signal), past, signal)
        parts[f"past:{signal}"] = _due(track)
        parts[f"fan:{signal}"] = _fan(bed.forecast, signal)
        parts[f"quality:{signal}"] = _quality(track)
    return parts


def quality(track: Track) -> Quality | None:
    """The signal's forecasts against what came; None before the first came due."""
    known = track.values.keys() - track.doubted.keys()
    scored = [(due, track.values[minute]) for minute, due in track.due.items() if minute in known]
    if not scored:
        return None
    n = len(scored)
    return Quality(
        n,
        sum(_holds(due, 0.05, 0.95, value) for due, value in scored) / n,
        sum(_holds(due, 0.25, 0.75, value) for due, value in scored) / n,
        sum(abs(_quantile(due, 0.5) - value) for due, value in scored) / n,
        sum(abs(due.last - value) for due, value in scored) / n,
        max(due.horizon_s for due, _ in scored),
    )


def _holds(due: Due, low: float, high: float, value: float) -> bool:
    return _quantile(due, low) <= value <= _quantile(due, high)


def _quantile(due: Due, level: float) -> float:
    """The quantile of the nearest level that the model gives."""
    return due.quantiles[nearest(due.levels, level)]


def _signals(bed: Bed, past: Past) -> list[str]:
    """Forecast signals first, then the others that were seen; the usual order of a monitor within."""
    forecast = set(bed.forecast.signals if bed.forecast else ())
    usual = {name: index for index, name in enumerate([*SHORT_TITLE, *STAND_IN_TITLE])}
    known = forecast | set(bed.values) | set(past.tracks)
    return sorted(known, key=lambda name: (name not in forecast, usual.get(name, len(usual)), name))


def _history(track: Track, limits: SignalLimits | None, past: Past, signal: str) -> dict[str, Any]:
    minutes = sorted(track.values)
    decimals = 1 if signal in VITALS_BY_NAME else 3
    return {
        "t": [minute * MINUTE_MS for minute in minutes],
        "v": [round(track.values[minute], decimals) for minute in minutes],
        "limits": _limits(limits),
        "anomalies": [[minute * MINUTE_MS, value] for minute, value in sorted(track.anomalies.items())],
        "alerts": [_mark(revisions) for revisions in _open_first(past) if revisions[0].signal == signal],
    }


def _limits(limits: SignalLimits | None) -> list[dict[str, Any]]:
    """Where alerts begin, and of which priority."""
    if limits is None:
        return []
    mild, severe = (limits.low, limits.high), (limits.severe_low, limits.severe_high)
    return [
        {"at": limit, "priority": priority}
        for priority, pair in (("medium", mild), ("high", severe))
        for limit in pair
        if limit is not None
    ]


def _mark(revisions: list[Alert]) -> dict[str, Any]:
    """When an alert on the signal was open."""
    last = revisions[-1]
    return {
        "from": to_ms(revisions[0].event_at),
        "to": to_ms(last.event_at) if last.state == "cleared" else None,
        "priority": min(revisions, key=lambda alert: RANK[alert.priority]).priority,
    }


def _due(track: Track) -> dict[str, Any]:
    minutes = sorted(track.due)
    rows = [track.due[minute] for minute in minutes]
    return {
        "t": [minute * MINUTE_MS for minute in minutes],
        "low": [_quantile(due, 0.05) for due in rows],
        "median": [_quantile(due, 0.5) for due in rows],
        "high": [_quantile(due, 0.95) for due in rows],
    }


def _fan(forecast: Forecast | None, signal: str) -> dict[str, Any] | None:
    """The newest forecast from the value on that it goes out from: one list a level, 5, 25, 50, 75 and 95 %.

    That value may be old: the forecast goes on where its sensor came off.
    """
    if forecast is None or signal not in forecast.signals or not forecast.quantile_levels:
        return None
    state, levels = forecast.signals[signal], tuple(forecast.quantile_levels)
    pairs = zip(forecast.horizons_s, state.quantiles, strict=False)
    rows = [Due(levels, tuple(row), state.last, horizon_s) for horizon_s, row in pairs if len(row) == len(levels)]
    start = to_ms(forecast.issued_at)
    return {
        "issued": start,
        "t": [to_ms(state.last_at), *(start + horizon_s * 1000 for horizon_s in forecast.horizons_s)],
        "levels": [[state.last, *(_quantile(due, level) for due in rows)] for level in (0.05, 0.25, 0.5, 0.75, 0.95)],
    }


def _quality(track: Track) -> dict[str, Any] | None:
    found = quality(track)
    if found is None:
        return None
    return {
        "count": found.scored,
        "covered_90": f"{found.covered_90:.0%}",
        "covered_50": f"{found.covered_50:.0%}",
        "error": f"{found.error:.1f}",
        "persistence": f"{found.persistence:.1f}",
        "horizon_min": found.horizon_s // 60,
    }


def _open_first(past: Past) -> list[list[Alert]]:
    """Open alerts, the most urgent first; then cleared ones, the newest first."""

    def place(revisions: list[Alert]) -> tuple[bool, int, float]:
        last = revisions[-1]
        is_cleared = last.state == "cleared"
        return is_cleared, 0 if is_cleared else RANK[last.priority], -last.event_at.timestamp()

    return sorted(past.alerts.values(), key=place)


def _alert(revisions: list[Alert]) -> dict[str, Any]:
    last = revisions[-1]
    is_cleared = last.state == "cleared"
    shown = revisions[-2] if is_cleared and len(revisions) > 1 else last  # the clearing sentence says little by itself
    return {
        "id": last.alert_id,
        "priority": shown.priority,
        "kind": KIND[shown.kind],
        "state": last.state,
        "text": shown.message,
        "evidence": evidence(shown.evidence),
        "since": to_ms(last.since),
        "steps": [
            {"state": alert.state, "at": to_ms(alert.event_at), "priority": alert.priority, "text": alert.message}
            for alert in revisions
        ],
        "reason": (last.clear_reason or "").replace("_", " "),
        "lead_s": last.lead_time_s,
    }


def evidence(facts: Mapping[str, Any]) -> str:
    """The numbers that the alert rests on, in one line; names that it does not know are written as they are."""
    words = {"horizon_s": "horizon", "probability": "probability", "last": "value then", "upper": "at most"}
    parts = []
    for name, value in facts.items():
        text = f"{value / 60:g} min" if name.endswith("_s") and isinstance(value, int | float) else _plain(value)
        parts.append(f"{words.get(name, name.removesuffix('_s').replace('_', ' '))} {text}")
    return " · ".join(parts)


def _plain(value: Any) -> str:
    """A number, words, or several of them by name."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {_plain(part)}" for name, part in value.items())[:200]
    if isinstance(value, list):
        return ", ".join(map(_plain, value))[:200] or "none"
    return f"{value:g}" if isinstance(value, int | float) else str(value)[:200]


def _model(forecast: Forecast | None) -> str:
    return "" if forecast is None else f"{forecast.model.name} {forecast.model.version} ({forecast.model.sha256})"


def _message(topic: str, partition: int, offset: int, timestamp_ms: int, value: bytes) -> dict[str, Any]:
    return {
        "from": f"{topic}-{partition} @ {offset}",
        "at": timestamp_ms,
        "text": value[:PRINTED].decode("utf-8", "replace"),
    }
