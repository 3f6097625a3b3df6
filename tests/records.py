"""Kafka records without Kafka, and pipelines to take them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from aiokafka import TopicPartition

from schemas.reading import READING_V1, STAY_EVENT_V1
from stream_worker.agent import ReadingsAgent
from stream_worker.chunks import Work
from stream_worker.health import Health
from stream_worker.metrics import Metrics
from stream_worker.pipeline import ChunkResult, Pipeline
from stream_worker.settings import Settings
from stream_worker.times import to_time
from tests.arithmetic_model import ArithmeticPredictor

NOW_US = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()) * 1_000_000


@dataclass
class FakeRecord:
    """A record as aiokafka gives it, as far as the pipeline looks."""

    offset: int
    value: bytes | None
    timestamp: int = NOW_US // 1000
    key: bytes | None = b"key"
    timestamp_type: int = 0


class NotedLane:
    """Notes what an agent queues for a partition."""

    published_until = 0
    is_stalled = False

    def __init__(self, partition: int = 0) -> None:
        self.partition = TopicPartition("vitals.readings", partition)
        self.works: list[Work] = []

    def put(self, work: Work) -> None:
        self.works.append(work)


def new_agent(pipeline: Pipeline, *lanes: NotedLane) -> ReadingsAgent:
    """An agent that has the partitions of `lanes`."""
    agent = ReadingsAgent(pipeline.settings, pipeline, Metrics(pipeline.model, "test"), Health())
    agent.partitions = frozenset(lane.partition.partition for lane in lanes)
    agent.lanes = {lane.partition: cast(Any, lane) for lane in lanes}
    return agent


def reading(stay_id: str, at_s: float, vitals: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    """A reading observed `at_s` seconds after an hour before NOW."""
    observed_at = to_time(NOW_US - 3_600_000_000 + round(at_s * 1e6)).isoformat()
    message = {"schema": READING_V1, "stay_id": stay_id, "observed_at": observed_at, "vitals": vitals or {"hr": 80}}
    return json.dumps({**message, **more}).encode()


def event(stay_id: str, at_s: float, name: str, **more: Any) -> bytes:
    """A stay event at the same clock."""
    at = to_time(NOW_US - 3_600_000_000 + round(at_s * 1e6)).isoformat()
    return json.dumps({"schema": STAY_EVENT_V1, "stay_id": stay_id, "at": at, "event": name, **more}).encode()


def records(values: Iterable[bytes | None], first_offset: int = 0) -> list[FakeRecord]:
    """Records with consecutive offsets."""
    return [FakeRecord(offset, value) for offset, value in enumerate(values, first_offset)]


def new_pipeline(predictor: Any = None, *, publishes: bool = True, **settings: Any) -> Pipeline:
    """A pipeline with the arithmetic model and no stays; warms up after one step unless told otherwise."""
    used: Any = predictor or ArithmeticPredictor()
    return Pipeline(Settings(**{"min_observed_steps": 1, **settings}), used, publishes=publishes)


def process(pipeline: Pipeline, chunk: Sequence[FakeRecord], partition: int = 0) -> ChunkResult:
    """What one partition's chunk leaves."""
    return pipeline.process({partition: chunk}, NOW_US).get(partition, ChunkResult())


def decoded(encoded: Iterable[tuple[bytes | None, bytes]]) -> list[dict[str, Any]]:
    """The messages of output records, without the time at which they were made."""
    messages = [json.loads(value) for _, value in encoded]
    for message in messages:
        message.pop("produced_at", None)
        message.pop("received_at", None)
    return messages


class Changelog:
    """A compacted changelog topic of one partition."""

    def __init__(self) -> None:
        self.newest: dict[bytes, bytes] = {}

    def apply(self, result: ChunkResult) -> None:
        """Append what a chunk left."""
        for key, value in result.state.items():
            if value is None:
                self.newest.pop(key, None)
            else:
                self.newest[key] = value

    def recover(self, **settings: Any) -> Pipeline:
        """A new process that reads the changelog."""
        pipeline = new_pipeline(**settings)
        assert pipeline.stays.load(0, dict(self.newest)) == 0
        return pipeline
