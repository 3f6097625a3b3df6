"""Settings as text for people: TOML, redacted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from stream_worker.limits import NO_LIMIT
from stream_worker.settings import REDACTED, Settings


def as_toml(settings: Settings) -> str:
    """Every setting with what it means and its value, in a form that the settings file takes back; unset and hidden
    ones are comments."""
    scalars, tables = [], []
    for name, value in settings.redacted().items():
        about = Settings.model_fields[name].description
        explained = [] if about is None else ["", f"# {about}"]
        if isinstance(value, Mapping):
            tables += [*explained, *_table((name,), value)]
        else:
            scalars += [*explained, _line(name, value)]
    return "\n".join([*scalars, *tables]).lstrip("\n")


def _table(path: tuple[str, ...], table: Mapping[str, Any]) -> list[str]:
    """The table's own values under its header, then the tables in it."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [_line(key, NO_LIMIT if value is None else value) for key, value in plain.items()]
    if lines:
        lines = ["", f"[{'.'.join(map(_key, path))}]", *lines]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines.extend(_table((*path, key), value))
    return lines


def _line(key: str, value: Any) -> str:
    if value is None or value == REDACTED:
        return f"# {_key(key)} is {'not set' if value is None else 'set, and not shown'}"
    return f"{_key(key)} = {_value(value)}"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _value(value: Any) -> str:
    """A JSON scalar or list of them is TOML too."""
    return json.dumps(value, ensure_ascii=False)
