"""A bare confluent-kafka loop around Vitalcast's own pipeline, exactly once: what the framework around it costs."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from typing import Final

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from stream_worker.pipeline import ChunkResult, Pipeline
from tests.bench.peers.job import Job, Record, load_predictor

COMMIT_S: Final = 0.2  # larger transactions cost less, and hold forecasts back for longer


class Loop:
    """Consume, process, produce, commit."""

    def __init__(self, job: Job) -> None:
        settings = job.settings()
        predictor = load_predictor(settings)
        self._job = job
        self._chunk_records = settings.chunk_records
        self._pipeline = Pipeline(settings, predictor)
        servers = {"bootstrap.servers": job.servers}
        reading = {"group.id": job.app_id, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        self._consumer = Consumer({**servers, **reading, "isolation.level": "read_committed"})
        sending = {"linger.ms": 5, "batch.size": 900_000, "compression.type": "zstd", "compression.level": 3}
        room = {"queue.buffering.max.messages": 1_000_000}
        self._producer = Producer({**servers, **sending, **room, "transactional.id": job.app_id})

    def run(self) -> None:
        """For ever; state is written, but not read again at a start: a start is not measured here."""
        self._producer.init_transactions()
        self._consumer.subscribe([self._job.readings])
        gc.collect()
        gc.freeze()
        while True:
            self._transaction()

    def _transaction(self) -> None:
        """One transaction: all that comes within COMMIT_S."""
        next_offsets: dict[int, int] = {}
        end = time.monotonic() + COMMIT_S
        self._producer.begin_transaction()
        while (remaining_s := end - time.monotonic()) > 0:
            batches = self._consume(remaining_s)
            for partition, result in self._pipeline.process(batches, time.time_ns() // 1000).items():
                self._produce(partition, result)
                next_offsets[partition] = batches[partition][-1].offset + 1
        if next_offsets:
            offsets = [TopicPartition(self._job.readings, p, offset) for p, offset in next_offsets.items()]
            self._producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata())
        self._producer.commit_transaction()

    def _consume(self, timeout_s: float) -> dict[int, list[Record]]:
        batches: defaultdict[int, list[Record]] = defaultdict(list)
        for message in self._consumer.consume(self._chunk_records, timeout_s):
            if message.error() is not None:
                raise KafkaException(message.error())
            record = Record(message.offset(), message.timestamp()[1], message.key(), message.value())
            batches[message.partition()].append(record)
        return batches

    def _produce(self, partition: int, result: ChunkResult) -> None:
        job, produce = self._job, self._producer.produce
        for topic, records in (
            (job.forecasts, result.forecasts),
            (job.alerts, result.alerts),
            (job.dead_letters, result.dead_letters),
            (job.changelog, result.state.items()),
        ):
            for key, value in records:
                produce(topic, value, key, partition)
            self._producer.poll(0)


if __name__ == "__main__":
    Loop(Job.from_argument()).run()
