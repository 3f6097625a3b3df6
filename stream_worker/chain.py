"""The model's state of each stay, moved along its steps: closed ones once, open ones provisionally."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.arrays import Bools, Floats32, Ints
from model.predictor import Predictor
from model.steps import NEVER_S
from stream_worker.calibration import Calibrator, widened
from stream_worker.scoring import Tally
from stream_worker.stays import OPEN_BINS, Layout, Slots, Stays
from stream_worker.times import NEVER, SECOND_US
from stream_worker.window import step_values

# Rows of one call of the network: its inputs still fit the processor's cache (measured: 512 to 1,024 are fastest).
MAX_BATCH: Final = 1024


class StepInputs:
    """What the model is told of one step of each stay: x, observed, elapsed, float32 (n, I), and its times."""

    def __init__(self, stays: Stays, slots: Slots, step: Ints) -> None:
        layout, head, body = stays.layout, stays.head, stays.body
        bins = head["bins"][slots, step % OPEN_BINS]
        exists = bins["step"] == step
        quanta, has_value = step_values(bins)
        self.quanta = quanta[:, layout.inputs]
        self.observed: Bools = has_value[:, layout.inputs] & exists[:, None]
        self.is_empty: Bools = ~self.observed.any(axis=1)
        before = body["at"][slots]
        # If the step before is still open, its bin knows later times than the closed steps do.
        has_open_before = step == head["closed_step"][slots] + 2
        if has_open_before.any():
            older = head["bins"][slots, (step - 1) % OPEN_BINS]
            is_there = has_open_before & (older["step"] == step - 1)
            seen = is_there[:, None] & (older["count"][:, layout.inputs] > 0)
            before = np.where(seen, older["at"][:, layout.inputs], before)
        # A step without readings, which is never the newest, is as far from the one before as steps are apart.
        self.as_of: Ints = np.where(exists, bins["as_of"], body["as_of"][slots] + layout.step_us)
        self.at: Ints = np.where(self.observed, bins["at"][:, layout.inputs], before)
        precision = layout.precision[layout.inputs]
        self.x = np.where(self.observed, self.quanta * precision, 0.0).astype(np.float32)
        self.elapsed: Floats32 = _elapsed(self.as_of, self.at).astype(np.float32)


def _batches(slots: Slots) -> Iterator[Slots]:
    return (slots[first : first + MAX_BATCH] for first in range(0, len(slots), MAX_BATCH))


def _elapsed(as_of: Ints, at: Ints) -> NDArray[np.float64]:
    """Seconds since each input's last value, (n, I), as of `as_of` (n,)."""
    limit_us = int(NEVER_S * SECOND_US)
    never_as_long_ago = np.where(at == NEVER, as_of[:, None] - limit_us, at)
    return np.clip(as_of[:, None] - never_as_long_ago, 0, limit_us) / SECOND_US


class Call(NamedTuple):
    """One call of the model."""

    stays: int
    seconds: float


class Chain:
    """Runs the model for stays, and keeps what it computed for as long as it holds."""

    def __init__(self, stays: Stays, predictor: Predictor, *, is_adaptive: bool) -> None:
        self._stays = stays
        self._predictor = predictor
        self._calibrator = Calibrator(predictor.manifest.quantile_levels) if is_adaptive else None
        self.tally = Tally.of(predictor.manifest)
        self._calls: list[Call] = []

    def close_until(self, slots: Slots, last_closed: Ints) -> Bools:
        """Close all steps up to `last_closed` (n,); returns of which stays (n,) at least one step closed.

        Readings are in the oldest OPEN_BINS steps only; a gap has left the ones after them empty.
        """
        head = self._stays.head
        is_new = head["closed_step"][slots] == NEVER
        head["closed_step"][slots[is_new]] = last_closed[is_new]
        self._stays.body["step"][slots[is_new]] = last_closed[is_new]
        self._stays.body_changed[slots[is_new]] = True
        closes: Bools = np.asarray(head["closed_step"][slots] < last_closed)
        self._stays.body_changed[slots[closes]] = self._stays.scoring_changed[slots[closes]] = True
        behind = closes
        for _ in range(OPEN_BINS):
            if not behind.any():
                return closes
            self._close_one(slots[behind])
            behind = head["closed_step"][slots] < last_closed
        if behind.any():
            self._close_empty(slots[behind], last_closed[behind])
        return closes

    def _close_one(self, slots: Slots) -> None:
        """Close the oldest open step of each stay, usually by taking over its last provisional state."""
        stays = self._stays
        layout, head, body = stays.layout, stays.head, stays.body
        step = head["closed_step"][slots] + 1
        inputs = StepInputs(stays, slots, step)
        missing = ~stays.open_holds[slots, 0]
        if missing.any():
            self._compute_older(slots[missing], inputs, np.flatnonzero(missing))
        body["state32"][slots] = stays.open32[slots, 0]
        body["state16"][slots] = stays.open16[slots, 0]
        body["at"][slots] = inputs.at
        started = (body["has_started"][slots] > 0) | ~inputs.is_empty
        body["has_started"][slots] = started
        body["as_of"][slots] = np.where(started, inputs.as_of, NEVER)
        window_row = step % layout.manifest.context_steps
        body["window"][slots, window_row] = np.where(inputs.observed, inputs.quanta, layout.missing)
        head["closed_step"][slots] = body["step"][slots] = step
        self._score(slots, step, inputs)
        stays.open32[slots, 0] = stays.open32[slots, 1]
        stays.open16[slots, 0] = stays.open16[slots, 1]
        stays.open_holds[slots, 0] = stays.open_holds[slots, 1]
        stays.open_holds[slots, 1] = False

    def _close_empty(self, slots: Slots, last_closed: Ints) -> None:
        """Close the steps up to `last_closed` (n,), of which none has a reading, without a look at each."""
        stays = self._stays
        layout, head, body = stays.layout, stays.head, stays.body
        steps = last_closed - head["closed_step"][slots]
        age = np.arange(layout.manifest.context_steps)
        row, emptied = np.nonzero(age < steps[:, None])
        body["window"][slots[row], (last_closed[row] - age[emptied]) % layout.manifest.context_steps] = layout.missing
        started = np.flatnonzero(body["has_started"][slots] > 0)
        # The fewest steps for all, then the rest for those who have more.
        done = 0
        for upto in np.unique(steps[started]).tolist():
            further = slots[started[steps[started] >= upto]]
            for part in _batches(further):
                self._run_empty(part, upto - done)
            done = upto
        head["closed_step"][slots] = body["step"][slots] = last_closed

    def _run_empty(self, slots: Slots, steps: int) -> None:
        """Move the closed state of `slots` along by `steps` without readings."""
        body, layout = self._stays.body, self._stays.layout
        elapsed = torch.from_numpy(_elapsed(body["as_of"][slots], body["at"][slots]))
        state = self._state(body["state32"][slots], body["state16"][slots])
        with self._timed(len(slots)):
            state = self._predictor.step_unobserved(elapsed, state, steps)
        self._store(slots, state)
        body["as_of"][slots] += steps * layout.step_us

    def _score(self, slots: Slots, step: Ints, inputs: StepInputs) -> None:
        """Score the forecasts that are due in the step that closes, and let their bands learn from it."""
        stays, layout = self._stays, self._stays.layout
        row, place = np.nonzero(stays.scoring["due"][slots] == step[:, None])
        if not len(row):
            return
        truth = inputs.quanta[row][:, layout.forecast_inputs]
        last = stays.scoring["last"][slots[row], place].astype(np.int64)
        counts = inputs.observed[row][:, layout.forecast_inputs] & (last != layout.missing)
        which, signal = np.nonzero(counts)
        scored, horizon = slots[row[which]], layout.grid.horizon[place[which]]
        quantiles = stays.scoring["quantiles"][scored, place[which], signal].astype(np.int64)
        precision = layout.precision[layout.forecast][signal]
        covered = self.tally.add(signal, horizon, truth[which, signal], last[which, signal], quantiles, precision)
        if self._calibrator is not None:
            cells = scored, signal, horizon  # each at most once: a stay has one forecast of a horizon due in a step
            stays.scoring["width"][cells] = self._calibrator.moved(stays.scoring["width"][cells], covered)

    def await_truth(self, slots: Slots, step: Ints, quantiles: Ints, last: Ints, counts: Bools) -> None:
        """Keep forecasts issued in `step` (n,) until they are due, where the grid says so.

        quantiles : (n, V, H, Q); last : (n, V), both in quanta. counts : (n, V) whether the signal was observed now;
        it must have been in half of its window too, the rule by which evaluation counts an origin.
        """
        stays, layout = self._stays, self._stays.layout
        window = stays.body["window"][slots][:, :, layout.forecast_inputs]
        counts = counts & ((window != layout.missing).sum(axis=1) >= layout.manifest.context_steps // 2)
        has_any: Bools = np.asarray(counts.any(axis=1))
        row, place = np.nonzero(layout.grid.places_for(step) & has_any[:, None])
        kept = slots[row]
        stays.scoring["due"][kept, place] = step[row] + layout.grid.steps[place]
        stays.scoring["last"][kept, place] = np.where(counts[row], last[row], layout.missing)
        stays.scoring["quantiles"][kept, place] = quantiles[row, :, layout.grid.horizon[place]]
        stays.scoring_changed[kept] = True

    def doubt(self, slots: Slots, step: Ints, doubted: Bools) -> None:
        """Score no forecast by the value of a signal in `step` (n,) where it is `doubted` (n, V)."""
        scoring, missing = self._stays.scoring, self._stays.layout.missing
        is_due: Bools = np.asarray(scoring["due"][slots] == step[:, None])
        row, place = np.nonzero(is_due & doubted.any(axis=1, keepdims=True))
        last = scoring["last"][slots[row], place]
        scoring["last"][slots[row], place] = np.where(doubted[row], missing, last)
        self._stays.scoring_changed[slots[row]] = True

    def take_tally(self) -> Tally:
        """What was scored since the last call."""
        taken, self.tally = self.tally, Tally.of(self._predictor.manifest)
        return taken

    def take_calls(self) -> list[Call]:
        """The model's calls since the last call of this."""
        taken, self._calls = self._calls, []
        return taken

    def provisional(self, slots: Slots) -> Floats32:
        """Quantiles (n, V, H, Q) as of each stay's newest reading, through its open steps."""
        return np.concatenate([self._provisional(part) for part in _batches(slots)])

    def _provisional(self, slots: Slots) -> Floats32:
        stays = self._stays
        head = stays.head
        newest_step = head["newest"][slots] // stays.layout.step_us
        has_two_open = newest_step - head["closed_step"][slots] == OPEN_BINS
        missing = has_two_open & ~stays.open_holds[slots, 0]
        if missing.any():
            older = StepInputs(stays, slots[missing], newest_step[missing] - 1)
            self._compute_older(slots[missing], older, np.arange(missing.sum()))
        state32, state16 = stays.body["state32"][slots], stays.body["state16"][slots]
        two = np.flatnonzero(has_two_open)
        state32[two], state16[two] = stays.open32[slots[two], 0], stays.open16[slots[two], 0]
        inputs = StepInputs(stays, slots, newest_step)
        moved, state = self._run(inputs, slice(None), self._state(state32, state16))
        # A stay without any value yet is where it began (see `_compute_older`): there is nothing to keep.
        moves = (stays.body["has_started"][slots] > 0) | ~inputs.is_empty
        which = has_two_open.astype(np.intp)
        if moves.all():
            self._keep(slots, which, state)
        else:
            self._keep(slots[moves], which[moves], state[torch.from_numpy(moves)])
        quantiles: Floats32 = moved.numpy()
        return quantiles if self._calibrator is None else widened(quantiles, stays.scoring["width"][slots])

    def _compute_older(self, slots: Slots, inputs: StepInputs, rows: Slots) -> None:
        """The state after the oldest open step of `slots`, whose inputs are `rows` of `inputs`.

        Before a stay's first value its state is the initial one, however long nothing comes.
        """
        body = self._stays.body
        state = self._state(body["state32"][slots], body["state16"][slots])
        moves = (body["has_started"][slots] > 0) | ~inputs.is_empty[rows]
        if moves.any():
            _, moved = self._run(inputs, rows[moves], state[torch.from_numpy(moves)])
            state[torch.from_numpy(moves)] = moved
        self._keep(slots, np.zeros(len(slots), np.intp), state)

    def _run(self, inputs: StepInputs, rows: Slots | slice, state: Tensor) -> tuple[Tensor, Tensor]:
        x, observed, elapsed = (torch.from_numpy(a[rows]) for a in (inputs.x, inputs.observed, inputs.elapsed))
        with self._timed(len(x)):
            return self._predictor.step(x, observed, elapsed, state)

    @contextmanager
    def _timed(self, stays: int) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._calls.append(Call(stays, time.perf_counter() - started))

    def _state(self, state32: Floats32, state16: NDArray[np.float16]) -> Tensor:
        """(n, S), each value of all stays side by side in memory: the network would turn it round otherwise."""
        split = state32.shape[1]
        turned = torch.empty(split + state16.shape[1], len(state32))
        turned[:split] = torch.from_numpy(state32).t()
        turned[split:] = torch.from_numpy(state16).t()
        return turned.t()

    def _keep(self, slots: Slots, which: Slots, state: Tensor) -> None:
        """Cache `state` as that after the older (0) or the newest (1) of two open steps."""
        stays, split = self._stays, self._stays.layout.manifest.state_float32
        stays.open32[slots, which] = state[:, :split].numpy()
        stays.open16[slots, which] = state[:, split:].half().numpy()
        stays.open_holds[slots, which] = True

    def _store(self, slots: Slots, state: Tensor) -> None:
        """Take `state` as the closed one."""
        body, split = self._stays.body, self._stays.layout.manifest.state_float32
        body["state32"][slots] = state[:, :split].numpy()
        body["state16"][slots] = state[:, split:].half().numpy()

    def prime_outdated(self) -> int:
        """Compute the closed states that another model left again, from their windows; returns how many."""
        stays = self._stays
        slots = np.flatnonzero(stays.is_used & (stays.body["model"] != stays.layout.model_key))
        for part in _batches(slots):
            self._prime(part)
        return len(slots)

    def _prime(self, slots: Slots) -> None:
        stays, layout = self._stays, self._stays.layout
        body, steps = stays.body, layout.manifest.context_steps
        state = self._predictor.initial_state(len(slots))
        last_seen = np.full((len(slots), len(layout.inputs)), np.inf)
        started = np.zeros(len(slots), np.bool_)
        precision = layout.precision[layout.inputs]
        for age in range(steps - 1, -1, -1):
            rows = body["window"][slots, (body["step"][slots] - age) % steps]
            observed = rows != layout.missing
            last_seen = np.where(observed, 0.0, last_seen + layout.manifest.step_s)
            started |= observed.any(axis=1)
            if not started.any():
                continue
            mask = torch.from_numpy(started)
            x = np.where(observed, rows * precision, 0.0).astype(np.float32)[started]
            elapsed = np.minimum(last_seen, NEVER_S).astype(np.float32)[started]
            _, moved = self._predictor.step(
                torch.from_numpy(x), torch.from_numpy(observed[started]), torch.from_numpy(elapsed), state[mask]
            )
            state[mask] = self._predictor.round_state(moved)
        self._store(slots, state)
        body["model"][slots] = layout.model_key
        stays.is_primed[slots] = True
        # Learned on another model's bands, and its forecasts.
        stays.scoring["width"][slots] = 1.0
        stays.scoring["due"][slots] = NEVER


def in_quanta(quantiles: Floats32, layout: Layout) -> Ints:
    """Quantiles (n, V, H, Q) in whole steps of each signal's precision, inside its plausible range."""
    quanta = quantiles / layout.precision[layout.forecast][:, None, None]
    np.rint(quanta, out=quanta)
    np.clip(quanta, layout.lowest[:, None, None], layout.highest[:, None, None], out=quanta)
    return quanta.astype(np.int64)
