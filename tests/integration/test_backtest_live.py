"""A backtest says what a worker does: the same recordings through a real Kafka leave the same alerts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.alert import ALERT_V1, Alert
from schemas.recordings import Row, find_recordings, read_rows
from stream_worker.backtest.feed import alerts_of, new_pipeline, partitions_of, results_of
from stream_worker.settings import Settings
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Message, Topics, read_committed
from tests.recordings import write_recording
from tests.worker_process import run_vitalcast

ROWS = 500
STAYS = 6
BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
SIGNALS = ("hr", "pulse", "resp", "spo2", "abp_sys", "abp_dia", "abp_mean")


def synthetic(stay: int) -> list[Row]:
    """A patient whose pressure sinks and recovers again and again, whose sensors come off, whose pulse jumps."""
    rows = []
    for minute in range(ROWS):
        phase = (minute + 40 * stay) % 180
        mean = 80 - max(0, min(phase - 60, 30, 130 - phase)) + (minute * 7 + stay) % 5 / 2
        values = {"hr": 80.0 + minute % 4, "resp": 16.0 + minute % 3, "abp_mean": mean, "spo2": 97.0 - minute % 2}
        if phase > 150:
            values["hr"] = 155.0
        if 300 < minute < 360:
            del values["spo2"]
        rows.append(Row(BEGIN + timedelta(minutes=minute), values))
    return rows


def recorded(folder: Path) -> list[list[Row]]:
    """The first rows of real stays, moved to one beginning: their recorded years may lie ahead of the clock."""
    stays = []
    for path in find_recordings(folder)[:STAYS]:
        rows = [row for row in read_rows(path) if row.values][:ROWS]
        stays.append([Row(row.time - rows[0].time + BEGIN, row.values) for row in rows])
    return stays


def alerts_in(messages: list[Message], partition: int) -> list[Alert]:
    own = [m for m in messages if m.partition == partition and m.json()["schema"] == ALERT_V1]
    return [timeless(msgspec.json.decode(m.value or b"", type=Alert)) for m in sorted(own, key=lambda m: m.offset)]


def timeless(alert: Alert) -> Alert:
    """Without the one field that is not determined by the readings."""
    return msgspec.structs.replace(alert, produced_at=BEGIN)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("source", ["synthetic", "recorded"])
def test_live_and_backtest_raise_the_same_alerts(
    source: str,
    request: pytest.FixtureRequest,
    kafka: Broker,
    topics: Topics,
    start_worker: WorkerStarter,
    tmp_path: Path,
) -> None:
    stays = [synthetic(stay) for stay in range(STAYS)]
    if source == "recorded":
        stays = recorded(request.getfixturevalue("recordings"))
    paths = [write_recording(tmp_path, f"stay-{i}", rows) for i, rows in enumerate(stays)]

    # A small budget, so that its controller has a say; small chunks, so that live cuts elsewhere than the backtest.
    chosen: dict[str, Any] = {"alert_budget_per_patient_day": 6.0, "chunk_records": 100}
    expected: dict[int, list[Alert]] = {}
    leaves = 0
    for partition, own in partitions_of(paths).items():
        pipeline = new_pipeline(Settings(readings_topic=topics.readings, **chosen))
        results = list(results_of(pipeline, own, partition))
        expected[partition] = [timeless(alert) for alert in alerts_of(results)]
        leaves += sum(len(result.forecasts) + len(result.dead_letters) for result in results)

    start_worker(**chosen)
    settings = {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings}
    sent = run_vitalcast("replay", *map(str, paths), "--speed", "max", folder=tmp_path, settings=settings)
    assert sent.returncode == 0, sent.stderr
    outputs = (topics.forecasts, topics.dead_letters)
    read_committed(kafka.bootstrap_servers, *outputs, until=lambda found: len(found) >= leaves, timeout_s=200)
    messages = read_committed(kafka.bootstrap_servers, topics.alerts)
    assert {partition: alerts_in(messages, partition) for partition in expected} == expected
    assert sum(alert.state == "raised" for alerts in expected.values() for alert in alerts) > STAYS
