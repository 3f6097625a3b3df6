"""Recordings as files, for tests that read them."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from schemas.recordings import SUFFIX, Row


def minutes(start: datetime, values: Iterable[float | None], name: str = "hr") -> list[Row]:
    """A row a minute of one signal; None: a row without a value."""
    return [
        Row(start + timedelta(minutes=minute), {} if value is None else {name: value})
        for minute, value in enumerate(values)
    ]


def write_recording(folder: Path, stay_id: str, rows: Iterable[Row]) -> Path:
    """The stay's recording: gzip CSV, rows in the order given, columns in that of their first values."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    path = folder / f"{stay_id}{SUFFIX}"
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *names])
        for row in rows:
            cells = (f"{row.values[name]:.9g}" if name in row.values else "" for name in names)
            writer.writerow([row.time.isoformat(), *cells])
    return path
