"""Recordings as the model sees them: steps on the epoch's grid, artefacts left out as in the worker; their split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from model.arrays import Bools, Floats32
from model.config import SIGNIFICANT_DIGITS, Column, ForecasterConfig
from model.steps import NEVER_S, step_value
from schemas.recordings import check_span, read_rows, stay_id_of
from schemas.signals import ARTERIAL_TRIPLE, is_arterial_triple_consistent

FRESH_S = 600.0  # a value older than this says little about the next minutes


class UnfitArgumentError(ValueError):
    """What was asked for does not go with these recordings; the message is one line for the user."""


class Stay(NamedTuple):
    """One stay as steps. T steps, I inputs.

    x : float32 (T, I) step values in clinical units on the signal's precision grid, 0 where unobserved.
    observed : bool (T, I). elapsed : float32 (T, I) seconds since each input's last value at the step's newest reading.
    """

    stay_id: str
    x: Floats32
    observed: Bools
    elapsed: Floats32

    @property
    def length(self) -> int:
        """Steps from the first reading to the last."""
        return len(self.x)


def read_stay(path: Path, config: ForecasterConfig) -> Stay:
    """The recording at `path` as steps: the trimmed mean of a step's plausible readings, artefacts left out."""
    names = [signal.name for signal in config.inputs]
    times, rows = [], []
    for row in read_rows(path):
        times.append(row.time.timestamp())
        rows.append([row.values.get(name, np.nan) for name in names])
    return from_readings(stay_id_of(path), np.array(times), np.array(rows).reshape(len(times), len(names)), config)


def read_stays(paths: Sequence[Path], config: ForecasterConfig, description: str = "Reading recordings") -> list[Stay]:
    """The recordings at `paths`, with a progress bar.

    They are read inside the bar, so that it ends where one cannot be: left to the garbage collector, its threads may
    come to wait for each other.
    """
    return list(track((read_stay(path, config) for path in paths), description, total=len(paths)))


def survey(paths: Iterable[Path], step_s: int) -> tuple[dict[str, Column], int]:
    """What each column that has any value holds, and the steps of the longest recording."""
    columns: dict[str, Column] = {}
    longest = 0
    for path in paths:
        times = []
        for row in read_rows(path):
            times.append(row.time)
            for name, value in row.values.items():
                low, high, decimals = columns.get(name, (value, value, 0))
                if round(value, decimals) != value:
                    digits = (n for n in range(decimals, SIGNIFICANT_DIGITS) if round(value, n) == value)
                    decimals = next(digits, SIGNIFICANT_DIGITS)
                columns[name] = Column(min(low, value), max(high, value), decimals)
        if times:
            longest = max(longest, int((max(times) - min(times)).total_seconds() // step_s) + 1)
    return columns, longest


def from_readings(
    stay_id: str, times: NDArray[np.float64], values: NDArray[np.float64], config: ForecasterConfig
) -> Stay:
    """Readings at `times` (Unix seconds, (N,)) with `values` (N, I; NaN where unobserved) as steps."""
    values = plausible(values, config)
    kept = ~np.isnan(values).all(axis=1)
    times, values = times[kept], values[kept]
    if not len(times):
        empty = np.zeros((0, len(config.inputs)), np.float32)
        return Stay(stay_id, empty, empty.astype(bool), empty.copy())
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    step = np.floor(times / config.step_s).astype(np.int64)
    step -= step[0]
    length = int(step[-1]) + 1
    check_span(stay_id, length * config.step_s)
    precision = np.array([signal.precision for signal in config.inputs])
    starts = np.searchsorted(step, np.arange(length + 1))

    x = np.full((length, values.shape[1]), np.nan)
    elapsed = np.full((length, values.shape[1]), NEVER_S, np.float32)
    last_at = np.full(values.shape[1], -np.inf)
    as_of = times[0]
    for t in range(length):
        a, b = starts[t], starts[t + 1]
        if b > a:
            x[t] = _step_value(values[a:b], precision)
        as_of = times[b - 1] if b > a else as_of + config.step_s
        for r in range(a, b):
            last_at[~np.isnan(values[r])] = times[r]
        elapsed[t] = np.minimum(as_of - last_at, NEVER_S)
    observed = ~np.isnan(x)
    x = np.where(observed, x, 0.0)
    return Stay(stay_id, x.astype(np.float32), observed, elapsed)


def _step_value(values: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """The value of a step with readings `values` (n, I), on the precision grid; NaN where none observed a signal."""
    seen = ~np.isnan(values)
    quanta = np.rint(np.where(seen, values, 0.0) / precision).astype(np.int64)
    far = np.iinfo(np.int64).max
    lowest, highest = np.where(seen, quanta, far).min(axis=0), np.where(seen, quanta, -far).max(axis=0)
    found = step_value(quanta.sum(axis=0), lowest, highest, seen.sum(axis=0)) * precision
    return np.where(seen.any(axis=0), found, np.nan)


def plausible(values: NDArray[np.float64], config: ForecasterConfig) -> NDArray[np.float64]:
    """`values` (N, I) with what is out of range, or an arterial triple that contradicts itself, as NaN."""
    low = np.array([signal.low for signal in config.inputs])
    high = np.array([signal.high for signal in config.inputs])
    values = np.where((values >= low) & (values <= high), values, np.nan)
    names = [signal.name for signal in config.inputs]
    if all(name in names for name in ARTERIAL_TRIPLE):
        columns = [names.index(name) for name in ARTERIAL_TRIPLE]
        triple = values[:, columns]
        is_torn = ~np.isnan(triple).any(axis=1) & ~is_arterial_triple_consistent(*triple.T)
        values[np.ix_(is_torn, columns)] = np.nan
    return values


def truth(stay: Stay, config: ForecasterConfig) -> Floats32:
    """The step value each forecast is about: float32 (T, V, H), NaN where unobserved or after the stay's end."""
    columns = [config.input_index(name) for name in config.signals]
    value = np.where(stay.observed, stay.x, np.nan)[:, columns]
    out = np.full((*value.shape, len(config.horizons_s)), np.nan, np.float32)
    for h, steps in enumerate(config.horizon_steps):
        out[: max(len(value) - steps, 0), :, h] = value[steps:]
    return out


def scored_origins(stay: Stay, config: ForecasterConfig) -> Bools:
    """Origins that count, (T, V): the signal is observed there and in at least half of the last `context_steps`."""
    columns = [config.input_index(name) for name in config.signals]
    observed = stay.observed[:, columns]
    count = np.vstack([np.zeros((1, len(columns)), np.int64), np.cumsum(observed, axis=0)])
    context = config.context_steps
    enough = np.zeros_like(observed)
    if len(observed) >= context:
        enough[context - 1 :] = (count[context:] - count[:-context]) * 2 >= context
    return enough & observed


def folds(paths: Sequence[Path], count: int, seed: int) -> list[list[Path]]:
    """`paths` in `count` parts by stay, each sorted by name; the same for the same names and seed."""
    ordered = sorted(paths, key=lambda path: path.name)
    shuffled = np.random.default_rng(seed).permutation(len(ordered))
    return [sorted((ordered[i] for i in shuffled[k::count]), key=lambda path: path.name) for k in range(count)]


def split(paths: Sequence[Path], hold_out: int, seed: int) -> tuple[list[Path], list[Path]]:
    """(training, held out): `hold_out` stays drawn with `seed` are kept from training."""
    if not 0 <= hold_out < len(paths):
        raise UnfitArgumentError(f"cannot hold out {hold_out} of {len(paths)} stays: --hold-out must be less")
    ordered = sorted(paths, key=lambda path: path.name)
    drawn = set(np.random.default_rng(seed).permutation(len(ordered))[:hold_out].tolist())
    return [p for i, p in enumerate(ordered) if i not in drawn], [p for i, p in enumerate(ordered) if i in drawn]


class Batch(NamedTuple):
    """Step t of the stays that are still running: rows 0 to n - 1 of the stays sorted by falling length."""

    t: int
    x: Floats32
    observed: Floats32
    elapsed: Floats32


def steps_of(stays: Sequence[Stay]) -> Iterator[Batch]:
    """All steps of `stays` (the longest first) side by side: as many rows as stays are still running."""
    lengths = np.array([stay.length for stay in stays])
    for start in range(0, int(lengths.max(initial=0)), _BLOCK):
        running = [stay for stay in stays if stay.length > start]
        size = min(_BLOCK, running[0].length - start)
        block = np.zeros((3, size, len(running), stays[0].x.shape[1]), np.float32)
        for column, stay in enumerate(running):
            part = slice(start, min(start + size, stay.length))
            for row, values in enumerate((stay.x, stay.observed, stay.elapsed)):
                block[row, : part.stop - start, column] = values[part]
        for t in range(size):
            n = int((lengths > start + t).sum())
            yield Batch(start + t, *block[:, t, :n])


_BLOCK = 1024  # steps laid out at once: keeps the copy small beside the stays themselves
