"""Structured logs: key-value events with constant names. No patient data: nothing of a record is ever bound."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Final, Literal

import structlog

REPEAT_S: Final = 10.0


def configure(level: str, style: Literal["auto", "json", "console"]) -> None:
    """Send our events, and what libraries warn of, to stderr: JSON lines, or text, coloured on a terminal."""
    is_terminal = sys.stderr.isatty()
    is_console = style == "console" or (style == "auto" and is_terminal)
    renderer: Any = structlog.processors.JSONRenderer()
    if is_console:
        renderer = structlog.dev.ConsoleRenderer(colors=is_terminal)  # in a file they are in the way of grep
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _library_event],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_Seldom())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vitalcast").setLevel(getattr(logging, level))


class _Seldom(logging.Filter):
    """Lets a library say the same thing once in REPEAT_S: without a broker aiokafka would, 170 times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int], float] = {}  # when, by place in the code

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is of our own, or the first of its place for a while."""
        place = record.pathname, record.lineno
        if record.name == "vitalcast":
            return True
        if record.created - self._said.get(place, 0.0) < REPEAT_S:
            return False
        self._said[place] = record.created
        return True


def _library_event(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name a library's message as what it is, without the arguments of exceptions: they may quote a record."""
    record: logging.LogRecord = event["_record"]
    event["library"] = record.name
    event.pop("exc_info", None)
    if record.exc_info and record.exc_info[1] is not None:
        event["exception"] = describe(record.exc_info[1])
        record.exc_info = None
    return event


def describe(error: BaseException) -> dict[str, Any]:
    """An exception for the log: its type, where it arose, and the message of our own; others may quote a record."""
    frames = traceback.extract_tb(error.__traceback__)
    at = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    reason = {"reason": str(error)} if type(error).__module__.startswith("stream_worker.") else {}
    return {"type": type(error).__name__, **reason, "at": at}
