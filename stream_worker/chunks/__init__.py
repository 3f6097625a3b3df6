"""Faust by the chunk: whole fetched batches as events, exactly-once output lanes, bulk table recovery.

Knows nothing of vital signs. Stock Faust hands over one record at a time, commits by counting acknowledged records and
recovers tables record by record: many times slower (docs/performance.md: 14 and 51), and not exactly once
(docs/decisions/chunked-transport.md).

    broker -> ChunkConsumer: one event = one Chunk, the next records of all partitions that have some
           -> the application's agent: computes, changes the table's memory
           -> Lane of each partition: outputs, changed state and the next offset in one Kafka transaction
"""

from stream_worker.chunks.fetching import Records
from stream_worker.chunks.lane import Lane, Work
from stream_worker.chunks.options import ChunkOptions, WorkerError
from stream_worker.chunks.recovery import BulkStore, ChunkTableManager
from stream_worker.chunks.transport import Chunk, ChunkBootStrategy, ChunkTransport

__all__ = [
    "BulkStore",
    "Chunk",
    "ChunkBootStrategy",
    "ChunkOptions",
    "ChunkTableManager",
    "ChunkTransport",
    "Lane",
    "Records",
    "Work",
    "WorkerError",
]
