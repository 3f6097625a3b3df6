"""All recordings through Kafka into one worker, as fast as it goes: every record has one outcome, and what it costs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.bench.bench_worker import measure
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, read_committed
from tests.worker_process import run_vitalcast, sum_of


def bench_all_recordings(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, recordings: Path, tmp_path: Path
) -> None:
    worker = start_worker()
    settings = {"bootstrap_servers": kafka.bootstrap_servers, **topics.settings}
    command = ("replay", str(recordings.resolve()), "--speed", "max")
    replayed = run_vitalcast(*command, folder=tmp_path, settings=settings, timeout_s=300)
    found = re.search(r"sent (\d+)", replayed.stdout + replayed.stderr)
    assert replayed.returncode == 0, replayed.stderr
    assert found, replayed.stdout
    sent = int(found[1])
    figures = measure(worker, sent)
    done = worker.metrics()

    forecasts: set[str] = set()
    dead, open_alerts = 0, dict[str, int]()
    for message in read_committed(kafka.bootstrap_servers, *topics.outputs, timeout_s=600):
        body = message.json()
        match body["schema"]:
            case "vitals.forecast.v1":
                assert body["forecast_id"] not in forecasts
                forecasts.add(body["forecast_id"])
                for signal in body["signals"].values():
                    assert all(row == sorted(row) for row in signal["quantiles"])
            case "vitals.dead-letter.v1":
                dead += 1
            case "vitals.alert.v1" if body["state"] == "raised":
                assert open_alerts.setdefault(body["alert_id"], 0) == body["revision"] == 0
            case "vitals.alert.v1":
                open_alerts[body["alert_id"]] += 1
                assert open_alerts[body["alert_id"]] == body["revision"]
                if body["state"] == "cleared":
                    del open_alerts[body["alert_id"]]
    duplicates = sum_of(done, 'vitalcast_readings_total{outcome="duplicate"}')
    assert sent == len(forecasts) + dead + duplicates
    print(f"\n{sent} sent = {len(forecasts)} forecasts + {dead} dead letters + {duplicates:.0f} duplicates")
    print(f"{len(open_alerts)} alerts are still open")
    for name, value in figures.items():
        print(f"  {name:28s} {value:10.1f}")
