"""Times as the columns have them: whole microseconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
DAY_US: Final = 86_400 * SECOND_US
BREAK_US: Final = 301 * SECOND_US  # longer than between the sparsest regular readings, one in five minutes
LONGEST_S: Final = 1e9  # 30 years: longer than any stay, and what microseconds in 64 bits hold with any time of ours
NEVER: Final = -(2**63)  # a time that has not been; the least of the columns' integers


def to_us(time: datetime) -> int:
    """Microseconds since the epoch; exact for any time of our centuries."""
    return round(time.timestamp() * SECOND_US)


def to_ms(time: datetime) -> int:
    """Whole milliseconds since the epoch, as Kafka and browsers have them."""
    return to_us(time) // 1000


def to_time(us: int) -> datetime:
    """The aware UTC time of `us` microseconds since the epoch."""
    return datetime.fromtimestamp(us // SECOND_US, UTC).replace(microsecond=us % SECOND_US)


@lru_cache(maxsize=65_536)
def to_text(us: int) -> str:
    """RFC 3339 in UTC of `us` microseconds since the epoch; without a fraction where there is none."""
    return to_time(us).isoformat().replace("+00:00", "Z")
