"""The alert budget of a partition's stays: what only advises is raised more sparingly while too much is raised.

The clock is monitored time, summed over the partition's stays: event time, and the same whatever the clock, the rate
of readings or the dates of the stays. Every `STEP_US` of it the controller moves by how much more was raised than the
budget allows (a cumulative sum with slack: Page 1954). It moves between two records of the partition's log that
the log alone determines, so every chunking and every restart gives the same alerts.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_worker.times import DAY_US

# Long enough to hold a few alerts, short enough for a ward of ten stays to feel it within an hour or two.
STEP_US: Final = DAY_US // 2
# Days' budgets that a ward may be ahead before anything happens: alerts come in clusters, and a ward that is right at
# its budget shall not be held back for the noise.
SLACK_DAYS: Final = 2.0
# Log-odds for each alert beyond budget and slack: two more days at twice a budget of 15 raise the thresholds by 1.
GAIN: Final = 0.033
# What is surest is told whatever the budget: thresholds never rise by more.
MOST: Final = 2.0
# One stay may take this many times its share. What it raises beyond is not the ward's, and its advice is held back: a
# bad sensor cannot silence the other beds.
STAY_SHARE: Final = 3.0


class Budget(msgspec.Struct, array_like=True):
    """The controller of one partition; its state is in the partition's changelog record."""

    shift: float = 0.0  # of the thresholds of advisory kinds, log-odds
    excess: float = 0.0  # alerts raised beyond the budget, less those that were not raised since
    monitored_us: int = 0  # since the last step
    raised: int = 0  # since the last step

    def step(self, per_day: float) -> None:
        """End a step: `per_day` alerts for each patient-day are allowed."""
        slack = SLACK_DAYS * per_day
        excess = self.excess + self.raised - per_day * STEP_US / DAY_US
        self.excess = min(max(excess, 0.0), slack + MOST / GAIN)
        self.shift = max(GAIN * (self.excess - slack), 0.0)
        self.monitored_us -= STEP_US
        self.raised = 0


def pass_time(budget: Budget, monitored_us: NDArray[np.int64]) -> list[int]:
    """Let time go on by what each of the partition's next readings adds, (n,).

    Returns, for each step that ends meanwhile, the reading that ends it: before that, the controller has to move.
    """
    total_us = budget.monitored_us + np.cumsum(monitored_us)
    budget.monitored_us = int(total_us[-1])
    if budget.monitored_us < STEP_US:
        return []
    steps = total_us // STEP_US
    ended: list[int] = np.repeat(np.arange(len(steps)), np.diff(steps, prepend=0)).tolist()
    return ended


class Allowance(msgspec.Struct, array_like=True):
    """What one stay may still raise: a bucket that fills with its own event time."""

    alerts: float
    at_us: int

    @classmethod
    def full(cls, per_day: float, at_us: int) -> Allowance:
        """That of a stay that has raised nothing for long."""
        return cls(_burst(per_day), at_us)

    def at(self, at_us: int, per_day: float) -> float:
        """What there is at a later time."""
        filled = STAY_SHARE * per_day * max(at_us - self.at_us, 0) / DAY_US
        return min(self.alerts + filled, _burst(per_day))

    def spend(self, at_us: int, per_day: float) -> bool:
        """Take one alert; False if there was none left."""
        left = self.at(at_us, per_day)
        self.alerts, self.at_us = max(left - 1.0, 0.0), max(at_us, self.at_us)
        return left >= 1.0


def _burst(per_day: float) -> float:
    return max(per_day, 1.0)  # a day's share at once
