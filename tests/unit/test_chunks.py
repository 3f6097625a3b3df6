"""What a fetch takes of each partition."""

from __future__ import annotations

from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.chunks.fetching import fetch_shares

PARTITIONS = [TP("readings", partition) for partition in range(4)]


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=4), st.integers(1, 8192))
def test_every_partition_gets_something_and_the_chunk_is_not_exceeded(waiting: list[int], max_records: int) -> None:
    shares = fetch_shares(dict(zip(PARTITIONS, waiting, strict=False)), max_records)
    assert min(shares.values()) >= max(1, max_records // 4 // len(waiting))
    assert sum(shares.values()) < max_records + len(waiting)  # one each is the least, however small the chunk


def test_backlogs_end_together_and_a_live_partition_does_not_wait_for_them() -> None:
    behind = dict(zip(PARTITIONS, [40_000, 30_000, 20_000, 10_000], strict=True))
    chunks = dry_after = 0
    while max(behind.values()):
        shares = fetch_shares(behind, 1024)
        behind = {partition: max(0, records - shares[partition]) for partition, records in behind.items()}
        chunks += 1
        dry_after += behind[PARTITIONS[3]] > 0
    assert chunks < 1.2 * 100_000 / 1024
    assert dry_after > 0.7 * chunks
    live = fetch_shares({PARTITIONS[0]: 1_000_000, PARTITIONS[1]: 3}, 1024)
    assert live[PARTITIONS[1]] >= 128


def test_equal_shares_while_nothing_is_known() -> None:
    assert set(fetch_shares(dict.fromkeys(PARTITIONS, 0), 1024).values()) == {256}
