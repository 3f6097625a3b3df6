"""From a trained forecaster to an artifact: TorchScript, manifest and model card, written only if all of them agree."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import msgspec
import torch
from jinja2 import Environment
from torch import Tensor

from model.config import ForecasterConfig
from model.features import Scaling
from model.manifest import MODEL_FILE, ArtifactError, Manifest, Training, write_manifest
from model.network import Forecaster
from model.predictor import torchscript
from model.steps import NEVER_S

CARD = Path(__file__).parent / "card.md"
ENTRY_POINTS = ("initial_state", "step", "step_unobserved")
TOLERANCE = 1e-4  # of a clinical unit, eager against scripted: arithmetic in another order, nothing more


def write_artifact(
    forecaster: Forecaster, config: ForecasterConfig, training: Training, out: Path, *, name: str, version: str
) -> Manifest:
    """Script, freeze and check `forecaster`, then write model.pt and manifest.json to `out`.

    Raises: ArtifactError if eager and scripted steps differ.
    """
    module = script(forecaster)
    difference = largest_difference(forecaster, module, config)
    if not difference <= TOLERANCE:
        raise ArtifactError(f"eager and scripted forecasts differ by {difference:.2g}: nothing was written")
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    payload = buffer.getvalue()
    manifest = Manifest(
        name=name,
        version=version,
        sha256=hashlib.sha256(payload).hexdigest(),
        **config.task,
        state_float32=forecaster.state_float32,
        state_float16=forecaster.state_float16,
        parameters=sum(weight.numel() for weight in forecaster.network.parameters()),
        training=training,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / MODEL_FILE).write_bytes(payload)
    write_manifest(out, manifest)
    return manifest


def script(forecaster: Forecaster) -> torch.jit.ScriptModule:
    """The frozen TorchScript module with its entry points."""
    with torchscript():
        module = torch.jit.script(forecaster.eval())
        frozen: torch.jit.ScriptModule = torch.jit.freeze(module, preserved_attrs=list(ENTRY_POINTS))
    return frozen


def largest_difference(forecaster: Forecaster, module: torch.jit.ScriptModule, config: ForecasterConfig) -> float:
    """Between eager and scripted quantiles, each carrying its own state over random steps of several batch sizes."""
    generator = torch.Generator().manual_seed(0)
    low = torch.tensor([signal.low for signal in config.inputs])
    high = torch.tensor([signal.high for signal in config.inputs])
    worst = 0.0
    with torch.inference_mode():
        for batch in (1, 3, 17):
            ours = theirs = forecaster.initial_state(batch)
            elapsed = torch.full((batch, len(low)), NEVER_S)
            for _ in range(8):
                shape = elapsed.shape
                # Around the middle of the range, where signals live: at its edges clamping would hide differences.
                x = low + (high - low) * (0.4 + 0.2 * torch.rand(shape, generator=generator))
                observed = (torch.rand(shape, generator=generator) < 0.7).float()
                elapsed = torch.where(observed > 0, 0.0, (elapsed + config.step_s).clamp(max=NEVER_S))
                a, ours = forecaster.step(x, observed, elapsed, ours)
                b, theirs = module.step(x, observed, elapsed, theirs)
                worst = max(worst, _distance(a, b))
    return worst


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().nan_to_num(nan=float("inf")).max())


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a trained forecaster beside its weights."""

    config: ForecasterConfig
    training: Training
    name: str
    version: str


def save_checkpoint(path: Path, forecaster: Forecaster, checkpoint: Checkpoint) -> None:
    """Write weights and description to one file, readable with torch's restricted unpickler."""
    path.parent.mkdir(parents=True, exist_ok=True)
    description = msgspec.json.encode(checkpoint).decode()
    torch.save({"description": description, "weights": forecaster.state_dict()}, path)


def load_checkpoint(path: Path) -> tuple[Forecaster, Checkpoint]:
    """The forecaster of `save_checkpoint`.

    Raises: ArtifactError if the file is none of ours.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(stored, dict):
            raise TypeError
        checkpoint = msgspec.json.decode(stored["description"], type=Checkpoint)
        signals, horizons = len(checkpoint.config.signals), len(checkpoint.config.horizons_s)
        blank = torch.ones(signals)
        # The population statistics are among the weights; these placeholders only give them their shape.
        forecaster = Forecaster(checkpoint.config, Scaling(blank, blank, blank), torch.ones(signals, horizons))
        forecaster.load_state_dict(stored["weights"])
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({type(error).__name__})") from error
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{path}: not a checkpoint of this version ({type(error).__name__})") from error
    return forecaster.eval(), checkpoint


def export_artifact(checkpoint: Path, out: Path) -> Manifest:
    """Write the artifact of a checkpoint to `out`, without scores: `vitalcast evaluate` gives them."""
    forecaster, found = load_checkpoint(checkpoint)
    manifest = write_artifact(forecaster, found.config, found.training, out, name=found.name, version=found.version)
    write_card(out, manifest)
    return manifest


def write_card(out: Path, manifest: Manifest) -> None:
    """Write MODEL_CARD.md beside the manifest, with the figures that the manifest holds."""
    template = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701 - Markdown, our own words
    text = template.from_string(CARD.read_text(encoding="utf-8")).render(
        manifest=manifest,
        horizons=[horizon_s / 60 for horizon_s in manifest.horizons_s],
        decimals={signal.name: signal.decimals for signal in manifest.forecast_signals},
        scores={name: [score for score in manifest.scores if score.signal == name] for name in manifest.signals},
    )
    (out / "MODEL_CARD.md").write_text(text, encoding="utf-8")
