"""How a ward's signals, numbers and ages are written, in the terminal and in the browser."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from schemas.alert import Alert
from schemas.signals import VITALS_BY_NAME

# The signals shown first where the terminal is narrow, with the words of a monitor.
SHORT_TITLE: Final = {
    "hr": "HR /min",
    "abp_mean": "MAP mmHg",
    "spo2": "SpO2 %",
    "resp": "Resp /min",
    "abp_sys": "Sys mmHg",
    "abp_dia": "Dia mmHg",
    "temp": "Temp °C",
}
# Another device's measurement of the same, with its short name: shown where the first is missing.
STAND_IN: Final = {"hr": "pulse", "abp_mean": "nibp_mean", "abp_sys": "nibp_sys", "abp_dia": "nibp_dia"}
STAND_IN_TITLE: Final = {"pulse": "Pulse", "nibp_mean": "NIBP", "nibp_sys": "NIBP sys", "nibp_dia": "NIBP dia"}


def number(signal: str, value: float) -> str:
    """Whole numbers where monitors show them; a tenth for temperature and for signals of a model's own."""
    return f"{value:.0f}" if signal in VITALS_BY_NAME and signal != "temp" else f"{value:.1f}"


def duration(span: timedelta) -> str:
    """The span in its largest fitting unit."""
    seconds = int(span.total_seconds())
    for size, unit in ((365 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (seconds >= size and unit == "min"):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def plural(number: int) -> str:
    """What a noun ends in behind `number`."""
    return "" if number == 1 else "s"


def hours(seconds: float) -> str:
    """A time on a recording, to the minute."""
    minutes = int(seconds) // 60
    return f"{minutes // 60} h {minutes % 60:02d} min"


def ago(age: timedelta) -> str:
    """What goes before a message of that age: a sentence that was true then is not taken for one of now."""
    return "" if age < timedelta(minutes=1) else f"{duration(age)} ago: "


def short_message(alert: Alert) -> str:
    """The alert's message with the signal's name as in the table's head, so that the rest of it fits."""
    signal = VITALS_BY_NAME.get(alert.signal or "")
    if signal is None or signal.name not in SHORT_TITLE:
        return alert.message
    return alert.message.replace(signal.title, SHORT_TITLE[signal.name].partition(" ")[0])


def printable(text: str) -> str:
    """A sender's text without what a terminal would act on."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
