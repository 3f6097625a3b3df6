"""What is remembered of a stay's conditions, as the changelog has it: new fields go to the end, none is moved."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from schemas.alert import Cause, Kind, Priority, Side
from stream_worker.times import NEVER

# An alert that stays open is told again after so long, so that a topic that is kept for longer has all that are open.
TOLD_EVERY_S: Final = 86_400.0


class Excursion(msgspec.Struct, array_like=True):
    """A condition that goes on, brief returns included; `since_us` is NEVER while it is off."""

    since_us: int = NEVER
    recovered_since_us: int | None = None  # since when the condition has been off
    returned_us: int = 0  # for how long it was off before, within the excursion


class AlertKey(NamedTuple):
    """What an alert is about. A stay has at most one open alert for each."""

    kind: Kind
    signal: str | None = None
    side: Side | None = None
    cause: Cause | None = None


class AlertEntry(Excursion, array_like=True):
    """One condition of a stay: an excursion that may become an alert, an open alert, or one at rest after it."""

    priority: Priority = "medium"
    raised_offset: int | None = None  # None: not raised
    revision: int = 0
    severe_since_us: int | None = None
    rested_until_us: int = NEVER  # not to be raised again before
    is_held: bool = False  # would be raised, were it not held back
    figure: float | None = None  # what was last reported of it, where a change of that is worth reporting
    known: Excursion | None = None  # forecast_limit: the value itself beyond the limit
    raised_us: int = NEVER  # when it was raised
    found_us: int = NEVER  # when it was last seen to be on
    judged_us: int = NEVER  # when it was last known to be on, or off
    limit: float | None = None  # that was last told of
    moved_since_us: int | None = None  # since when the figure has been another than was last told
    care_unit: str | None = None  # that was last told of
    elsewhere_since_us: int | None = None  # since when the stay has been in another one

    def judge(self, at_us: int) -> None:
        """Note that a reading says whether it is on or off, or why that cannot be believed."""
        self.judged_us = max(self.judged_us, at_us)

    def tell_in(self, care_unit: str | None) -> None:
        """Note in which care unit it is told of."""
        self.care_unit, self.elsewhere_since_us = care_unit, None
