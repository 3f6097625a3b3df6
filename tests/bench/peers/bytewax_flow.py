"""Bytewax: Kafka in, a stateful operator with its recovery store, Kafka out. At least once is all it promises here.

Two ways, because keys decide what can go through the model together. `stays`: a key for each stay, as one would write
it. `partitions`: a key for each Kafka partition, whose state is all its stays: then a batch is as wide as in Vitalcast,
and Vitalcast's own pipeline can be the operator's logic.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal

from bytewax import operators as op  # type: ignore[import-not-found]
from bytewax.connectors.kafka import (  # type: ignore[import-not-found]
    KafkaSink,
    KafkaSinkMessage,
    KafkaSource,
    KafkaSourceMessage,
)
from bytewax.dataflow import Dataflow  # type: ignore[import-not-found]
from bytewax.operators import StatefulBatchLogic  # type: ignore[import-not-found]
from bytewax.recovery import RecoveryConfig, init_db_dir  # type: ignore[import-not-found]
from bytewax.run import cli_main  # type: ignore[import-not-found]

from model.predictor import Predictor
from stream_worker.pipeline import Pipeline
from stream_worker.settings import Settings
from tests.bench.peers.job import Job, Record, load_predictor
from tests.bench.peers.one_stay import OneByOne, Stay

EPOCH = timedelta(seconds=10)  # Bytewax's default: how often state is written, and how much is done again after a crash

Keys = Literal["stays", "partitions"]


class StayLogic(StatefulBatchLogic):  # type: ignore[misc]
    """One stay, its readings one after another."""

    def __init__(self, core: OneByOne, stored: tuple[bytes, bytes] | None) -> None:
        self._core = core
        self._stay: Stay = core.new_stay() if stored is None else core.load(*stored)

    def on_batch(self, values: list[KafkaSourceMessage]) -> tuple[Iterable[KafkaSinkMessage], bool]:
        """The forecasts of some readings."""
        messages = []
        for reading in values:
            message = self._core.take(self._stay, reading.value, reading.partition, reading.offset)
            if message is not None:
                messages.append(KafkaSinkMessage(reading.key, message))
        return messages, self.RETAIN

    def snapshot(self) -> tuple[bytes, bytes]:
        """The stay as bytes: nothing that changes later."""
        return self._stay.encode_head(), self._stay.encode_body()


class PartitionLogic(StatefulBatchLogic):  # type: ignore[misc]
    """All stays of a Kafka partition, by Vitalcast's pipeline; its alerts are computed and left out."""

    def __init__(self, settings: Settings, predictor: Predictor, stored: Mapping[bytes, bytes] | None) -> None:
        self._pipeline = Pipeline(settings, predictor)
        self._stored = stored
        self._records: dict[bytes, bytes | None] = dict(stored or {})

    def on_batch(self, values: list[KafkaSourceMessage]) -> tuple[Iterable[KafkaSinkMessage], bool]:
        """The forecasts of a batch."""
        partition = values[0].partition
        if self._stored is not None:
            self._pipeline.stays.load(partition, self._stored)
            self._stored = None
        records = [Record(value.offset, value.timestamp[1], value.key, value.value) for value in values]
        results = self._pipeline.process({partition: records}, time.time_ns() // 1000)
        if not results:
            return (), self.RETAIN
        self._records.update(results[partition].state)
        return [KafkaSinkMessage(key, value) for key, value in results[partition].forecasts], self.RETAIN

    def snapshot(self) -> dict[bytes, bytes]:
        """The newest changelog record of each stay."""
        return {key: value for key, value in self._records.items() if value is not None}


def create_flow(job: Job, keys: Keys) -> Dataflow:
    """The dataflow."""
    settings = job.settings()
    predictor = load_predictor(settings)
    core = OneByOne(settings, predictor)
    flow = Dataflow("forecasts")
    source = KafkaSource([job.servers], [job.readings], batch_size=settings.chunk_records)
    readings = op.input("readings", flow, source)
    if keys == "stays":
        keyed = op.key_on("by-stay", readings, lambda reading: reading.key.decode())
        forecasts = op.stateful_batch("forecast", keyed, lambda stored: StayLogic(core, stored))
    else:
        keyed = op.key_on("by-partition", readings, lambda reading: str(reading.partition))
        forecasts = op.stateful_batch("forecast", keyed, lambda stored: PartitionLogic(settings, predictor, stored))
    sending: dict[str, Any] = {"linger.ms": 5, "batch.size": 900_000, "compression.type": "zstd"}
    op.output("forecasts", op.key_rm("unkeyed", forecasts), KafkaSink([job.servers], job.forecasts, sending))
    return flow


def main(job: Job, keys: Keys) -> None:
    """Run until a signal."""
    init_db_dir(job.folder, 1)
    flow = create_flow(job, keys)
    gc.collect()
    gc.freeze()
    cli_main(flow, epoch_interval=EPOCH, recovery_config=RecoveryConfig(job.folder))


if __name__ == "__main__":
    main(Job.from_argument(), "partitions" if "partitions" in sys.argv[2:] else "stays")
