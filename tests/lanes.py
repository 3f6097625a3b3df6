"""Lanes as a worker makes them, without the worker."""

from __future__ import annotations

from aiokafka import TopicPartition

from stream_worker.chunks import Lane
from tests.kafka_client import Topics


async def _no_commit(_offsets: object) -> None:
    raise AssertionError("offsets are part of the transaction")


def new_lane(
    servers: str, topics: Topics | None = None, *, partition: int = 0, failures: list[BaseException] | None = None
) -> Lane:
    """A lane that writes exactly once, not opened. `failures` gets what ends it."""
    topics = topics or Topics.unique()
    return Lane(
        TopicPartition(topics.readings, partition),
        group_id=topics.app_id,
        changelog_topic=topics.changelog,
        producer_config={"bootstrap_servers": servers},
        exactly_once=True,
        commit=_no_commit,
        on_failure=([] if failures is None else failures).append,
    )
