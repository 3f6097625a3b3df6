"""Training: the exported features run once over all stays, then the learned part is fitted on segments of them."""

from __future__ import annotations

import copy
import math
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from rich.progress import Progress, TextColumn
from torch import Tensor, nn

from model.augment import Copy, Degrade, backwards, copies, degraded, faster, longest_first
from model.config import ForecasterConfig, config_for
from model.dataset import FRESH_S, Stay, read_stays, scored_origins, split, steps_of, survey, truth
from model.evaluate import evaluate
from model.export import Checkpoint, save_checkpoint, write_artifact, write_card
from model.features import LEVEL_FEATURE, Features, FeatureSet, Scaling
from model.losses import pinball
from model.manifest import Manifest, Training, write_manifest
from model.network import Forecaster, Network
from model.predictor import Predictor, one_thread
from schemas.recordings import RecordingError, stay_id_of
from schemas.signals import is_name

UPDATES = 8000
DEGRADED_COPIES = 2  # of each stay, beside the recording as it is
SEGMENT = 768  # steps of one stay in a batch: long against the LSTM's memory, short against a stay
CHUNK = 96  # steps between updates; the LSTM's state is carried over, its gradient is not
SEGMENTS = 24  # side by side in a batch
STRIDE = 3  # heads on every third step: neighbours say nearly the same
LEARNING_RATE = 4e-3
WARM_UP = 60
WEIGHT_DECAY = 0.02
AVERAGING = 0.995  # of the weights; the average is what is exported
MEDIAN_WEIGHT = 3.0  # the median is what most readers use
LEVEL_JITTER = 0.7  # in population spreads: the network must not recognise a patient by the usual level
STALE_WEIGHT = 0.1  # of origins that are not scored but fresh enough to be served
DEGRADED_WEIGHT = 0.5  # the same in degraded copies, where such origins are what is to be learned


class Sample(NamedTuple):
    """One stay ready for training: features of all steps and the truth they lead to.

    anchor, scale : (V, T). own : float16 (F, V, T). shared : float16 (G, T).
    change : (H, V, T) truth minus anchor, NaN where there is none. weight : (V, T) of the origin.
    """

    anchor: Tensor
    scale: Tensor
    own: Tensor
    shared: Tensor
    change: Tensor
    weight: Tensor

    @property
    def length(self) -> int:
        """Steps of the stay."""
        return self.anchor.shape[-1]

    def cut(self, start: int, stop: int) -> Sample:
        """Steps start to stop."""
        return Sample(*(rows[..., start:stop] for rows in self))


def scaling_of(stays: Sequence[Stay], config: ForecasterConfig) -> Scaling:
    """Population statistics of the forecast signals over `stays`."""
    centres, levels, spreads = [], [], []
    for name, signal in zip(config.signals, config.forecast_signals, strict=True):
        column = config.input_index(name)
        values, moves = [], []
        for stay in stays:
            series = stay.x[:, column][stay.observed[:, column]].astype(np.float64)
            values.append(series)
            if len(series) > 16:
                mean = np.convolve(series, np.full(16, 1 / 16), "valid")[:-1]
                moves.append(np.abs(series[16:] - mean))
        pooled = np.concatenate(values) if values else np.zeros(0)
        if not len(pooled):
            within = f"{signal.low:g} to {signal.high:g} {signal.written_unit}"
            raise RecordingError(f"signal {name!r}: the training recordings have no plausible value ({within})")
        low, centre, high = np.quantile(pooled, [0.16, 0.5, 0.84])
        centres.append(round(centre / signal.precision) * signal.precision)
        levels.append(max((high - low) / 2.0, 4.0 * signal.precision))
        spreads.append(max(float(np.concatenate(moves).mean()) if moves else 0.0, 2.0 * signal.precision))
    return Scaling(*(torch.tensor(values, dtype=torch.float32) for values in (centres, levels, spreads)))


def samples_of(seen: Sequence[Copy], features: Features, config: ForecasterConfig) -> list[Sample]:
    """The features of what is seen of each stay, computed by the very steps that serve, and the truth about it."""
    if not seen:
        return []
    seen = longest_first(seen)
    stays = [shown.seen for shown in seen]
    start_exact, start_half = features.initial_rows()
    exact = start_exact.unsqueeze(1).repeat(1, len(stays))
    half = start_half.unsqueeze(1).repeat(1, len(stays))
    anchors, scales, owns, shareds, counts = [], [], [], [], []
    with torch.inference_mode():
        for batch in steps_of(stays):
            n = len(batch.x)
            x, observed, elapsed = (torch.from_numpy(part).t() for part in batch[1:])
            out, exact, half = features.step(x, observed, elapsed, exact[:, :n].contiguous(), half[:, :n].contiguous())
            half = half.half().float()
            anchors.append(out.anchor)
            scales.append(out.scale)
            owns.append(out.own.half())
            shareds.append(out.shared.half())
            counts.append(n)
    # Steps lie one after the other, each with the stays still running: stay b's step t is column offset[t] + b.
    packed = [torch.cat(rows, dim=-1).clone() for rows in (anchors, scales, owns, shareds)]
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)[:-1]]))
    return [
        _sample(shown, *(rows.index_select(-1, offsets[: shown.seen.length] + b) for rows in packed), config=config)
        for b, shown in enumerate(seen)
    ]


def _sample(
    shown: Copy, anchor: Tensor, scale: Tensor, own: Tensor, shared: Tensor, *, config: ForecasterConfig
) -> Sample:
    columns = [config.input_index(name) for name in config.signals]
    change = torch.from_numpy(truth(shown.truth, config)).permute(2, 1, 0) - anchor
    scored = torch.from_numpy(scored_origins(shown.seen, config)).t()
    fresh = torch.from_numpy(shown.seen.elapsed[:, columns] <= FRESH_S).t()
    if shown.whole is None and not scored.any():
        scored = fresh  # readings are rare here, and these origins are all there is to learn from
    stale_weight = STALE_WEIGHT if shown.whole is None else DEGRADED_WEIGHT
    weight = scored.float() + stale_weight * (fresh & ~scored).float()
    return Sample(anchor, scale, own, shared, change.contiguous(), weight)


def typical_changes(samples: Sequence[Sample], config: ForecasterConfig) -> tuple[Tensor, Tensor]:
    """(H, V) mean absolute change of the scored origins, in clinical units, and (V,) their mean scale.

    Of a signal that hardly changes a change counts as a hundredth of its precision at least.
    """
    total, count = torch.zeros(2, *samples[0].change.shape[:2], dtype=torch.float64)
    scale, origins = torch.zeros(2, total.shape[1], dtype=torch.float64)
    for sample in samples:
        scored = sample.weight >= 1.0
        known = scored & ~sample.change.isnan()
        total += torch.where(known, sample.change.abs(), 0.0).double().sum(-1)
        count += known.double().sum(-1)
        scale += torch.where(scored, sample.scale, 0.0).double().sum(-1)
        origins += scored.double().sum(-1)
    mean_scale = torch.where(origins > 0, scale / origins.clamp(min=1.0), 1.0)
    changes = torch.where(count > 0, total / count.clamp(min=1.0), mean_scale)
    least = 0.01 * torch.tensor([signal.precision for signal in config.forecast_signals], dtype=torch.float64)
    return torch.maximum(changes, least).float(), mean_scale.float()


@one_thread()
def fit(
    stays: Sequence[Stay],
    config: ForecasterConfig,
    *,
    seed: int = 0,
    updates: int = UPDATES,
    progress: Callable[[int, float], None] | None = None,
) -> Forecaster:
    """A forecaster trained on `stays`; the same for the same stays, seed and machine.

    progress : called after each update with its number and loss.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    lesson = prepare(stays, config, random)
    forecaster = Forecaster(config, lesson.scaling, lesson.typical_move)
    forecaster.network = learn(forecaster.network, lesson, config, random, updates=updates, progress=progress)
    return forecaster.eval()


class Lesson(NamedTuple):
    """What a network learns from: the samples, the population's scaling, (H, V) mean changes in clinical units and
    (V, H) the same in units of the features' scale."""

    scaling: Scaling
    samples: list[Sample]
    changes: Tensor
    typical_move: Tensor


def prepare(
    stays: Sequence[Stay],
    config: ForecasterConfig,
    random: np.random.Generator,
    *,
    degraded_copies: int = DEGRADED_COPIES,
    degrade: Degrade = degraded,
    rearranged: bool = True,
) -> Lesson:
    """Each stay as recorded, in degraded copies, and (if `rearranged`) backwards and faster."""
    scaling = scaling_of(stays, config)
    stays = [stay for stay in stays if stay.length]
    features = Features(config, scaling)
    samples = samples_of([Copy(stay) for stay in stays], features, config)
    changes, mean_scale = typical_changes(samples, config)
    for _ in range(degraded_copies):
        samples += samples_of(list(copies(stays, config, random, degrade)), features, config)
    if rearranged:
        others = [*(backwards(stay, config) for stay in stays), *(faster(stay, config, random) for stay in stays)]
        samples += samples_of([Copy(other) for other in others], features, config)
    return Lesson(scaling, samples, changes, (changes / mean_scale).t())


def learn(
    network: Network,
    lesson: Lesson,
    config: ForecasterConfig,
    random: np.random.Generator,
    *,
    updates: int = UPDATES,
    level_jitter: float = LEVEL_JITTER,
    averaging: float = AVERAGING,
    progress: Callable[[int, float], None] | None = None,
) -> Network:
    """`network` is trained; what is returned is the running average of its weights."""
    network.train()
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    chunks = _chunks(lesson.samples, random)
    memory: Memory | None = None
    for update in range(updates):
        chunk, memory = _resume(*next(chunks), memory, network)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _pace(update, updates)
        network.threshold_share = min(1.0, max(0.0, (update - 40) / 120))
        phase = int(random.integers(STRIDE))
        moves, memory = network(_jittered(chunk, level_jitter), memory, phase, STRIDE)
        loss = _loss(moves, chunk, phase, lesson.changes, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        _average(average, network, min(averaging, (2 + update) / (11 + update)))
        if progress:
            progress(update + 1, float(loss.detach()))
    average.threshold_share = 1.0
    return average


Memory = tuple[Tensor, Tensor]


def _chunks(samples: Sequence[Sample], random: np.random.Generator) -> Iterator[tuple[Sample, bool]]:
    """Chunks of SEGMENTS stays side by side, (.., T, B), for ever; True where a chunk begins new segments.

    Segments of a batch are sorted by length, so the rows that end early drop off at the end.
    """
    if all(sample.length < STRIDE for sample in samples):
        raise RecordingError("the training stays are too short")
    while True:
        segments = []
        for sample in samples:
            first = int(random.integers(SEGMENT)) - SEGMENT  # the grid is drawn anew in each epoch
            for start in range(first, sample.length, SEGMENT):
                segment = sample.cut(max(start, 0), start + SEGMENT)
                if segment.length >= max(min(CHUNK // 2, sample.length), STRIDE):
                    segments.append(segment)
        if not segments:
            continue  # the grid has cut all that there is too short
        random.shuffle(segments)
        # The last batch would be smaller; it is left out unless it is the only one.
        for i in range(0, max(len(segments) - SEGMENTS // 2, 1), SEGMENTS):
            batch = sorted(segments[i : i + SEGMENTS], key=lambda segment: -segment.length)
            # A last chunk of fewer steps than the stride may have none that the heads run on.
            for start in range(0, batch[0].length - STRIDE + 1, CHUNK):
                parts = [segment.cut(start, start + CHUNK) for segment in batch if segment.length > start]
                yield _side_by_side(parts), start == 0


def _side_by_side(parts: Sequence[Sample]) -> Sample:
    """Chunks of several stays as one, (.., T, B), shorter ones filled with steps of weight 0."""
    length = parts[0].length
    fields = []
    for rows in zip(*parts, strict=True):
        stacked = torch.zeros(*rows[0].shape[:-1], length, len(rows))
        for b, row in enumerate(rows):
            stacked[..., : row.shape[-1], b] = row
        fields.append(stacked)
    return Sample(*fields)


def _resume(chunk: Sample, fresh: bool, memory: Memory | None, network: Network) -> tuple[Sample, Memory]:
    """The LSTM's state to start a chunk with: blank for new segments, else the last one without its gradient."""
    signals, batch = network.signals, chunk.anchor.shape[-1]
    if fresh or memory is None:
        blank = torch.zeros(1, signals * batch, network.hidden)
        return chunk, (blank, blank)
    h, c = (part.detach().view(1, signals, -1, network.hidden)[:, :, :batch].flatten(1, 2) for part in memory)
    return chunk, (h.contiguous(), c.contiguous())


def _jittered(chunk: Sample, level_jitter: float) -> FeatureSet:
    """The chunk's features with its usual levels moved at random, the same for all steps of a segment."""
    own = chunk.own.clone()
    own[LEVEL_FEATURE] += level_jitter * torch.randn(own.shape[1], 1, own.shape[-1])
    return FeatureSet(chunk.anchor.flatten(-2), chunk.scale.flatten(-2), own.flatten(-2), chunk.shared.flatten(-2))


def _loss(moves: Tensor, chunk: Sample, phase: int, changes: Tensor, config: ForecasterConfig) -> Tensor:
    """Mean pinball loss of the scored origins, each cell in units of persistence's error there.

    moves : (Q, H, V, T', B) quantiles minus anchor, of every STRIDE-th step from `phase`.
    """
    levels = torch.tensor(config.quantile_levels)
    emphasis = torch.where(levels == 0.5, MEDIAN_WEIGHT, 1.0).view(-1, 1, 1, 1, 1)
    change, weight = chunk.change[..., phase::STRIDE, :], chunk.weight[..., phase::STRIDE, :]
    losses = (pinball(change.nan_to_num() - moves, levels) * emphasis).sum(0) / changes.view(*changes.shape, 1, 1)
    scored = (weight >= 1.0).sum() * len(config.horizons_s)
    return (losses * (weight * ~change.isnan())).sum() / (scored + 1.0)


def _pace(update: int, updates: int) -> float:
    """Share of the learning rate: a short warm-up, then half a cosine down to 2 %."""
    return min((update + 1) / WARM_UP, 1.0) * (0.49 * (1.0 + math.cos(math.pi * update / updates)) + 0.02)


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, keep: float) -> None:
    for kept, weight in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(weight, 1.0 - keep)


def train_artifact(
    recordings: list[Path],
    out: Path,
    *,
    seed: int = 0,
    updates: int = UPDATES,
    hold_out: int = 10,
    name: str = "vitals-lstm",
    version: str = "1.0.0",
    config: ForecasterConfig | None = None,
    checkpoint: Path | None = None,
    data: str = "",
) -> Manifest:
    """Train on all but `hold_out` of the recordings, score on those, write the artifact to `out`.

    With `hold_out` 0 the artifact carries no scores.
    config : by default what suits the recordings' columns.
    checkpoint : where to write the weights as well, if anywhere.
    data : what the recordings are and whom to cite, for the model card.
    """
    training, held_out = split(recordings, hold_out, seed)
    if config is None:
        with Progress() as bar:
            found, steps = survey(bar.track(training, description="Looking at recordings"), step_s=60)
        if not found:
            raise RecordingError("there is no value in the training recordings")
        config = config_for(found, steps)
        print(f"forecast: {', '.join(config.signals)}")
        if left := sorted(found.keys() - {signal.name for signal in config.inputs}):  # a misspelt one perhaps
            print(f"not used: {', '.join(name if is_name(name) else repr(name) for name in left)}")
    stays = read_stays(training, config)
    columns = *Progress.get_default_columns(), TextColumn("loss {task.fields[loss]:.4f}")
    with Progress(*columns) as bar:
        task = bar.add_task("Training", total=updates, loss=math.nan)
        forecaster = fit(
            stays,
            config,
            seed=seed,
            updates=updates,
            progress=lambda done, loss: bar.update(task, completed=done, loss=loss),
        )
    provenance = Training(
        data=f"{data}{': ' if data else ''}{len(training)} recordings, {sum(stay.length for stay in stays)} steps",
        stays=tuple(stay.stay_id for stay in stays),
        held_out=tuple(stay_id_of(path) for path in held_out),
        seed=seed,
        updates=updates,
        revision=_revision(),
        trained_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if checkpoint:
        described = Checkpoint(config=config, training=provenance, name=name, version=version)
        save_checkpoint(checkpoint, forecaster, described)
    manifest = write_artifact(forecaster, config, provenance, out, name=name, version=version)
    if held_out:
        unseen = read_stays(held_out, config, "Reading held-out recordings")
        manifest = msgspec.structs.replace(manifest, scores=evaluate(Predictor.load(out, "cpu"), unseen).scores())
        if not manifest.scores:
            rule = f"no held-out recording has values in half of {config.context_steps} steps"
            print(f"not scored: {rule}; vitalcast evaluate has a rule for such")
        write_manifest(out, manifest)
    write_card(out, manifest)
    return manifest


def _revision() -> str:
    """The git revision of this code, or "unknown" where it runs outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
