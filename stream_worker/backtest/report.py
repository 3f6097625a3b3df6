"""What a backtest tells of some recordings, for the tables, the page and the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from model.manifest import Manifest
from stream_worker.backtest.curve import Curve
from stream_worker.backtest.episodes import Recording
from stream_worker.backtest.measures import Measures, Span, measure


class BacktestReport(msgspec.Struct, frozen=True):
    """What a backtest found.

    groups : all stays; and, where the model was trained on some of them, those it has not seen apart.
    stays : the alerts of each kind per patient-day, and in all, of each stay alone.
    curve : early warning of hypotension at other thresholds, if it was asked for.
    """

    model: str
    version: str
    sha256: str
    groups: tuple[Measures, ...]
    stays: Mapping[str, Mapping[str, float]]
    curve: Curve | None = None


def report_of(
    manifest: Manifest, recordings: Mapping[str, Recording], spans: Sequence[Span], curve: Curve | None = None
) -> BacktestReport:
    """The report on `spans`, the alerts of `recordings`."""
    groups = [measure("all stays", list(recordings.values()), spans)]
    unseen = unseen_of(recordings, manifest)
    if 0 < len(unseen) < len(recordings):
        groups.append(measure("stays the model was not trained on", [recordings[s] for s in unseen], spans))
    alone = {stay_id: measure(stay_id, [recording], spans) for stay_id, recording in recordings.items()}
    return BacktestReport(
        model=manifest.name,
        version=manifest.version,
        sha256=manifest.sha256,
        groups=tuple(groups),
        stays={stay_id: {"all": group.raised_per_day, **group.by_kind} for stay_id, group in alone.items()},
        curve=curve,
    )


def unseen_of(stay_ids: Iterable[str], manifest: Manifest) -> list[str]:
    """The stays that the model was not trained on."""
    return [stay_id for stay_id in stay_ids if stay_id not in manifest.training.stays]
