"""Recordings: one gzip CSV for each stay, `time`, then a column for each signal in canonical units.

An empty cell is a value that was not observed.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec

from schemas.reading import StayId

SUFFIX = ".csv.gz"
UNREADABLE = (OSError, UnicodeDecodeError, EOFError, zlib.error, csv.Error)  # what a damaged file is found out by
ENCODING = "utf-8-sig"  # spreadsheets begin their files with a byte order mark
LONGEST_LINE = 1 << 20  # in characters: a few megabytes that are no recording may unpack to one line of gigabytes
LONGEST_DAYS = 366  # of a recording: a longer one has a wrong date in it, and a step for each minute up to there


class RecordingError(Exception):
    """A recording that cannot be read; the message names the file and line, never a value."""


def check_span(stay_id: str, seconds: float) -> None:
    """Raises: RecordingError if a recording is longer than any stay."""
    if seconds > LONGEST_DAYS * 86_400:
        raise RecordingError(f"{stay_id}: spans {seconds // 86_400:.0f} days; is a date in it wrong?")


class Row(NamedTuple):
    """One line of a recording: aware UTC time and the observed values by signal name, as recorded."""

    time: datetime
    values: Mapping[str, float]


def find_recordings(*paths: Path) -> list[Path]:
    """The recordings at `paths` (files, or folders of them), sorted by stay.

    Raises: RecordingError if a path does not exist, there is no recording at all, a name is no stay_id, or two are of
    one stay.
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
    ordered = sorted(found, key=lambda path: path.name)
    for path in ordered:
        if not _is_stay_id(stay_id_of(path)):
            raise RecordingError(f"{path}: its name is no stay_id, which has 1 to 128 characters in UTF-8")
    for one, other in pairwise(sorted(ordered, key=stay_id_of)):
        if stay_id_of(one) == stay_id_of(other) and not one.samefile(other):
            raise RecordingError(f"{one} and {other} are of one stay by their names")
    return ordered


def stay_id_of(path: Path) -> str:
    """The stay a recording belongs to: its file name without the suffix."""
    return path.name.removesuffix(".gz").removesuffix(".csv")


def _is_stay_id(name: str) -> bool:
    """Whether the contract takes it: a file's name may be bytes of any kind."""
    try:
        name.encode()
        msgspec.convert(name, StayId)
    except (UnicodeEncodeError, msgspec.ValidationError):
        return False
    return True


class Extent(NamedTuple):
    """How much there is of a recording: its rows, and the time of the last one with a value (None: there is none)."""

    rows: int
    last: datetime | None


def extent_of(path: Path) -> Extent:
    """The recording's extent, without parsing what lies before its end: in a tenth of the time.

    Raises: RecordingError.
    """
    rows, last = -1, ""  # the first line is the head
    try:
        with _opener(path)(path, "rt", encoding=ENCODING) as file:
            for line in _lines(file):
                rows += 1
                if rows and line.partition(",")[2].strip(", \r\n"):
                    last = line
        return Extent(max(rows, 0), _aware(datetime.fromisoformat(last.partition(",")[0])) if last else None)
    except UNREADABLE as error:
        raise RecordingError(f"{path.name}: not a readable recording ({type(error).__name__})") from error
    except (ValueError, OverflowError) as error:
        raise RecordingError(f"{path.name}: unreadable time at its end") from error


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one recording in file order; rows without any value are yielded too, with no values.

    Raises: RecordingError on a missing time column, two of one name, an unreadable time or number.
    """
    try:
        with _opener(path)(path, "rt", encoding=ENCODING, newline="") as file:
            reader = csv.DictReader(_lines(file))
            columns = [name for name in reader.fieldnames or () if name]
            if "time" not in columns:
                raise RecordingError(f"{path.name}: no column 'time' in its first line, which has commas between names")
            if len(set(columns)) < len(columns):
                raise RecordingError(f"{path.name}: two columns of one name")
            for cells in reader:
                values: dict[str, float] = {}
                column = "time"
                try:
                    time = _aware(datetime.fromisoformat(cells.pop(column)))
                    for column, cell in cells.items():
                        if cell:
                            values[column] = float(cell)
                except (ValueError, TypeError, OverflowError) as error:
                    raise RecordingError(f"{path.name}, line {reader.line_num}: {_unreadable(column)}") from error
                if not all(map(math.isfinite, values.values())):
                    raise RecordingError(f"{path.name}, line {reader.line_num}: a value is not finite")
                yield Row(time, values)
    except UNREADABLE as error:
        raise RecordingError(f"{path.name}: not a readable recording ({type(error).__name__})") from error


def _lines(file: TextIO) -> Iterator[str]:
    """The file's lines. Raises: csv.Error if one is longer than any recording's."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error("line too long")
        yield line


def _unreadable(column: str | None) -> str:
    if column == "time":
        return "unreadable time, which is written like 2026-11-22T10:15:30Z"
    if column is None:  # the csv module's name for what has none
        return "more cells than the first line has names"
    return f"unreadable number in column {column!r}"


def _opener(path: Path) -> Callable[..., Any]:
    return gzip.open if path.name.endswith(".gz") else open


def _aware(time: datetime) -> datetime:
    """In UTC, which times without an offset are taken to be."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
