"""The forecaster: recursive features, one LSTM cell whose weights all signals share, heads that pick from candidates.

The median forecast is the last value plus a gated sum of where averages, medians and past values lie, so the network
starts as persistence and learns when to leave it. Letters: B stays, V signals, H horizons, Q quantiles, K candidates,
Z cell inputs, U hidden units, N any number of steps of one signal (B when serving, B x T when training).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ForecasterConfig
from model.features import DESCRIPTORS, LAGS, LONG, OWN_CANDIDATES, SHORT, Features, FeatureSet, Scaling

PEER_CANDIDATES = 3  # of each group member: its short and long average and its last change
SILENT_COLUMNS = 2048  # stays x steps without readings that go through the features at once


class Network(nn.Module):
    """What is learned. `forward` runs whole sequences for training; `Forecaster.step` runs one step for serving."""

    def __init__(self, config: ForecasterConfig, typical_move: Tensor) -> None:
        """typical_move : (V, H) mean absolute change over each horizon in units of the features' scale."""
        super().__init__()
        signals, horizons, quantiles = len(config.signals), len(config.horizons_s), len(config.quantile_levels)
        self.signals, self.horizons, self.quantiles, self.hidden = signals, horizons, quantiles, config.hidden
        self.peers = max((len(group) for group in config.groups), default=0)
        self.candidates = OWN_CANDIDATES + PEER_CANDIDATES * self.peers + 1
        # TorchScript sees attributes, not globals.
        self.own_candidates, self.short, self.long, self.lag_one = OWN_CANDIDATES, SHORT, LONG, OWN_CANDIDATES - LAGS
        shared = 2 * len(config.witnesses) + 1
        crossed = 3 * signals if signals > 1 else 0
        self.inputs = OWN_CANDIDATES + DESCRIPTORS + signals + shared + crossed

        # No layer has a bias: the signal's name, as a one-hot input of each, gives every signal its own.
        self.cell = nn.LSTM(self.inputs, config.hidden, bias=False)
        self.direct = nn.Linear(self.inputs, config.direct, bias=False)
        self.gates = nn.Linear(config.hidden + config.direct + signals, horizons * self.candidates, bias=False)
        # Offset of the median, distances between neighbouring quantiles, soft threshold.
        self.shape = nn.Linear(config.hidden + signals, (quantiles + 1) * horizons, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.threshold_share = 1.0  # of the soft threshold in force: training brings it in slowly
        nn.init.zeros_(self.gates.weight)
        nn.init.zeros_(self.shape.weight)
        with torch.no_grad():
            threshold = self.shape.weight.view(quantiles + 1, horizons, -1)[-1]
            threshold[:, -signals:] = -4.0  # hardly any at first

        members = torch.zeros(self.peers, signals, dtype=torch.long)
        known = torch.zeros(self.peers, signals)
        for group in config.groups:
            for row, peer in enumerate(group):
                for name in group:
                    members[row, config.signals.index(name)] = config.signals.index(peer)
                    known[row, config.signals.index(name)] = 1.0
        self.register_buffer("members", members)
        self.register_buffer("known", known.unsqueeze(-1))
        self.register_buffer("which", torch.eye(signals).unsqueeze(-1))
        self.register_buffer("typical_move", typical_move.t().contiguous().unsqueeze(-1))  # (H, V, 1)

    members: Tensor
    known: Tensor
    which: Tensor
    typical_move: Tensor

    @torch.jit.export
    def cell_inputs(self, features: FeatureSet) -> Tensor:
        """(Z, V, N): a signal's own features, its name, the stay, and a glimpse of the other signals."""
        own, steps = features.own, features.anchor.shape[-1]
        parts = [
            own[: self.own_candidates] / 3.0,
            own[self.own_candidates :],
            self.which.expand(self.signals, self.signals, steps),
            features.shared.unsqueeze(1).expand(-1, self.signals, steps),
        ]
        if self.signals > 1:
            others = torch.cat([own[self.short], own[self.long], own[self.own_candidates]]) / 2.0  # (3 V, N)
            parts.append(others.unsqueeze(1).expand(3 * self.signals, self.signals, steps))
        return torch.cat(parts)

    def all_candidates(self, features: FeatureSet) -> Tensor:
        """(K, V, N): where the forecast may move to, relative to the anchor in scales."""
        own = features.own
        parts = [own[: self.own_candidates]]
        glimpse = torch.stack([own[self.short], own[self.long], own[self.lag_one]])
        parts += [glimpse.index_select(1, self.members[peer]) * self.known[peer] for peer in range(self.peers)]
        whole = ((features.anchor.round() - features.anchor) / (features.scale + 1e-4)).clamp(-2.0, 2.0)
        parts.append(whole.unsqueeze(0))  # some monitors report whole numbers
        return torch.cat(parts)

    @torch.jit.export
    def heads(self, hidden: Tensor, inputs: Tensor, features: FeatureSet) -> Tensor:
        """hidden (U, V N), inputs (Z, V N) -> quantiles relative to the anchor, clinical units, (Q, H, V, N)."""
        signals, horizons, steps = self.signals, self.horizons, features.anchor.shape[-1]
        which = self.which.expand(signals, signals, steps).flatten(1)
        direct = functional.silu(torch.mm(self.direct.weight, inputs))
        gates = torch.mm(self.gates.weight, torch.cat([hidden, direct, which]))
        gates = gates.view(horizons, self.candidates, signals, steps)
        shape = torch.mm(self.shape.weight, torch.cat([hidden, which])).view(-1, horizons, signals, steps)

        candidates = self.all_candidates(features)
        chosen = [(gates[horizon] * candidates).sum(0) for horizon in range(horizons)]
        move = shape[0] + torch.stack(chosen)  # (H, V, N)
        # Soft threshold: "exactly the last value" is a possible answer, and often the right one.
        threshold = functional.softplus(shape[-1])
        move = move - self.threshold_share * torch.minimum(torch.maximum(move, -threshold), threshold)
        gaps = functional.softplus(shape[1:-1])
        levels = [move]
        middle = self.quantiles // 2
        for distance in range(middle):
            levels.insert(0, levels[0] - gaps[middle - 1 - distance])
            levels.append(levels[-1] + gaps[middle + distance])
        return torch.stack(levels) * (features.scale * self.typical_move)

    @torch.jit.unused
    def forward(
        self, features: FeatureSet, memory: tuple[Tensor, Tensor], phase: int, stride: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Whole sequences; the heads run on every stride-th step only, since neighbouring steps say nearly the same.

        features : rows over (T, B) flattened, T given by memory's batch. memory : (h, c), each (1, V B, U).
        Returns : quantiles relative to the anchor (Q, H, V, T', B); memory after the last step.
        """
        batch = memory[0].shape[1] // self.signals
        inputs = self.cell_inputs(features)  # (Z, V, T B)
        length = inputs.shape[-1] // batch
        sequence = inputs.view(-1, self.signals, length, batch).permute(2, 1, 3, 0)
        hidden, memory = self.cell(sequence.reshape(length, self.signals * batch, -1), memory)
        hidden = self.dropout(hidden[phase::stride]).view(-1, self.signals, batch, self.hidden).permute(3, 1, 0, 2)

        def thin(rows: Tensor) -> Tensor:
            return rows.view(*rows.shape[:-1], length, batch)[..., phase::stride, :].flatten(-2)

        kept = FeatureSet(thin(features.anchor), thin(features.scale), thin(features.own), thin(features.shared))
        out = self.heads(hidden.reshape(self.hidden, -1), thin(inputs).flatten(1), kept)
        return out.view(*out.shape[:-1], -1, batch), memory


class Forecaster(nn.Module):
    """Features and network as the one thing that is exported: `initial_state` and `step`."""

    def __init__(self, config: ForecasterConfig, scaling: Scaling, typical_move: Tensor) -> None:
        super().__init__()
        self.features = Features(config, scaling)
        self.network = Network(config, typical_move)
        self.state_float32 = self.features.rows_float32
        self.state_float16 = self.features.rows_float16 + 2 * config.hidden * len(config.signals)
        exact, half = self.features.initial_rows()
        memory = torch.zeros(2 * config.hidden * len(config.signals))
        self.silent_columns = SILENT_COLUMNS
        self.register_buffer("start", torch.cat([exact, half, memory]))

    start: Tensor

    @torch.jit.export
    def initial_state(self, batch: int) -> Tensor:
        """float32 (B, S): the state before the first step."""
        return self.start.unsqueeze(0).repeat(batch, 1)

    @torch.jit.export
    def step(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of B stays.

        x : (B, I) clinical units, ignored where unobserved. observed : (B, I) 0 or 1.
        elapsed : (B, I) seconds since the input's last value. state : (B, S).
        Returns : quantiles (B, V, H, Q), clinical units, plausible, non-decreasing along Q; the next state (B, S).
        """
        net, batch = self.network, x.shape[0]
        rows = state.t().contiguous()  # (S, B)
        exact = rows[: self.state_float32]
        half = rows[self.state_float32 : self.state_float32 + self.features.rows_float16]
        memory = rows[self.state_float32 + self.features.rows_float16 :].view(2, net.hidden, -1)  # (2, U, V B)

        features, exact, half = self.features.step(
            x.t().contiguous(), observed.t().contiguous(), elapsed.t().contiguous(), exact, half
        )
        inputs = net.cell_inputs(features).flatten(1)  # (Z, V B)
        hidden, carry = self.cell_step(inputs, memory[0], memory[1])
        moves = net.heads(hidden, inputs, features)  # (Q, H, V, B)
        quantiles = torch.minimum(torch.maximum(features.anchor + moves, self.features.low), self.features.high)
        quantiles = quantiles.permute(2, 1, 0, 3).reshape(-1, batch).t().contiguous()
        units = net.hidden * net.signals
        rows = torch.cat([exact, half, hidden.view(units, batch), carry.view(units, batch)])
        return quantiles.view(batch, net.signals, net.horizons, net.quantiles), rows.t().contiguous()

    @torch.jit.export
    def step_unobserved(self, elapsed: Tensor, state: Tensor, steps: int) -> Tensor:
        """The state (B, S) after `steps` steps without readings, rounded after each as it is stored.

        As `step` would leave it, but for the last digit. elapsed : float64 (B, I), as of the step before them.
        """
        done = 0
        while done < steps:
            count = min(steps - done, max(1, self.silent_columns // state.shape[0]))
            ages = elapsed + self.features.step_s * torch.arange(
                done + 1, done + count + 1, device=elapsed.device, dtype=elapsed.dtype
            ).view(-1, 1, 1)
            state = self.silent_steps(ages.clamp(max=self.features.day_s).float(), state)
            done += count
        return state

    def silent_steps(self, elapsed: Tensor, state: Tensor) -> Tensor:
        """As `step_unobserved`, elapsed (steps, B, I): what the cell sees of all steps is known at once."""
        net, features, steps, batch = self.network, self.features, elapsed.shape[0], elapsed.shape[1]
        from_inputs: Tensor = net.cell.weight_ih_l0  # type: ignore[assignment]
        from_hidden: Tensor = net.cell.weight_hh_l0  # type: ignore[assignment]
        rows = state.t()
        exact, half, memory = torch.split(
            rows, [self.state_float32, features.rows_float16, 2 * net.hidden * net.signals]
        )
        exact, half = features.rows_unobserved(exact, half, steps)
        nothing = torch.zeros(elapsed.shape[2], steps * batch, device=state.device)
        seen, _, _ = features.step(
            nothing, nothing, elapsed.flatten(0, 1).t(), exact[:, :-1].flatten(1), half[:, :-1].flatten(1)
        )
        sums = torch.mm(from_inputs, net.cell_inputs(seen).flatten(1))
        by_step = sums.view(-1, net.signals, steps, batch).permute(2, 0, 1, 3)
        memory = memory.reshape(2, net.hidden, -1)
        hidden, carry = memory[0], memory[1]
        for inputs in by_step:
            hidden, carry = self.gated(inputs.flatten(1) + torch.mm(from_hidden, hidden), carry)
            hidden, carry = hidden.half().float(), carry.half().float()
        units = net.hidden * net.signals
        rows = torch.cat([exact[:, -1], half[:, -1], hidden.view(units, batch), carry.view(units, batch)])
        return rows.t().contiguous()

    def cell_step(self, inputs: Tensor, hidden: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        """`nn.LSTM`'s equations for one step, feature-major: (Z, N), (U, N), (U, N) -> hidden, carry."""
        cell = self.network.cell
        weight: Tensor = torch.cat([cell.weight_ih_l0, cell.weight_hh_l0], 1)  # type: ignore[list-item]
        return self.gated(torch.mm(weight, torch.cat([inputs, hidden])), carry)

    def gated(self, sums: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        """The gates' weighted sums (4 U, N) and the carry before -> hidden, carry."""
        keep, forget, new, out = sums.chunk(4)
        # tanh(a) = 2 sigmoid(2 a) - 1: torch's tanh is nine times slower here.
        carry = torch.sigmoid(forget) * carry + torch.sigmoid(keep) * (2.0 * torch.sigmoid(2.0 * new) - 1.0)
        return torch.sigmoid(out) * (2.0 * torch.sigmoid(2.0 * carry) - 1.0), carry
