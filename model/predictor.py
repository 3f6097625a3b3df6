"""A trained artifact, verified and ready to run: the only way from bytes on disk to forecasts."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from model.manifest import MODEL_FILE, ArtifactError, Manifest, read_manifest
from model.steps import NEVER_S

__all__ = ["ArtifactError", "Predictor", "one_thread", "torchscript"]


@contextmanager
def torchscript() -> Iterator[None]:
    """Without its warnings: deprecated since torch 2.13, which is pinned; what replaces it has one entry point."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=DeprecationWarning)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one core: these batches are small, so that more threads would wait for each other, and differ by run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Predictor:
    """The TorchScript forecaster of one artifact. Tensors go in and come out on the CPU, whatever the device."""

    def __init__(self, manifest: Manifest, module: torch.jit.ScriptModule, device: torch.device) -> None:
        self.manifest = manifest
        self.device = device
        self._module = module

    @classmethod
    def load(cls, directory: Path, device: str = "auto") -> Predictor:
        """The artifact in `directory`. TorchScript is code, so its bytes are read once and run only if their hash fits.

        Raises: ArtifactError if anything is missing, altered, or not what the manifest says.
        """
        manifest = read_manifest(directory)
        path = directory / MODEL_FILE
        try:
            payload = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{path}: no readable model ({type(error).__name__})") from error
        found = hashlib.sha256(payload).hexdigest()
        if found != manifest.sha256:
            raise ArtifactError(f"{path}: sha256 is {found[:12]}, the manifest says {manifest.sha256[:12]}")
        target = _device_of(device)
        try:
            with torchscript():
                module = torch.jit.load(io.BytesIO(payload), map_location=target)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ArtifactError(f"{path}: not a TorchScript module") from error
        predictor = cls(manifest, module, target)
        predictor._check_shapes()
        return predictor

    def initial_state(self, batch: int) -> Tensor:
        """The state of `batch` stays before their first step: float32 (B, S)."""
        state: Tensor = self._module.initial_state(batch)
        return state.cpu()

    def step(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance B stays by one step and forecast from there.

        x : (B, I) the step's values in clinical units, any finite number where unobserved.
        observed : (B, I) bool or 0/1. elapsed : (B, I) seconds since each input's last value, 86400 if there is none.
        state : (B, S) after the previous step.
        Returns : quantiles float32 (B, V, H, Q) in clinical units, non-decreasing along Q and plausible; state (B, S).
        """
        with torch.inference_mode():
            quantiles, after = self._module.step(
                x.to(self.device, torch.float32),
                observed.to(self.device, torch.float32),
                elapsed.to(self.device, torch.float32),
                state.to(self.device, torch.float32),
            )
        return quantiles.cpu(), after.cpu()

    def step_unobserved(self, elapsed: Tensor, state: Tensor, steps: int) -> Tensor:
        """The state (B, S) after `steps` steps in which nothing was observed, rounded after each as it is stored.

        elapsed : float64 (B, I) seconds since each input's last value, as of the step before them. state : (B, S).
        """
        if not hasattr(self._module, "step_unobserved"):  # the contract does not ask for it
            nothing = torch.zeros_like(elapsed)
            for step in range(1, steps + 1):
                age = (elapsed + self.manifest.step_s * step).clamp(max=NEVER_S)
                state = self.round_state(self.step(nothing, nothing, age, state)[1])
            return state
        with torch.inference_mode():
            after: Tensor = self._module.step_unobserved(
                elapsed.to(self.device, torch.float64), state.to(self.device, torch.float32), steps
            )
        return after.cpu()

    def round_state(self, state: Tensor) -> Tensor:
        """`state` as it is after storing and reading: its second part went through float16."""
        exact = self.manifest.state_float32
        return torch.cat([state[:, :exact], state[:, exact:].to(torch.float16).to(torch.float32)], dim=1)

    def _check_shapes(self) -> None:
        manifest = self.manifest
        inputs = torch.zeros(2, len(manifest.inputs))
        expected = (2, len(manifest.signals), len(manifest.horizons_s), len(manifest.quantile_levels))
        try:
            state = self.initial_state(2)
            quantiles, after = self.step(inputs, inputs, inputs, state)
        except (AttributeError, RuntimeError) as error:
            raise ArtifactError("the module does not take what its manifest says") from error
        if state.shape != (2, manifest.state_size) or after.shape != state.shape or quantiles.shape != expected:
            raise ArtifactError("the module's state or forecasts have another shape than its manifest says")


def _device_of(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ArtifactError(f"unknown device {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ArtifactError("device 'cuda' was asked for, but there is none")
    return device
