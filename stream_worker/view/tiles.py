"""The ward page as plain values, ready for JSON: a head, the beds in order of need, a tile for each.

Times are milliseconds since the epoch: the browser knows its viewer's time zone. Numbers are texts already, written as
everywhere else. Nothing here is markup: the page sets texts, never HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from schemas.alert import Alert
from schemas.signals import VITALS_BY_NAME
from stream_worker.times import to_ms
from stream_worker.view.board import MINUTE_S, Board, Track, minute_of
from stream_worker.ward import RANK, SHOWN_HORIZON_S, Bed, trend
from stream_worker.ward_words import SHORT_TITLE, STAND_IN, STAND_IN_TITLE, ago, number, short_message

ROWS: Final = ("hr", "abp_mean", "spo2", "resp")  # or what stands in for them
ROWS_OF_A_TILE: Final = 4
ALERTS_OF_A_TILE: Final = 3
# More than a house has beds, and made in a fifth of a second: a sender that makes up ids must not hide all the others.
MOST_TILES: Final = 2000

# A sparkline's canvas: two hours back and half an hour ahead, at one scale of time.
BACK_MIN: Final = 120
AHEAD_MIN: Final = 30
WIDTH: Final = 150
HEIGHT: Final = 32
GAP_MIN: Final = 11  # beyond two of the slowest usual readings (5 min), a line would invent what was not seen
# Less than this much of the axis would make noise look like an event.
LEAST_SPAN: Final = {"hr": 30.0, "abp_mean": 30.0, "spo2": 8.0, "resp": 12.0, "temp": 1.5}


def head(board: Board, now: datetime) -> dict[str, Any]:
    """What holds for the whole ward: counts by priority, the worker's sign of life, the time that all ages refer to."""
    behind, unfed = board.behind(now), board.unfed(now)
    return {
        "newest": None if board.newest is None else to_ms(board.newest),
        "behind_s": None if behind is None else int(behind.total_seconds()),
        "unfed_s": None if unfed is None else int(unfed.total_seconds()),
        "worker": board.worker(now),
        "beds": len(board.stays),
        "shown": min(len(board.stays), MOST_TILES),
        "alerts": {priority: sum(alert.priority == priority for alert in board.open_alerts) for priority in RANK},
    }


def tile(board: Board, bed: Bed, alerts: Sequence[Alert]) -> dict[str, Any]:
    """One bed: what changes with every reading apart from what changes with the minute."""
    signals = list(_rows_of(board, bed))
    return {
        "name": bed.stay_id,
        "unit": bed.care_unit or "",
        "at": None if bed.newest is None else to_ms(bed.newest),
        "sent": board.past(bed.stay_id).changed_ms,
        "state": state_of(board, bed),
        "rows": [row(board, bed, signal) | {"alert": _priority_on(signal, alerts)} for signal in signals],
        "alerts": [
            {"priority": alert.priority, "text": ago(board.age(alert.event_at)) + short_message(alert)}
            for alert in alerts[:ALERTS_OF_A_TILE]
        ],
        "more": max(0, len(alerts) - ALERTS_OF_A_TILE),
    }


def sparks(board: Board, bed: Bed) -> dict[str, dict[str, str]]:
    """The sparklines of the tile, by signal, as SVG path data."""
    past = board.past(bed.stay_id)
    end = minute_of(board.newest) if board.newest else 0
    return {signal: _spark(board, bed, signal, past.track(signal), end) for signal in _rows_of(board, bed)}


def row(board: Board, bed: Bed, signal: str) -> dict[str, Any]:
    """One signal: its newest value, and the forecast in 15 min with its band and trend."""
    observed, band = bed.values.get(signal), board.band(bed, signal, SHOWN_HORIZON_S)
    return {
        "signal": signal,
        "title": short_title(signal),
        "long": title(signal),
        "unit": known.written_unit if (known := VITALS_BY_NAME.get(signal)) else "",
        "value": None if observed is None else number(signal, observed.value),
        "at": None if observed is None else to_ms(observed.at),
        "then": None if band is None else number(signal, band.median),
        "band": None if band is None else f"{number(signal, band.low)}–{number(signal, band.high)}",
        "in_min": None if band is None else band.horizon_s // 60,
        "trend": trend(observed, band),
    }


def state_of(board: Board, bed: Bed) -> str:
    """One of: ok, stale (not observed lately), unseen (no reading yet), warming_up, no_forecast."""
    if bed.newest is None:
        return "unseen"
    if board.is_stale(bed):
        return "stale"
    if bed.forecast is None:
        return "no_forecast"
    return "warming_up" if bed.forecast.status == "warming_up" else "ok"


def title(signal: str) -> str:
    """The signal's full name; its wire name if it is not a vital sign."""
    return VITALS_BY_NAME[signal].title if signal in VITALS_BY_NAME else signal


def short_title(signal: str) -> str:
    """As a monitor writes it."""
    return STAND_IN_TITLE.get(signal) or SHORT_TITLE.get(signal, signal).partition(" ")[0]


def _priority_on(signal: str, alerts: Sequence[Alert]) -> str | None:
    """The most urgent of the alerts (which come in this order) that are about the signal."""
    return next((alert.priority for alert in alerts if alert.signal == signal), None)


def _rows_of(board: Board, bed: Bed) -> Iterator[str]:
    """The tile's signals: the four of a monitor, then others until it is full."""
    known = set(bed.values) | set(bed.forecast.signals if bed.forecast else ())
    chosen = [board.shown(bed, (name, STAND_IN.get(name, name))) or name for name in ROWS]
    usual = [name for name in chosen if name in known]
    others = sorted(known - set(ROWS) - set(STAND_IN_TITLE), key=lambda name: (name not in SHORT_TITLE, name))
    yield from [*usual, *others][:ROWS_OF_A_TILE]


def _spark(board: Board, bed: Bed, signal: str, track: Track, end: int) -> dict[str, str]:
    """Line, median and band within WIDTH x HEIGHT; empty texts where there is nothing to draw."""
    seen = [(minute, value) for minute, value in sorted(track.values.items()) if minute > end - BACK_MIN]
    fan = list(_fan(board, bed, signal))
    low, high = _range(signal, [*(v for _, v in seen), *(v for _, *q in fan for v in q)])

    def at(minute: float, value: float) -> tuple[float, float]:
        x = (minute - end + BACK_MIN) * WIDTH / (BACK_MIN + AHEAD_MIN)
        return round(x, 1), round(HEIGHT - 1 - (value - low) / (high - low) * (HEIGHT - 2), 1)

    upper = [at(minute, top) for minute, _, _, top in fan]
    lower = [at(minute, bottom) for minute, bottom, _, _ in reversed(fan)]
    return {
        "line": " ".join(_path([at(*point) for point in part]) for part in _unbroken(seen)),
        "median": _path([at(minute, middle) for minute, _, middle, _ in fan]),
        "band": _path([*upper, *lower]) + "Z" if fan else "",
    }


def _fan(board: Board, bed: Bed, signal: str) -> Iterator[tuple[float, float, float, float]]:
    """(minute, low, median, high) from the newest value on, as far as the sparkline shows."""
    forecast = bed.forecast
    if forecast is None or board.band(bed, signal, SHOWN_HORIZON_S) is None:
        return
    start = forecast.issued_at.timestamp() / MINUTE_S
    known = forecast.signals[signal]
    yield max(known.last_at.timestamp() / MINUTE_S, start - BACK_MIN), known.last, known.last, known.last
    for horizon_s in forecast.horizons_s:
        if horizon_s <= AHEAD_MIN * MINUTE_S and (band := bed.band(signal, horizon_s)) is not None:
            yield start + horizon_s / MINUTE_S, band.low, band.median, band.high


def _range(signal: str, values: Iterable[float]) -> tuple[float, float]:
    """The axis: all of the values, and never less than what a change of note would fill."""
    values = list(values) or [0.0]
    low, high = min(values), max(values)
    slack = max(0.0, LEAST_SPAN.get(signal, 1e-6 + abs(high) * 0.05) - (high - low)) / 2
    return low - slack, high + slack


def _unbroken(points: Sequence[tuple[int, float]]) -> Iterator[list[tuple[int, float]]]:
    """The parts between gaps."""
    part: list[tuple[int, float]] = []
    for point in points:
        if part and point[0] - part[-1][0] > GAP_MIN:
            yield part
            part = []
        part.append(point)
    if part:
        yield part


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if points else ""
