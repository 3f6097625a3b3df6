"""Recordings: one gzip CSV for each stay, `time`, then a column for each signal in canonical units.

An empty cell is a value that was not observed.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

SUFFIX = ".csv.gz"


class RecordingError(Exception):
    """A recording that cannot be read; the message names the file and line, never a value."""


class Row(NamedTuple):
    """One line of a recording: aware UTC time and the observed values by signal name, as recorded."""

    time: datetime
    values: Mapping[str, float]


def find_recordings(*paths: Path) -> list[Path]:
    """The recordings at `paths` (files, or folders of them), sorted by stay.

    Raises: RecordingError if a path does not exist or there is no recording at all.
    """
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found.update(path.glob(f"*{SUFFIX}"))
        elif path.is_file():
            found.add(path)
        else:
            raise RecordingError(f"{path}: no such file or folder")
    if not found:
        raise RecordingError(f"no recordings (*{SUFFIX}) in {', '.join(map(str, paths))}")
    return sorted(found, key=lambda path: path.name)


def stay_id_of(path: Path) -> str:
    """The stay a recording belongs to: its file name without the suffix."""
    return path.name.removesuffix(SUFFIX)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one recording in file order; rows without any value are yielded too, with no values.

    Raises: RecordingError on a missing time column, an unreadable time or number.
    """
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if "time" not in (reader.fieldnames or ()):
                raise RecordingError(f"{path.name}: no column 'time'")
            for cells in reader:
                try:
                    time = datetime.fromisoformat(cells.pop("time"))
                    values = {name: float(cell) for name, cell in cells.items() if cell}
                except (ValueError, TypeError) as error:
                    raise RecordingError(f"{path.name}, line {reader.line_num}: unreadable time or number") from error
                if not all(map(math.isfinite, values.values())):
                    raise RecordingError(f"{path.name}, line {reader.line_num}: a value is not finite")
                yield Row(time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC), values)
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise RecordingError(f"{path.name}: not a readable recording ({type(error).__name__})") from error
