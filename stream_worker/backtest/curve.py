"""Recall of early warning against its price, at thresholds chosen on other stays than those they are judged on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Final

import msgspec
import numpy as np

from stream_worker.backtest.episodes import HYPOTENSION, Recording
from stream_worker.backtest.measures import Warned, Warnings, plain_alerts, warned_by, warnings_of
from stream_worker.backtest.threats import Threats, announced_at
from stream_worker.limits import SignalLimits

RECALLS: Final = (0.5, 0.6, 0.7, 0.8)
FOLDS: Final = 5
# Log-odds; from where nearly every minute is a threat to where almost none is.
THRESHOLDS: Final = tuple(np.round(np.arange(-3.4, -0.5, 0.1), 1).tolist())
# Plain rules to choose among: raised below `on`, cleared `above` it, not again within `rearm` min.
PLAIN: Final = tuple(product((66, 67, 68, 69, 70, 71, 72), (2, 4), (0, 30, 60)))
# Boosted trees with 64 features of the last 4 h, trained for this on 30 of the 40 stays of the Challenge 2009 and
# judged on the other 10, policy tuned on those: recall, alerts a day, precision, share of time open. Measured once.
TREES: Final = ((0.53, 3.3, 0.40, 0.04), (0.64, 4.8, 0.36, 0.06), (0.72, 5.7, 0.33, 0.08), (0.81, 7.2, 0.29, 0.09))


class Point(msgspec.Struct, frozen=True):
    """Early warning at the setting with the fewest alerts that reaches a recall.

    recall : asked for. warned : what came of it. settings : what was chosen, of each fold.
    """

    recall: float
    warned: Warned
    settings: tuple[str, ...]


class Curve(msgspec.Struct, frozen=True):
    """Points of the forecast rule, judged on other stays than it was tuned on, and of plain rules tuned on all.

    swept : the forecast rule on all stays at each threshold, by log-odds.
    """

    cross_validated: tuple[Point, ...]
    plain: tuple[Point, ...]
    swept: Mapping[str, Warned]


Table = Mapping[str, Mapping[str, Warnings]]  # by setting, then by stay


def curve_of(
    recordings: Mapping[str, Recording],
    threats: Mapping[str, Threats],
    limits: SignalLimits,
    track: Callable[[Iterable[float]], Iterable[float]] = lambda thresholds: thresholds,
) -> Curve:
    """The curve of the rule with `limits` but for its threshold. `track` shows how far it is."""
    table = {
        f"{threshold:g}": {
            stay_id: _warnings(recordings[stay_id], threats[stay_id], limits, threshold) for stay_id in sorted(threats)
        }
        for threshold in track(THRESHOLDS)
    }
    plain = {
        f"below {on}, off {on + above}, rearm {rearm}": {
            stay_id: warnings_of(recording, plain_alerts(recording.values[HYPOTENSION.signal], on, on + above, rearm))
            for stay_id, recording in recordings.items()
        }
        for on, above, rearm in PLAIN
    }
    return Curve(
        tuple(point for recall in RECALLS if (point := cross_validated(table, recall))),
        tuple(point for recall in RECALLS if (point := _tuned(plain, recall))),
        {setting: warned_by(setting, of_stay.values()) for setting, of_stay in table.items()},
    )


def _warnings(recording: Recording, threats: Threats, limits: SignalLimits, threshold: float) -> Warnings:
    at_threshold = limits.model_copy(update={"forecast_probability": float(1 / (1 + np.exp(-threshold)))})
    times = [
        (raised - recording.start, cleared - recording.start) for raised, cleared in announced_at(threats, at_threshold)
    ]
    return warnings_of(recording, times)


def cross_validated(table: Table, recall: float) -> Point | None:
    """Settings chosen on four fifths of the stays, judged on the fifth; None if a recall cannot be reached."""
    stay_ids = sorted(next(iter(table.values())))
    judged: list[Warnings] = []
    chosen: list[str] = []
    for fold in range(FOLDS):
        left_out = stay_ids[fold::FOLDS]
        setting = _fewest_alerts(table, [stay_id for stay_id in stay_ids if stay_id not in left_out], recall)
        if setting is None:
            return None
        chosen.append(setting)
        judged += [table[setting][stay_id] for stay_id in left_out]
    return Point(recall, warned_by("forecast_limit", judged), tuple(chosen))


def _tuned(table: Table, recall: float) -> Point | None:
    setting = _fewest_alerts(table, list(next(iter(table.values()))), recall)
    return None if setting is None else Point(recall, warned_by(setting, table[setting].values()), (setting,))


def _fewest_alerts(table: Table, stay_ids: Sequence[str], recall: float) -> str | None:
    found = {setting: warned_by(setting, (of_stay[s] for s in stay_ids)) for setting, of_stay in table.items()}
    reach = [setting for setting, warned in found.items() if warned.strict >= recall]
    return min(reach, key=lambda setting: found[setting].alerts_per_day, default=None)
