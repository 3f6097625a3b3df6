"""Training copies of stays as a live worker may see them: started late, thinned, jittered, with sensors off.

The recordings have one value a minute and few gaps; wards have not. What a copy shows changes, the truth does not (but
of a monitor that shows whole numbers, of which the truth is what it shows).
And stays that never were, but might have been: `backwards` and `faster` ones. There the truth changes too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Bools, Floats32
from model.config import ForecasterConfig
from model.dataset import Stay
from model.steps import NEVER_S

PIECE_STEPS = (240, 2880)  # length of a copy: from four hours to two days at a step a minute
SPACINGS = (1, 2, 3, 5, 10)  # a reading every so many steps ...
SPACING_SHARES = (0.5, 0.2, 0.1, 0.15, 0.05)  # ... in this share of the copies
LOST_SHARES = (0.0, 0.0, 0.1, 0.4)  # of the values, lost one by one
OFF_STEPS = (5, 360)  # a sensor comes off for so long ...
OFF_EVERY = 720  # ... once in so many steps, on average
JITTER_SHARE = 0.5  # of the copies have signals whose last reading is not the step's last
WHOLE_SHARE = 0.2  # of the copies come from a monitor that shows whole numbers: every tenth step of the precision
SPEEDS = (1.1, 1.6)  # of a `faster` stay; a slower one would show values that were never measured, or each twice


class Copy(NamedTuple):
    """What is `seen` of a stay, or of a piece of it. `whole`: what there was before it was degraded, the same steps;
    None: it was not."""

    seen: Stay
    whole: Stay | None = None

    @property
    def truth(self) -> Stay:
        """Where the truth is looked up."""
        return self.seen if self.whole is None else self.whole


def longest_first(shown: Iterable[Copy]) -> list[Copy]:
    """Sorted so that those that end first come last, as `steps_of` needs them."""
    return sorted(shown, key=lambda copy: -copy.seen.length)


Degrade = Callable[[Stay, ForecasterConfig, np.random.Generator], Copy]


def degraded(
    stay: Stay,
    config: ForecasterConfig,
    random: np.random.Generator,
    *,
    jitter_share: float = JITTER_SHARE,
    off_every: float = OFF_EVERY,
) -> Copy:
    """One piece with its values thinned, lost, jittered in time or rounded, and its sensors off now and then."""
    if random.random() < WHOLE_SHARE:
        whole = np.array([10 * signal.precision for signal in config.inputs])
        stay = stay._replace(x=(np.round(stay.x / whole) * whole).astype(np.float32))
    observed = stay.observed & thinned(stay, random) & ~sensors_off(stay, config, random, off_every)
    observed &= random.random(observed.shape) >= random.choice(LOST_SHARES)
    offset = np.zeros(observed.shape, np.float32)
    if random.random() < jitter_share:
        offset = random.uniform(0, config.step_s, observed.shape).astype(np.float32)
        offset[random.random(observed.shape) < 0.5] = 0.0
    return shown(stay, observed, offset, config)


def copies(
    stays: Sequence[Stay], config: ForecasterConfig, random: np.random.Generator, degrade: Degrade = degraded
) -> Iterator[Copy]:
    """Each stay cut into pieces of random length, each piece degraded in its own way."""
    for stay in stays:
        start = 0
        while start < stay.length:
            stop = start + int(random.integers(*PIECE_STEPS))
            piece = Stay(stay.stay_id, stay.x[start:stop], stay.observed[start:stop], stay.elapsed[start:stop])
            start = stop
            if piece.length >= config.context_steps and piece.observed.any():
                yield degrade(piece, config, random)


def backwards(stay: Stay, config: ForecasterConfig) -> Stay:
    """The stay from its end to its beginning: most of what vital signs do, they do in either direction."""
    return _rearranged(stay, np.arange(stay.length)[::-1], config)


def faster(stay: Stay, config: ForecasterConfig, random: np.random.Generator) -> Stay:
    """The stay as if its time ran faster, with some steps left out: as patients differ in how fast they change."""
    return _rearranged(stay, np.arange(0.0, stay.length, random.uniform(*SPEEDS)).astype(np.int64), config)


def _rearranged(stay: Stay, steps: NDArray[np.int64], config: ForecasterConfig) -> Stay:
    """Only those steps of the stay, in that order, each reading at its step's end."""
    observed = stay.observed[steps]
    elapsed = elapsed_of(observed, np.zeros(observed.shape, np.float32), config.step_s)
    return Stay(stay.stay_id, stay.x[steps], observed, elapsed)


def shown(stay: Stay, observed: Bools, offset: Floats32, config: ForecasterConfig) -> Copy:
    """The stay where only `observed` (T, I) is seen, each value `offset` seconds before its step's newest reading."""
    x = np.where(observed, stay.x, 0.0).astype(np.float32)
    return Copy(Stay(stay.stay_id, x, observed, elapsed_of(observed, offset, config.step_s)), stay)


def rare(stay: Stay, spacing: int, config: ForecasterConfig) -> Copy:
    """The stay with readings in every `spacing`-th step only."""
    kept = np.arange(stay.length)[:, None] % spacing == 0
    return shown(stay, stay.observed & kept, np.zeros(stay.observed.shape, np.float32), config)


def irregular(stay: Stay, mean_spacing: float, config: ForecasterConfig, random: np.random.Generator) -> Copy:
    """The stay with each signal's readings at times of their own, `mean_spacing` steps apart in the mean."""
    observed = stay.observed & (random.random(stay.observed.shape) < 1.0 / mean_spacing)
    return shown(stay, observed, random.uniform(0, config.step_s, observed.shape).astype(np.float32), config)


def thinned(stay: Stay, random: np.random.Generator) -> Bools:
    """Steps that have a reading when readings come every so often, (T, 1)."""
    spacing = int(random.choice(SPACINGS, p=SPACING_SHARES))
    first = int(random.integers(spacing))
    return np.asarray((np.arange(stay.length) - first) % spacing == 0)[:, None]


def sensors_off(
    stay: Stay, config: ForecasterConfig, random: np.random.Generator, off_every: float = OFF_EVERY
) -> Bools:
    """Steps at which a sensor is off, (T, I); the signals of a group have one sensor."""
    off = np.zeros(stay.observed.shape, np.bool_)
    grouped = {name for group in config.groups for name in group}
    sensors = [*config.groups, *((signal.name,) for signal in config.inputs if signal.name not in grouped)]
    for sensor in sensors:
        columns = [config.input_index(name) for name in sensor]
        for start in np.flatnonzero(random.random(stay.length) < 1.0 / off_every):
            length = int(np.exp(random.uniform(*np.log(OFF_STEPS))))  # short ones are the most common
            off[start : start + length, columns] = True
    return off


def elapsed_of(observed: Bools, offset: Floats32, step_s: int) -> Floats32:
    """Seconds since each input's last value, (T, I), if a value lies `offset` before its step's newest reading."""
    t = np.arange(len(observed))[:, None]
    last = np.maximum.accumulate(np.where(observed, t, -1), axis=0)
    since = step_s * (t - last) + np.take_along_axis(offset, np.maximum(last, 0), axis=0)
    return np.where(last >= 0, np.minimum(since, NEVER_S), NEVER_S).astype(np.float32)
