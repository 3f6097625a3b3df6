"""What the value of a step is: the one definition that training, evaluation and serving share. No torch."""

from __future__ import annotations

import numpy as np

from model.arrays import Ints

NEVER_S = 86_400.0  # what a model is told of an input that was never observed, and the longest it is told of any


def step_value(total: Ints, lowest: Ints, highest: Ints, count: Ints) -> Ints:
    """The value of a step from the sum, the extremes and the number of its readings, all in steps of precision.

    A mean without the lowest and the highest value, from three values on: one artefact to either side costs nothing,
    the state is four numbers, and the order of the readings does not matter (trimmed mean; Tukey 1962). Any shape;
    0 where there is no reading.
    """
    trimmed = (total - lowest - highest) / np.maximum(count - 2, 1)
    value = np.where(count >= 3, trimmed, total / np.maximum(count, 1))
    return np.rint(value).astype(np.int64)
