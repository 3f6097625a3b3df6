"""The manifest of a model artifact: what the network takes and gives, how it was made, how well it does. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from schemas.signals import NAME_RULE, Signal, is_name, known_signals

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.pt"
DEFAULT_ARTIFACT = Path(__file__).parent / "artifacts"


class ArtifactError(Exception):
    """An artifact that is missing, altered or of another kind; the message is one line for the operator."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out accuracy of one signal at one horizon. Errors in the signal's unit, coverages as fractions.

    crps : continuous ranked probability score by quantiles. served_50 : coverage of the 50 % band as served, where ties
    count half. Artifacts made before these were computed have none.
    """

    signal: str
    horizon_s: int
    count: int
    mae: float
    persistence_mae: float
    pinball: float
    coverage_50: float
    coverage_90: float
    width_90: float
    width_50: float | None = None
    crps: float | None = None
    served_50: float | None = None

    @property
    def gain(self) -> float:
        """Change of the mean absolute error against persistence, per cent; negative is better."""
        return 100.0 * (self.mae / self.persistence_mae - 1.0) if self.persistence_mae > 0.0 else 0.0


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """How the weights came to be: enough to make them again."""

    data: str
    stays: tuple[str, ...]
    held_out: tuple[str, ...]
    seed: int
    updates: int
    revision: str
    trained_at: str


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is forecast from what: the same for a configuration and the artifacts that are trained with it.

    inputs : signals in the order of the columns of x. signals : names of those forecast, in the order of V.
    groups : forecast signals of one sensor, which come off together.
    """

    inputs: tuple[Signal, ...]
    signals: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] = ()
    step_s: int
    horizons_s: tuple[int, ...]
    quantile_levels: tuple[float, ...]
    context_steps: int

    @property
    def forecast_signals(self) -> tuple[Signal, ...]:
        """The signals forecast, in the order of V."""
        by_name = {signal.name: signal for signal in self.inputs}
        return tuple(by_name[name] for name in self.signals)

    @property
    def task(self) -> dict[str, Any]:
        """The fields of a task by name, without those that a subclass adds."""
        return {name: getattr(self, name) for name in Task.__struct_fields__}


class Manifest(Task, frozen=True, kw_only=True):
    """What `manifest.json` says about the `model.pt` beside it.

    state_float32, state_float16 : the state is float32 (B, S), S their sum; the first `state_float32` columns keep that
        precision where the state is stored, the others are stored as float16.
    """

    name: str
    version: str
    sha256: str
    state_float32: int
    state_float16: int
    parameters: int
    training: Training
    scores: tuple[Score, ...] = ()

    @property
    def state_size(self) -> int:
        """Columns of the state tensor, S."""
        return self.state_float32 + self.state_float16


def read_manifest(directory: Path) -> Manifest:
    """The manifest in `directory`.

    Raises: ArtifactError if it is missing, unreadable or contradicts itself.
    """
    path = directory / MANIFEST_FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise ArtifactError(f"{path}: no readable manifest ({type(error).__name__})") from error
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{path}: not a model manifest ({error})") from error
    try:
        check_task(manifest)
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error
    return manifest


def check_task(task: Task) -> None:
    """Raises: ValueError if no worker can serve `task`."""
    names = [signal.name for signal in task.inputs]
    if len(set(names)) != len(names):
        raise ValueError("an input is named twice")
    if not all(map(is_name, names)):
        raise ValueError(NAME_RULE)
    known_signals(task.inputs)
    if odd := [signal.name for signal in task.inputs if not _can_be_held(signal)]:
        raise ValueError(f"{odd[0]}: its range must rise, less than 2^31 steps of its precision from 0")
    if not task.signals or not set(task.signals) <= set(names):
        raise ValueError("the forecast signals are not among the inputs")
    levels, horizons_s, step_s = task.quantile_levels, task.horizons_s, task.step_s
    if len(levels) < 5 or list(levels) != sorted(set(levels)) or (levels[0], levels[-1]) != (0.05, 0.95):
        raise ValueError("quantile levels must rise from 0.05 to 0.95")
    middle = len(levels) // 2  # what is scored live are the median and the bands of 50 and 90 %
    if levels[middle - 1 : middle + 2] != (0.25, 0.5, 0.75):
        raise ValueError("quantile levels must have 0.25, 0.5 and 0.75 in their middle")
    if any(abs(low + high - 1) > 1e-9 for low, high in zip(levels, reversed(levels), strict=True)):
        raise ValueError("quantile levels must be those of bands: as many above the median, and as far from it")
    if min(step_s, task.context_steps) <= 0:
        raise ValueError("step and context must be positive")
    # A reading is judged by what was forecast for its step one step before.
    if horizons_s[:1] != (step_s,) or list(horizons_s) != sorted({h for h in horizons_s if h % step_s == 0}):
        raise ValueError("horizons must be whole steps and rise, the first of them one step")


def _can_be_held(signal: Signal) -> bool:
    """Whether a worker can hold its values: whole steps of the precision, in 32 bits."""
    largest = max(abs(signal.low), abs(signal.high))
    return signal.low < signal.high and signal.precision > 0 and largest / signal.precision < 2**31


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest` as `manifest.json`."""
    write_json(directory / MANIFEST_FILE, manifest)


def write_json(path: Path, record: msgspec.Struct) -> None:
    """Write `record` to `path`, indented so that a change can be reviewed."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
