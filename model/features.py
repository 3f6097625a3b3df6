"""The recursive statistics of a signal: what is computed, not learned. One step costs the same however long the stay.

Tensors are feature-major, (F, V, B): each statistic of each signal is one contiguous row over the batch, so that every
operation below runs over long rows. V forecast signals, B stays, I inputs, W witnesses.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import ForecasterConfig
from model.steps import NEVER_S

# Time constants of the averages, in steps: powers of two from "smooths one spike" to "this patient's usual".
TAUS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
# Averages whose input is clipped to a multiple of the spread: an artefact moves them by at most that. (tau, multiple)
CLIPPED = ((4.0, 0.7), (16.0, 1.0), (64.0, 1.5))
# Past values kept, in steps: enough for a median of nine and for what persists over a few steps.
LAGS = 10
# Spread statistics, each an average of some deviation: (index of its time constant, weight of the population's prior).
SPREADS = (
    (6, 20.0),  # from the average of 16 steps: the scale in which all else is told
    (3, 3.0),  # from the last value, lately
    (4, 5.0),  # from the average of 8 steps
    (7, 20.0),  # from that of 64
    (7, 10.0),  # from the last value, usually
    (3, 3.0),  # square root of that, lately: jumps count less
    (7, 10.0),  # the same, usually
    (5, 3.0),  # share of values that are the last one again
)
SHORT, LONG = 1, 4  # indices into TAUS: the averages that other signals see
OWN_CANDIDATES = len(TAUS) + len(CLIPPED) + 3 + LAGS
DESCRIPTORS = 12
LEVEL_FEATURE = OWN_CANDIDATES  # the first descriptor: how far from usual the last value is
FAR = 100.0  # spreads from usual; more is no news, and float16, in which training keeps features, could not hold all
LIMIT = 8.0  # candidates further off than this many spreads are no nearer the truth for it
STILL = 0.5  # of a precision step: less than that is "unchanged"


class Scaling(NamedTuple):
    """Population statistics of the forecast signals in their units, each float32 (V,), from the training stays.

    centre : usual value, on the signal's precision grid. level : spread of values between and within stays.
    spread : mean absolute deviation of a value from the average of the last 16 steps.
    """

    centre: Tensor
    level: Tensor
    spread: Tensor


class FeatureSet(NamedTuple):
    """What the network sees of one step (or, with B counting stays x steps, of many).

    anchor : (V, B) last value, clinical units. scale : (V, B) the stay's own spread of that signal, same units.
    own : (F, V, B) OWN_CANDIDATES values relative to the anchor in scales, then DESCRIPTORS.
    shared : (G, B) what concerns the stay as a whole.
    """

    anchor: Tensor
    scale: Tensor
    own: Tensor
    shared: Tensor


class Features(nn.Module):
    """`step` turns one step's values and the state's rows into a FeatureSet and the next rows.

    Rows kept in float32: averages, clipped averages, spreads (small increments would stick in float16), steps seen and
    the witnesses' last values. Rows that float16 holds well: the averages' weights, and past values as whole numbers of
    precision steps from the centre (exact up to 2048 of them).
    """

    def __init__(self, config: ForecasterConfig, scaling: Scaling) -> None:
        super().__init__()
        signals = config.forecast_signals
        self.signals = len(signals)
        self.witnesses = len(config.witnesses)
        self.rows_float32 = (len(TAUS) + len(CLIPPED) + len(SPREADS)) * self.signals + 1 + self.witnesses
        self.rows_float16 = (len(TAUS) + LAGS) * self.signals
        self.step_s = float(config.step_s)
        # TorchScript sees attributes, not globals.
        self.averages, self.clipped, self.spreads, self.lags = len(TAUS), len(CLIPPED), len(SPREADS), LAGS
        self.limit, self.far, self.day_s = LIMIT, FAR, NEVER_S

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32).view(-1, 1)

        low, high = column([s.low for s in signals]), column([s.high for s in signals])
        # Ranges wider than float16's exact integers are held a little coarser than the precision.
        quantum = torch.maximum(column([s.precision for s in signals]), (high - low) / 4096.0)
        witness_inputs = [config.input_index(w.name) for w in config.witnesses]
        witness_targets = [config.signals.index(w.of) for w in config.witnesses]
        centre, level, spread = (values.clone().view(-1, 1) for values in scaling)
        rough = (spread * 0.6).sqrt()  # prior of the mean square root of a change
        still = torch.full_like(spread, 0.1)  # prior share of unchanged values
        constants = {
            "forecast_index": torch.tensor([config.input_index(name) for name in config.signals]),
            "witness_index": torch.tensor(witness_inputs, dtype=torch.long),
            "witness_target": torch.tensor(witness_targets, dtype=torch.long),
            "witness_memory_s": column([w.memory_s for w in config.witnesses]),
            "witness_low": column([config.inputs[i].low for i in witness_inputs]),
            "witness_high": column([config.inputs[i].high for i in witness_inputs]),
            "low": low,
            "high": high,
            "quantum": quantum,
            "centre": centre,
            "level": level,
            "spread": spread,
            "unchanged": STILL * column([s.precision for s in signals]),
            "decay": torch.exp(-1.0 / torch.tensor(TAUS)).view(-1, 1, 1),
            # 1.5: a clipped average learns from less than it is told, so it is told louder.
            "clipped_gain": 1.5 * (1.0 - torch.exp(-1.0 / torch.tensor([tau for tau, _ in CLIPPED]))).view(-1, 1, 1),
            "clipped_width": torch.tensor([width for _, width in CLIPPED]).view(-1, 1, 1),
            "spread_tau": torch.tensor([tau for tau, _ in SPREADS]),
            "prior_weight": torch.tensor([weight for _, weight in SPREADS]).view(-1, 1, 1),
            "prior": torch.stack([spread, spread, spread, spread, spread, rough, rough, still]),
        }
        for name, value in constants.items():
            self.register_buffer(name, value)

    forecast_index: Tensor
    witness_index: Tensor
    witness_target: Tensor
    witness_memory_s: Tensor
    witness_low: Tensor
    witness_high: Tensor
    low: Tensor
    high: Tensor
    quantum: Tensor
    centre: Tensor
    level: Tensor
    spread: Tensor
    unchanged: Tensor
    decay: Tensor
    clipped_gain: Tensor
    clipped_width: Tensor
    spread_tau: Tensor
    prior_weight: Tensor
    prior: Tensor

    def initial_rows(self) -> tuple[Tensor, Tensor]:
        """The rows of a stay before its first step: (rows_float32,), (rows_float16,)."""
        centre = self.centre.view(1, -1)
        exact = [
            centre.expand(len(TAUS) + len(CLIPPED), self.signals).reshape(-1),
            self.prior.reshape(-1),
            torch.zeros(1),
            self.centre.index_select(0, self.witness_target).reshape(-1),
        ]
        return torch.cat(exact), torch.zeros(self.rows_float16)

    @torch.jit.export
    def step(
        self, x: Tensor, observed: Tensor, elapsed: Tensor, exact: Tensor, half: Tensor
    ) -> tuple[FeatureSet, Tensor, Tensor]:
        """The next features and rows. x, observed, elapsed: (I, B) as in `Forecaster.step`; exact, half: (.., B)."""
        signals, batch = self.signals, x.shape[1]
        per_signal = self.averages + self.clipped + self.spreads
        statistics = exact[: per_signal * signals].view(per_signal, signals, batch)
        averages, clipped, spreads = torch.split(statistics, [self.averages, self.clipped, self.spreads])
        steps = exact[per_signal * signals : per_signal * signals + 1]
        witness = exact[per_signal * signals + 1 :]
        weights, held = torch.split(half.view(-1, signals, batch), [self.averages, self.lags])
        past = held * self.quantum + self.centre

        seen = observed.index_select(0, self.forecast_index) > 0.5
        mask = seen.float()
        minutes = elapsed.index_select(0, self.forecast_index).clamp(0.0, self.day_s) / self.step_s
        value = torch.minimum(torch.maximum(x.index_select(0, self.forecast_index), self.low), self.high)
        before = past[0]
        anchor = torch.where(seen, value, before)
        first = seen & (weights[-1] <= 0.0)
        past = torch.where(first, anchor, past)

        # Spread: each deviation is measured against what was known before this value.
        change = (anchor - before).abs()
        deviation = (anchor - averages).abs()
        root = change.sqrt()
        news = torch.stack(
            [deviation[3], change, deviation[2], deviation[5], change, root, root, (change < self.unchanged).float()]
        )
        news = torch.where(first, self.prior, news)
        weights = weights * self.decay + mask
        gain = mask / weights.clamp(min=1.0)
        spread_gain = gain.index_select(0, self.spread_tau)
        spreads = spreads + spread_gain * (news - spreads)
        spread_weight = weights.index_select(0, self.spread_tau)
        # Shrunk to the population until the stay has shown its own.
        shrunk = (spreads * spread_weight + self.prior * self.prior_weight) / (spread_weight + self.prior_weight)
        scale = shrunk[0]

        averages = averages + gain * (anchor - averages)
        width = self.clipped_width * scale
        clipped = torch.where(first, anchor, clipped)
        innovation = torch.minimum(torch.maximum(anchor - clipped, -width), width)
        clipped = clipped + mask * self.clipped_gain * innovation

        recent = torch.cat([anchor.unsqueeze(0), past])
        thirds = median_of_three(recent[0:3], recent[3:6], recent[6:9])  # of elements 0, 3, 6; 1, 4, 7; 2, 5, 8
        middle = median_of_three(recent[0], recent[1], recent[2]).unsqueeze(0)
        five = median_of_five(recent[0], recent[1], recent[2], recent[3], recent[4]).unsqueeze(0)
        nine = median_of_three(thirds[0], thirds[1], thirds[2]).unsqueeze(0)
        candidates = (torch.cat([averages, clipped, middle, five, nine, past]) - anchor) / scale

        ratios = torch.cat([shrunk[1:5], shrunk[5:7] * shrunk[5:7]]) / scale + 0.02
        logs = torch.cat([(scale / self.spread).unsqueeze(0), ratios]).log()
        described = torch.stack(
            [
                ((anchor - self.centre) / self.level).clamp(-self.far, self.far),
                mask,
                torch.log1p(minutes.clamp(max=1000.0)) / 3.0,
                shrunk[7],
                weights[4] / 32.0,
            ]
        )
        own = torch.cat([candidates.clamp(-self.limit, self.limit), described, logs])

        steps = steps + 1.0
        shared, witness = self.witnessed(x, observed, elapsed, anchor, witness)
        shared = torch.cat([shared, torch.log1p(steps) / 6.0])
        exact = torch.cat([averages.flatten(0, 1), clipped.flatten(0, 1), spreads.flatten(0, 1), steps, witness])
        held = (recent[: self.lags] - self.centre) / self.quantum
        half = torch.cat([weights.flatten(0, 1), held.round().flatten(0, 1)])
        return FeatureSet(anchor, scale, own, shared), exact, half

    @torch.jit.export
    def rows_unobserved(self, exact: Tensor, half: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The rows before each of `steps` steps without readings, and after the last: (.., B) -> (.., steps + 1, B).

        Only the averages' weights fade, rounded as they are stored; past values move on, and the steps are counted.
        """
        number = torch.arange(steps + 1, device=exact.device)
        counter = (self.averages + self.clipped + self.spreads) * self.signals
        exact = exact.unsqueeze(1).repeat(1, steps + 1, 1)
        exact[counter] += number.unsqueeze(-1)
        weights, held = torch.split(half.view(-1, self.signals, half.shape[-1]), [self.averages, self.lags])
        fading = [weights]
        for _ in range(steps):
            fading.append((fading[-1] * self.decay).half().float())
        lags = (torch.arange(self.lags, device=exact.device).unsqueeze(-1) - number).clamp(min=0)
        moved = held[lags].transpose(1, 2)  # (lags, V, steps + 1, B)
        return exact, torch.cat([torch.stack(fading, 2), moved]).flatten(0, 1)

    def witnessed(
        self, x: Tensor, observed: Tensor, elapsed: Tensor, anchor: Tensor, witness: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the witnesses say against their signals, fading with age: (2 W, B); their last values (W, B)."""
        value = torch.minimum(torch.maximum(x.index_select(0, self.witness_index), self.witness_low), self.witness_high)
        witness = torch.where(observed.index_select(0, self.witness_index) > 0.5, value, witness)
        trust = torch.exp(-elapsed.index_select(0, self.witness_index).clamp(0.0, self.day_s) / self.witness_memory_s)
        level = self.level.index_select(0, self.witness_target)
        apart = 2.0 * (witness - anchor.index_select(0, self.witness_target)) / level
        return torch.cat([apart.clamp(-4.0, 4.0) * trust, trust]), witness


def median_of_three(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The median, by four comparisons: torch.sort costs more than the whole step."""
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def median_of_five(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
    """The median: the smallest and largest of the first four cannot be it."""
    low = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    return median_of_three(low, high, e)
