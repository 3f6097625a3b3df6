"""Cross-validation, end to end on a signal of no clinical meaning."""

from __future__ import annotations

from pathlib import Path

from model.compare import cross_validate, summary
from model.config import ForecasterConfig
from tests.model.synthetic import synthetic_recording


def test_every_stay_is_forecast_once_beside_quantile_trees(value_config: ForecasterConfig, tmp_path: Path) -> None:
    recordings = [synthetic_recording(tmp_path, value_config, 200, seed) for seed in range(4)]
    report = cross_validate(
        recordings, value_config, tmp_path / "out", count=2, updates=4, baselines=False, quantile_rows=200
    )
    assert set(report.stays) == {f"synthetic-{seed:02d}" for seed in range(4)}
    cells = [(found.signal, found.horizon_s, found.count, found.persistence_mae) for found in report.scores]
    assert cells == [
        (trees.signal, trees.horizon_s, trees.count, trees.persistence_mae) for trees in report.quantile_trees
    ]
    assert "of 2" in summary(report)
    assert "Bands beside quantile trees" in Path(report.page).read_text(encoding="utf-8")
