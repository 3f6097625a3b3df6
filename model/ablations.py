"""What each part of the recipe brings: the recipe with one part changed, trained and scored alike, paired by fold.

python -m model.ablations RECORDINGS --runs 3
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from model.arrays import Floats32
from model.augment import Copy, copies, degraded, longest_first
from model.config import ForecasterConfig, vital_signs
from model.dataset import Stay, folds, read_stay
from model.features import Features, FeatureSet
from model.network import Network
from model.predictor import one_thread
from model.scores import Evaluation
from model.train import CHUNK, Lesson, Memory, Sample, learn, prepare, samples_of
from schemas.recordings import find_recordings

UPDATES = 1000
HORIZONS_S = (60, 300, 900, 3600)  # as in the other tables
FAULT_EVERY = 2880  # steps of a signal in a degraded copy, on average: one fault in two days
FAULT_SPREADS = (1.0, 4.0)  # size of a fault, in the stay's own standard deviations
FAULT_STEPS = (1, 3)  # how long it lasts, the last one excluded


class Variant(NamedTuple):
    """The recipe with something changed.

    prepare, learn : as in `model.train`. cell : what stands in for the network's LSTM, made from the network.
    sizes : of the configuration. updates, stays : the share of them that is used.
    """

    label: str
    prepare: Callable[[Sequence[Stay], ForecasterConfig, np.random.Generator], Lesson] = prepare
    learn: Callable[..., Network] = learn
    cell: Callable[[Network], nn.Module] | None = None
    sizes: Mapping[str, float] = {}
    updates: float = 1.0
    stays: float = 1.0


class Gru(nn.Module):
    """A gated recurrent unit behind the LSTM's interface; of the memory (h, c) it uses h."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.inner = nn.GRU(network.inputs, network.hidden, bias=False)

    def forward(self, sequence: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """sequence : (T, N, Z). Returns : (T, N, U) and the memory after the last step."""
        out, h = self.inner(sequence, memory[0])
        return out, (h, memory[1])


class LinearRecurrence(nn.Module):
    """A diagonal linear recurrence of complex units with a gated output (Orvieto et al. 2023, "LRU").

    Its memory, real and imaginary parts, is as large as the LSTM's (h, c).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        units, inputs = network.hidden, network.inputs
        radius, angle = torch.rand(units) * 0.6 + 0.399, torch.rand(units) * torch.pi / 10
        self.log_decay = nn.Parameter(torch.log(-torch.log(radius)))
        self.log_angle = nn.Parameter(torch.log(angle + 1e-3))
        self.into = nn.Linear(inputs, 2 * units, bias=False)
        self.out = nn.Linear(2 * units, units, bias=False)
        self.past = nn.Linear(inputs, units, bias=False)
        self.gate = nn.Linear(inputs, units, bias=False)

    def forward(self, sequence: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """sequence : (T, N, Z). Returns : (T, N, U) and the memory after the last step."""
        h, states = torch.complex(memory[0][0], memory[1][0]), []
        for part in self.into(sequence).split(CHUNK):
            found = self._states(torch.complex(*part.chunk(2, dim=-1)), h)
            h = found[-1]
            states.append(found)
        state = torch.cat(states)
        seen = self.out(torch.cat([state.real, state.imag], -1)) + self.past(sequence)
        return seen * torch.sigmoid(self.gate(sequence)), (h.real.unsqueeze(0), h.imag.unsqueeze(0))

    def _states(self, driven: Tensor, h: Tensor) -> Tensor:
        """h(t) = r h(t - 1) + sqrt(1 - |r|^2) x(t), all steps at once: (T, N, U) from driven (T, N, U) and h (N, U)."""
        rate = torch.complex(-torch.exp(self.log_decay), torch.exp(self.log_angle))  # r = exp(rate)
        gain = torch.sqrt(1.0 - torch.exp(2.0 * rate.real))
        t = torch.arange(len(driven))
        age = t[:, None] - t
        kernel = torch.exp(rate * age.clamp(min=0)[..., None]) * (age >= 0)[..., None]
        return torch.einsum("tsu,snu->tnu", kernel, gain * driven) + torch.exp(rate * (t[:, None, None] + 1)) * h


class Mixing(nn.Module):
    """The LSTM, and a layer through which a signal sees what it says of the other signals."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.inner, self.signals = network.cell, network.signals
        self.mix = nn.Linear(network.signals * network.hidden, network.signals * network.hidden, bias=False)
        nn.init.zeros_(self.mix.weight)

    def forward(self, sequence: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """sequence : (T, V B, Z). Returns : (T, V B, U) and the memory after the last step."""
        out, memory = self.inner(sequence, memory)
        by_stay = out.view(len(out), self.signals, -1, out.shape[-1]).permute(0, 2, 1, 3)
        mixed = self.mix(by_stay.flatten(2)).view_as(by_stay).permute(0, 2, 1, 3)
        return out + mixed.reshape(out.shape), memory


def faulty(stay: Stay, config: ForecasterConfig, random: np.random.Generator) -> Copy:
    """A degraded copy in which, now and then, a signal is seen far from where it is; the truth stays."""
    seen, whole = degraded(stay, config, random)
    x = seen.x.copy()
    for column in range(x.shape[1]):
        spread = stay.x[stay.observed[:, column], column].std() if stay.observed[:, column].any() else 0.0
        for start in np.flatnonzero(random.random(seen.length) < 1.0 / FAULT_EVERY):
            size = spread * random.uniform(*FAULT_SPREADS) * random.choice([-1.0, 1.0])
            x[start : start + int(random.integers(*FAULT_STEPS)), column] += size
    low, high = ([getattr(signal, end) for signal in config.inputs] for end in ("low", "high"))
    return Copy(seen._replace(x=np.where(seen.observed, np.clip(x, low, high), 0.0).astype(np.float32)), whole)


VARIANTS = (
    Variant("the recipe"),
    Variant("a GRU of 38 units", cell=Gru, sizes={"hidden": 38}),
    Variant("a linear recurrent unit", cell=LinearRecurrence),
    Variant("signals mixed behind the LSTM", cell=Mixing),
    Variant("64 units instead of 32", sizes={"hidden": 64, "direct": 64}),
    Variant("no dropout", sizes={"dropout": 0.0}),
    Variant("usual levels not moved", learn=partial(learn, level_jitter=0.0)),
    Variant("the last weights, not their average", learn=partial(learn, averaging=0.0)),
    Variant("half of the updates", updates=0.5),
    Variant("half of the stays", stays=0.5),
    Variant("not backwards, not faster", prepare=partial(prepare, rearranged=False)),
    Variant("no degraded copies", prepare=partial(prepare, degraded_copies=0)),
    Variant("in them: no sensor off", prepare=partial(prepare, degrade=partial(degraded, off_every=np.inf))),
    Variant("in them: no jitter in time", prepare=partial(prepare, degrade=partial(degraded, jitter_share=0.0))),
    Variant("in them: rare spikes", prepare=partial(prepare, degrade=faulty)),
)


class Outcome(NamedTuple):
    """Change of the error against persistence, per cent, the mean of the signals, at each of HORIZONS_S."""

    clean: Floats32
    degraded: Floats32


def ablate(
    training: Sequence[Stay],
    unseen: Sequence[Stay],
    config: ForecasterConfig,
    variants: Sequence[Variant] = VARIANTS,
    *,
    seed: int = 0,
    updates: int = UPDATES,
) -> Iterator[tuple[Variant, Outcome]]:
    """Train each variant on `training` with the same seed and score it on `unseen`, whole and in degraded copies."""
    whole = [Copy(stay) for stay in unseen]
    worn = list(copies(unseen, config, np.random.default_rng(seed)))
    shown = [longest_first(part) for part in (whole, worn)]
    data: object = None
    for variant in variants:
        if data != (variant.prepare, variant.stays):  # neighbours in the table share what takes long to prepare
            data = variant.prepare, variant.stays
            used = training[: max(1, round(variant.stays * len(training)))]
            lesson = variant.prepare(used, config, np.random.default_rng(seed))
            features = Features(config, lesson.scaling)
            samples = [samples_of(part, features, config) for part in shown]
        sized = msgspec.structs.replace(config, **variant.sizes)
        torch.manual_seed(seed)
        network = Network(sized, lesson.typical_move)
        if variant.cell:
            network.cell = variant.cell(network)  # type: ignore[assignment]
        random = np.random.default_rng(seed)
        network = variant.learn(network, lesson, sized, random, updates=round(variant.updates * updates))
        forecasts = ([forecast(network, features, sample) for sample in part] for part in samples)
        yield variant, Outcome(*map(partial(gains, config), shown, forecasts))


def gains(config: ForecasterConfig, shown: Sequence[Copy], forecasts: Sequence[Floats32]) -> Floats32:
    """Change of the error against persistence, per cent, the mean of the signals, at each of HORIZONS_S."""
    found = Evaluation(config, shown, forecasts).scores()
    means = [np.mean([score.gain for score in found if score.horizon_s == horizon_s]) for horizon_s in HORIZONS_S]
    return np.array(means, np.float32)


@torch.inference_mode()
def forecast(network: Network, features: Features, sample: Sample) -> Floats32:
    """Quantiles at every step of a stay, (T, V, H, Q), from its whole sequence."""
    blank = torch.zeros(1, network.signals, network.hidden)
    rows = FeatureSet(sample.anchor, sample.scale, sample.own.float(), sample.shared.float())
    moves, _ = network(rows, (blank, blank), 0, 1)  # (Q, H, V, T, 1)
    quantiles = torch.minimum(torch.maximum(sample.anchor + moves[..., 0], features.low), features.high)
    return np.asarray(quantiles.permute(3, 2, 1, 0).numpy())


def table_of(runs: Sequence[Mapping[str, Outcome]]) -> Table:
    """The first variant's mean change; of the others the difference to it in points: mean and range of the runs."""
    table = Table(title=f"{len(runs)} runs; difference in points, mean (lowest to highest); positive is worse")
    table.add_column("trained")
    for which in Outcome._fields:
        for horizon_s in HORIZONS_S:
            table.add_column(f"{which} {horizon_s // 60} min", justify="right")
        table.add_column(f"{which} mean", justify="right")
    first = next(iter(runs[0]))
    for label in runs[0]:
        cells: list[str] = []
        for which in Outcome._fields:
            rows = np.array([getattr(run[label], which) for run in runs])
            if label != first:
                rows = rows - np.array([getattr(run[first], which) for run in runs])
            means = rows.mean(axis=1)
            cells += [f"{value:+.2f}" for value in rows.mean(axis=0)]
            cells.append(f"{means.mean():+.2f} ({means.min():+.2f} to {means.max():+.2f})")
        table.add_row(label, *cells)
    return table


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="the recipe with one part changed at a time")
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=3, help="run i has seed i and is scored on fold i of five")
    parser.add_argument("--updates", type=int, default=UPDATES)
    arguments = parser.parse_args()
    config, recordings = vital_signs(), find_recordings(*arguments.recordings)
    stays = {path: read_stay(path, config) for path in recordings}
    console, runs = Console(width=200), []
    for seed, part in enumerate(folds(recordings, 5, 0)[: arguments.runs]):
        training, unseen = [stays[path] for path in recordings if path not in part], [stays[path] for path in part]
        run = {}
        with one_thread():
            for variant, outcome in ablate(training, unseen, config, seed=seed, updates=arguments.updates):
                run[variant.label] = outcome
                means = f"{outcome.clean.mean():+.2f} clean, {outcome.degraded.mean():+.2f} degraded"
                console.print(f"run {seed}, {variant.label}: {means}")
        runs.append(run)
    console.print(table_of(runs))


if __name__ == "__main__":
    main()
