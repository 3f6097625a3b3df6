"""The ward in the terminal: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.style import Style
from rich.table import Table
from rich.text import Text

from schemas.alert import Alert, Priority
from stream_worker.settings import Settings
from stream_worker.stopping import stop_after, stop_on_signals
from stream_worker.ward import RANK, SHOWN_HORIZON_S, Bed, Trend, Ward, trend
from stream_worker.ward_feed import TopicChangedError, WardFeed, ward_times
from stream_worker.ward_words import (
    SHORT_TITLE,
    STAND_IN,
    STAND_IN_TITLE,
    ago,
    duration,
    number,
    plural,
    printable,
    short_message,
)

REFRESH_S: Final = 1.0
PLAIN_EVERY_S: Final = 5.0
CATCH_UP_S: Final = 2.0  # before the first picture, which would else be of the past
OLD_AFTER: Final = timedelta(seconds=90)  # a value older than this shows its age in brackets
WIDTH_OF_BED: Final = 10
WIDTH_OF_SIGNAL: Final = 12  # "→124 115-134"
WIDTH_WITH_TENTHS: Final = 15  # "→37.2 36.9-37.5"
GAP: Final = 2  # between columns
LEAST_WIDTH_OF_ALERTS: Final = 24
SHARE_OF_ALERTS: Final = 0.33  # of the terminal's width: their words matter more than a sixth signal
ALERTS_PER_BED: Final = 2
LINES_AROUND_BEDS: Final = 5  # title, status, the table's head and rule, the legend; the footer comes on top

# Shape, word and colour: each alone tells the priority.
MARK: Final[dict[Priority, tuple[str, str, str]]] = {
    "high": ("◆", "HIGH", "bold white on red"),
    "medium": ("▲", "MEDIUM", "bold yellow"),
    "low": ("●", "LOW", "cyan"),
    "info": ("○", "INFO", "dim"),
}
ARROW: Final[dict[Trend | None, str]] = {"up": "↗", "down": "↘", "steady": "→", None: "→"}


class WardView:
    """A ward as a rich renderable, fitted to the width and height it is given."""

    def __init__(self, ward: Ward, clock: Callable[[], datetime], footer: Callable[[], Sequence[str]] = tuple) -> None:
        self._ward = ward
        self._clock = clock
        self._footer = footer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Beds by need, as many as fit."""
        beds = self._ward.by_need()
        signals = shown_signals(self._ward, options.max_width)
        height = options.height or console.height
        footer = self._footer()
        fitting = how_many_fit([_height_of(alerts) for _, alerts in beds], height - LINES_AROUND_BEDS - len(footer))
        gap = (0, GAP - 1, 0, 0)
        stripes = ["", "on grey11"]
        table = Table(box=SIMPLE_HEAD, padding=gap, expand=True, pad_edge=False, show_edge=False, row_styles=stripes)
        table.add_column("Bed", width=WIDTH_OF_BED, no_wrap=True)
        for signal in signals:
            table.add_column(printable(SHORT_TITLE.get(signal, signal)), width=_width_of(signal), no_wrap=True)
        table.add_column("Open alerts", ratio=1, no_wrap=True, overflow="ellipsis")
        for bed, alerts in beds[:fitting]:
            cells = [_signal_cell(self._ward, bed, signal) for signal in signals]
            table.add_row(_bed_cell(self._ward, bed), *cells, _alerts_cell(self._ward, alerts))
        yield Group(*self._head(), table, *self._foot(len(beds) - fitting, footer))

    def _head(self) -> list[Text]:
        title = Text("Vitalcast", style="bold")
        title.append("  reference only: never the sole source of an alarm", style="dim")
        now = self._clock()
        status = Text(status_line(self._ward, now), overflow="ellipsis", no_wrap=True)
        if not self._ward.is_running(now):
            status.highlight_words([_worker_state(self._ward, now)], "bold red")
        return [title, status]

    def _foot(self, hidden: int, footer: Sequence[str]) -> list[Text]:
        lines = [f"… and {hidden} more bed{plural(hidden)}; a taller window shows them"] if hidden else []
        lines.append(f"value (its age, if old); below it the forecast in {SHOWN_HORIZON_S // 60} min, 90 % band")
        lines.extend(footer)
        return [Text(line, style="dim", overflow="ellipsis", no_wrap=True) for line in lines]


def shown_signals(ward: Ward, width: int) -> list[str]:
    """The signals that fit into `width` columns, of those any bed has."""
    present = {name for bed in ward.beds.values() for name in bed.values}
    others = sorted(present - set(SHORT_TITLE) - set(STAND_IN_TITLE))
    ordered = [name for name in SHORT_TITLE if present & {name, STAND_IN.get(name)}] + others
    alerts = max(LEAST_WIDTH_OF_ALERTS, int(SHARE_OF_ALERTS * width))
    ends = list(accumulate(_width_of(signal) + GAP for signal in ordered))
    fitting = bisect_right(ends, width - WIDTH_OF_BED - GAP - alerts)
    return ordered[: max(fitting, 1)]


def _width_of(signal: str) -> int:
    return WIDTH_WITH_TENTHS if "." in number(signal, 0) else WIDTH_OF_SIGNAL


def status_line(ward: Ward, now: datetime) -> str:
    """Beds, alerts by priority, the worker's sign of life, the time that the values are of.

    What makes all of it doubtful comes first: a narrow terminal cuts the end off.
    """
    unfed, behind = ward.unfed(now), ward.behind(now)
    counts = Counter(alert.priority for alert in ward.open_alerts)
    alerts = ", ".join(f"{counts[priority]} {priority}" for priority in RANK if counts[priority])
    form = "%H:%M:%S" if behind is None else "%Y-%m-%d %H:%M"
    parts = [
        "" if unfed is None else f"NO READINGS FOR {duration(unfed)}",
        "" if behind is None else f"{duration(behind)} BEHIND THE CLOCK",
        f"{len(ward.stays)} bed{plural(len(ward.stays))}",
        f"open alerts: {alerts or 'none'}",
        _worker_state(ward, now),
        "" if ward.newest is None else f"{ward.newest:{form}} UTC",
    ]
    return " · ".join(filter(None, parts))


def _worker_state(ward: Ward, now: datetime) -> str:
    return f"worker {ward.worker(now)}"


def how_many_fit(heights: list[int], room: int) -> int:
    """How many of the rows fit into `room` lines, one of which says how many do not; at least one."""
    if sum(heights) <= room:
        return len(heights)
    ends = list(accumulate(heights))
    return max(1, bisect_right(ends, room - 1))


def _height_of(alerts: list[Alert]) -> int:
    return max(2, min(len(alerts), ALERTS_PER_BED) + (len(alerts) > ALERTS_PER_BED))


def _bed_cell(ward: Ward, bed: Bed) -> Text:
    cell = Text(printable(bed.stay_id), style="bold", overflow="ellipsis", no_wrap=True)
    if ward.is_stale(bed):
        cell.append("\nNO DATA", style="bold black on yellow")
    elif bed.forecast is None:
        cell.append("\nforecast -", style="dim")
    elif bed.forecast.status != "ok":
        cell.append(f"\n{bed.forecast.status.replace('_', ' ')}", style="dim")
    return cell


def _signal_cell(ward: Ward, bed: Bed, signal: str) -> Text:
    """The newest value (with its age, if old), below it the forecast and its band, or what device stands in."""
    name = ward.shown(bed, (signal, STAND_IN.get(signal, signal))) or signal
    observed = bed.values.get(name)
    cell = Text("-" if observed is None else number(signal, observed.value), overflow="ellipsis", no_wrap=True)
    if observed is not None and (age := ward.age(observed.at)) > OLD_AFTER:
        cell.append(f" ({duration(age)})", style="dim")
    if name in STAND_IN_TITLE:
        cell.append(f"\n{STAND_IN_TITLE[name]}", style="dim")
    elif (band := ward.band(bed, signal, SHOWN_HORIZON_S)) is not None:
        low, high = number(signal, band.low), number(signal, band.high)
        cell.append(f"\n{ARROW[trend(observed, band)]}{number(signal, band.median)}", style="green")
        cell.append(f" {low}-{high}", style="dim green")
    return cell


def _alerts_cell(ward: Ward, alerts: list[Alert]) -> Text:
    lines = [_alert_text(ward, alert) for alert in alerts[:ALERTS_PER_BED]]
    if len(alerts) > ALERTS_PER_BED:
        lines.append(Text(f"+ {len(alerts) - ALERTS_PER_BED} more", style="dim"))
    return Text("\n", overflow="ellipsis", no_wrap=True).join(lines)


def _alert_text(ward: Ward, alert: Alert) -> Text:
    shape, word, style = MARK[alert.priority]
    text = Text(f"{shape} {word}", style=Style.parse(style))
    said = ago(ward.age(alert.event_at)) + printable(short_message(alert))
    return Text.assemble(text, f" {said}", overflow="ellipsis", no_wrap=True)


def plain_lines(ward: Ward, feed: WardFeed, now: datetime) -> list[str]:
    """The ward in a few lines without colours: the state of all, then each bed that has an open alert."""
    counts = ", ".join(f"{count} from {topic}" for topic, count in sorted(feed.read.items()))
    lines = [f"{now:%H:%M:%S} {status_line(ward, now)} · read {counts or 'nothing yet'}"]
    for bed, alerts in ward.by_need():
        for alert in alerts[:ALERTS_PER_BED]:
            shape, word, _ = MARK[alert.priority]
            said = ago(ward.age(alert.event_at)) + printable(alert.message)
            lines.append(f"  {printable(bed.stay_id)}: {shape} {word} {said}")
    return lines


def show(
    ward: Ward,
    feed: WardFeed,
    stop: threading.Event,
    *,
    console: Console,
    footer: Callable[[], Sequence[str]] = tuple,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Follow the topics and show the ward until `stop` is set; `check` is called about once a second and may raise."""
    if console.is_terminal:
        with Live(
            WardView(ward, _clock, footer), console=console, screen=True, auto_refresh=False, redirect_stderr=False
        ) as live:
            _follow(ward, feed, stop, REFRESH_S, check, live.refresh)
    else:
        _follow(ward, feed, stop, PLAIN_EVERY_S, check, lambda: _print_plain(ward, feed))


def run_watch(settings: Settings, console: Console, duration_s: float | None) -> None:
    """Show the ward of the settings' topics until Ctrl-C, or for so many seconds.

    Raises: BrokerUnreachableError, KafkaFaultError.
    """
    footer = [f"Kafka {settings.bootstrap_servers} · Ctrl-C ends"]
    with stop_on_signals() as stop, stop_after(duration_s, stop):
        while not stop.is_set():
            with suppress(TopicChangedError), closing(WardFeed(settings)) as feed:  # or begin anew
                show(Ward(**ward_times(settings)), feed, stop, console=console, footer=lambda: footer)


def _follow(
    ward: Ward,
    feed: WardFeed,
    stop: threading.Event,
    every_s: float,
    check: Callable[[], None],
    refresh: Callable[[], None],
) -> None:
    feed.catch_up(ward, within_s=CATCH_UP_S)
    due = 0.0
    while not stop.is_set():
        feed.poll(ward, timeout_s=0.2)
        check()
        if feed.has_read_alerts and time.monotonic() >= due:  # before, some that are long over seem open
            refresh()
            due = time.monotonic() + every_s


def _print_plain(ward: Ward, feed: WardFeed) -> None:
    print("\n".join(plain_lines(ward, feed, _clock())), flush=True, file=sys.stdout)


def _clock() -> datetime:
    return datetime.now(UTC)
