"""Where to read each input partition on: where its state ends, if that input is still the one the state was made from.

State, outputs and the group's committed offset move in one transaction, so they end at the same record. Where they do
not, something was lost or replaced from outside:

    begin          state            committed          end
      |--------------|#################|-----------------|
                     redone: the changelog was lost or is an old copy; records are taken again, for their state alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition

from stream_worker.chunks.options import WorkerError

# By how much the clocks of those who write readings may differ from ours.
CLOCK_TOLERANCE_MS: Final = 300_000


class InputLog(NamedTuple):
    """An input partition as it is."""

    begin: int
    end: int
    committed: int | None  # by the group
    is_newer_than_state: bool  # every record in it was written after the state


class Start(NamedTuple):
    """Where to go on."""

    offset: int
    published_until: int  # outputs of records before are out: they are taken for their state alone; 0 if there are none
    lost: int  # records that nobody has taken and the log no longer holds


def start_of(partition: TopicPartition, log: InputLog, state_end: int | None, state_topic: str | None = None) -> Start:
    """Where to read on, if the state holds all records before `state_end` (None: there is no state).

    state_topic : that the state was made from; None where that is not known.

    Raises: WorkerError where records at known offsets would be others than those that were taken.
    """
    where = f"topic {partition.topic}, partition {partition.partition}"
    if state_topic not in (None, partition.topic):
        raise WorkerError(
            f"{where} is not what the state was made from: that is topic {state_topic}; "
            "run with a new app_id, or name that topic"
        )
    taken = max(state_end or 0, log.committed or 0)
    if log.end < taken:
        raise WorkerError(
            f"{where} ends at offset {log.end}, but was processed up to {taken}: it was made anew or has lost records; "
            "run with a new app_id, or bring the topic back"
        )
    # Kafka forgets a group's offsets when the topic is deleted, and when nobody has used them for very long.
    if state_end is not None and log.committed is None and log.begin < state_end and log.is_newer_than_state:
        raise WorkerError(
            f"{where} holds no record as old as its state, and the group has no offset in it: it was made anew; "
            "run with a new app_id, or bring the topic back"
        )
    offset = max(state_end or 0, log.begin)
    committed = log.committed or 0
    lost = max(0, log.begin - taken) if taken else 0
    return Start(offset, published_until=committed if offset < committed else 0, lost=lost)


async def look_at(
    consumer: Any, partitions: Sequence[TopicPartition], state_written_ms: Mapping[int, int]
) -> dict[TopicPartition, InputLog]:
    """The partitions as they are. `state_written_ms`: when their newest state was written."""
    committed = {partition: await consumer.committed(partition) for partition in partitions}
    begins = await consumer.beginning_offsets(partitions)
    ends = await consumer.end_offsets(partitions)
    doubtful = {
        partition: max(0, state_written_ms[partition.partition] - CLOCK_TOLERANCE_MS)
        for partition in partitions
        if committed[partition] is None and partition.partition in state_written_ms
    }
    first_after = await consumer.offsets_for_times(doubtful) if doubtful else {}
    return {
        partition: InputLog(
            begin=begins[partition],
            end=ends[partition],
            committed=committed[partition],
            is_newer_than_state=(found := first_after.get(partition)) is not None and found.offset <= begins[partition],
        )
        for partition in partitions
    }
