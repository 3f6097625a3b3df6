"""What the benchmark tells each program: where to read, where to write."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Self

import msgspec
import torch

from model.predictor import Predictor
from stream_worker.settings import Settings


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one program. `folder` is its own, for whatever it keeps on disk."""

    servers: str
    app_id: str
    readings: str
    forecasts: str
    alerts: str
    dead_letters: str
    changelog: str
    partitions: int
    folder: str

    @classmethod
    def from_argument(cls) -> Self:
        """The job that the program's only argument holds as JSON."""
        return msgspec.json.decode(sys.argv[1], type=cls)

    def as_argument(self) -> str:
        """The program's only argument."""
        return msgspec.json.encode(self).decode()

    def settings(self) -> Settings:
        """Vitalcast's settings for this job. Bands as the model gives them: all programs can be compared then."""
        return Settings(
            bootstrap_servers=self.servers,
            app_id=self.app_id,
            readings_topic=self.readings,
            forecasts_topic=self.forecasts,
            alerts_topic=self.alerts,
            dead_letters_topic=self.dead_letters,
            calibration="none",
        )


@dataclass(slots=True)
class Record:
    """A message as the pipeline takes it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    timestamp_type: int = 0


def load_predictor(settings: Settings) -> Predictor:
    """The same model for all, on one thread as in the worker: a second one costs more than it brings."""
    torch.set_num_threads(1)
    return Predictor.load(settings.model, "cpu")
