"""What a forecaster looks like: its signals, horizons and sizes. The network takes nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import msgspec

from model.manifest import Task, check_task
from schemas.recordings import RecordingError
from schemas.signals import NAME_RULE, VITALS_BY_NAME, Signal, is_name

SIGNIFICANT_DIGITS: Final = 6  # of a signal that is no vital sign: what float32 can tell apart


class Witness(msgspec.Struct, frozen=True, kw_only=True):
    """An input that is not forecast but measures the same thing as a forecast signal by other means.

    memory_s : how long its last value says something about the signal, as the time constant of an exponential.
    """

    name: str
    of: str
    memory_s: float


class ForecasterConfig(Task, frozen=True, kw_only=True):
    """Frozen description of a forecaster; `vital_signs()` is the product's own.

    The recent averages of a group's signals are candidates for each other's forecast.

    hidden, direct : units of the LSTM and of the path past it. Chosen by skill per cost (docs/experiments.md).
    """

    witnesses: tuple[Witness, ...] = ()
    step_s: int = 60
    horizons_s: tuple[int, ...] = (60, 300, 900, 1800, 3600)
    quantile_levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
    context_steps: int = 60
    hidden: int = 32
    direct: int = 32
    dropout: float = 0.3

    def __post_init__(self) -> None:
        check_task(self)
        names = {signal.name for signal in self.inputs}
        forecast = set(self.signals)
        if any(not set(group) <= forecast for group in self.groups):
            raise ValueError("a group may hold forecast signals only")
        if any(witness.name not in names or witness.of not in forecast for witness in self.witnesses):
            raise ValueError("a witness is an input, of a forecast signal")

    @property
    def horizon_steps(self) -> tuple[int, ...]:
        """The horizons in steps."""
        return tuple(horizon // self.step_s for horizon in self.horizons_s)

    def input_index(self, name: str) -> int:
        """The column of x that holds signal `name`."""
        return [signal.name for signal in self.inputs].index(name)


def vital_signs() -> ForecasterConfig:
    """The default forecaster: six vital signs, with the oximeter's pulse and the cuff's mean pressure as witnesses."""
    names = ("hr", "resp", "spo2", "abp_sys", "abp_dia", "abp_mean")
    return ForecasterConfig(
        inputs=tuple(VITALS_BY_NAME[name] for name in (*names, "pulse", "nibp_mean")),
        signals=names,
        groups=(("abp_sys", "abp_dia", "abp_mean"),),
        witnesses=(
            # The pulse comes every second with the heart rate; a cuff measures every 15 to 60 min.
            Witness(name="pulse", of="hr", memory_s=300.0),
            Witness(name="nibp_mean", of="abp_mean", memory_s=3600.0),
        ),
    )


def restricted(config: ForecasterConfig, names: Collection[str]) -> ForecasterConfig:
    """`config` without the inputs that are not in `names`."""
    groups = (tuple(name for name in group if name in names) for group in config.groups)
    return msgspec.structs.replace(
        config,
        inputs=tuple(signal for signal in config.inputs if signal.name in names),
        signals=tuple(name for name in config.signals if name in names),
        groups=tuple(group for group in groups if len(group) > 1),
        witnesses=tuple(w for w in config.witnesses if w.name in names and w.of in names),
    )


class Column(NamedTuple):
    """What a column of recordings holds: its smallest and largest value, and the most digits after a point."""

    low: float
    high: float
    decimals: int


def config_for(columns: Mapping[str, Column], steps: int) -> ForecasterConfig:
    """The forecaster for recordings with these columns, the longest `steps` long.

    Vital signs are forecast as such. Where none of the default forecaster's is there, all columns are forecast; what is
    no vital sign is plausible within its range and as much again to either side, and as precise as it is written, at
    least to tenths, at most to six significant digits. Context and horizons shrink with the recordings.
    """
    config = vital_signs()
    if set(config.signals) & set(columns):
        config = restricted(config, columns)
    else:
        signals = tuple(VITALS_BY_NAME.get(name) or _signal_of(name, columns[name]) for name in sorted(columns))
        config = ForecasterConfig(inputs=signals, signals=tuple(signal.name for signal in signals))
    kept = [
        horizon for horizon, ahead in zip(config.horizons_s, config.horizon_steps, strict=True) if ahead <= steps / 3
    ]
    return msgspec.structs.replace(
        config,
        horizons_s=tuple(kept) or config.horizons_s[:1],
        context_steps=max(min(config.context_steps, steps // 5), 1),
    )


def _signal_of(name: str, column: Column) -> Signal:
    if not is_name(name):
        raise RecordingError(f"column {name!r}: {NAME_RULE}")
    vital = name.strip().lower()
    if vital in VITALS_BY_NAME:  # as a signal of its own it would have no limits, so no alerts
        raise RecordingError(f"column {name!r}: call it {vital!r} if it is that vital sign, else something else")
    margin = (column.high - column.low) or 1.0
    if not math.isfinite(2.0 * margin):
        raise RecordingError(f"column {name!r}: values too far from each other to be told apart")
    largest = max(abs(column.low), abs(column.high)) + margin
    coarsest = 10.0 ** (math.ceil(math.log10(largest)) - SIGNIFICANT_DIGITS)
    precision = max(10.0 ** -max(column.decimals, 1), coarsest)
    if column.decimals == SIGNIFICANT_DIGITS and column.low < column.high < column.low + 10.0 * precision:
        raise RecordingError(f"column {name!r}: values too near to each other to be told apart; take a smaller unit")
    return Signal(name=name, unit="1", low=column.low - margin, high=column.high + margin, precision=precision)
