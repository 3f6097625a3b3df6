"""A chunk in parts: every record once, each partition in order, none of the parts much larger than asked for."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stream_worker.agent import parts_of


@given(st.dictionaries(st.integers(0, 9), st.integers(1, 300), min_size=1), st.integers(1, 100))
def test_parts_hold_every_record_once_and_in_order(lengths: dict[int, int], most: int) -> None:
    chunk: Any = {partition: list(range(length)) for partition, length in lengths.items()}
    found: dict[int, list[int]] = {partition: [] for partition in lengths}
    for part in parts_of(chunk, most):
        assert sum(map(len, part.values())) <= most + len(lengths)
        for partition, records in part.items():
            assert len(records)
            found[partition] += [int(record) for record in records]
    assert found == chunk
