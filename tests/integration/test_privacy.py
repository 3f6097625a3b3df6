"""What is known of patients stays in the topics: no id, name or value in logs, metrics or errors, whatever happens."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Producer

from stream_worker.stays import ENCODING, HEAD, PARTITION
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce, read_committed
from tests.patients import START, reading
from tests.worker_process import run_vitalcast

STAY, UNIT, DEVICE, NOTE = "Mueller-Anna-4711", "station-geheim", "monitor-neben-tuer", "hat-angst"
# Eighths, which no conversion of precision changes and no clock of two decimals happens to show.
VALUES = {"hr": 171.375, "spo2": 83.625, "temp": 40.625}
NAMES = (STAY, "Mueller", UNIT, DEVICE, NOTE)


def told(text: str) -> list[str]:
    """Which of the secrets are in `text`."""
    # A longer number that has one of the values in it is another number, unless more zeros are all it has.
    numbers = [value for value in VALUES.values() if re.search(rf"(?<!\d){re.escape(str(value))}(?!\d*[1-9])", text)]
    return [*(name for name in NAMES if name in text), *map(str, numbers)]


def test_nothing_of_a_patient_is_in_logs_metrics_or_errors(
    kafka: Broker, topics: Topics, start_worker: WorkerStarter, tmp_path: Path
) -> None:
    servers = kafka.bootstrap_servers
    more = {"device_id": DEVICE, "care_unit": UNIT, "note": NOTE}
    good = [(STAY, reading(STAY, START + timedelta(minutes=i), VALUES, **more)) for i in range(60)]
    bad: list[tuple[str, Any]] = [
        (STAY, reading(STAY, START, {"hr": NOTE}, **more)),
        (STAY, reading(STAY, START, {NOTE: VALUES["hr"]})),
        (STAY, reading(STAY, START + timedelta(days=40_000), VALUES, **more)),
        (STAY, f'{{"stay_id": "{STAY}", "vitals": {{"hr": 171.375'.encode()),
        (STAY, {"schema": "vitals.stay-event.v1", "stay_id": STAY, "at": NOTE, "event": UNIT}),
    ]
    produce(servers, topics.readings, [*good, *bad])
    worker = start_worker(log_level="DEBUG")
    read_committed(servers, topics.forecasts, topics.dead_letters, until=lambda found: len(found) == 65)
    assert any(STAY in str(alert.value) for alert in read_committed(servers, topics.alerts))  # it was noticed
    letters = [message.value or b"" for message in read_committed(servers, topics.dead_letters)]
    assert len(letters) == 5
    assert not told(b"".join(letters).decode())
    assert not told(worker.metrics())

    assert worker.terminate() == 0
    wrong = run_vitalcast(
        "state",
        "forget",
        STAY,
        "--within",
        "0",
        folder=tmp_path,
        settings={"bootstrap_servers": servers, **topics.settings},
    )
    assert wrong.returncode == 1
    assert not told(wrong.stderr)

    def write_past_it(key: bytes, value: bytes) -> None:
        producer = Producer({"bootstrap.servers": servers})
        producer.produce(topics.changelog, value, key, read_committed(servers, topics.forecasts)[0].partition)
        assert producer.flush(30) == 0

    # A record of the state that nobody can read, under the patient's id; then a fault that ends it.
    unreadable = HEAD + STAY.encode() + b"\xff" + NOTE.encode()
    write_past_it(unreadable, NOTE.encode())
    worker.start()
    read_committed(
        servers, topics.changelog, until=lambda found: (unreadable, None) in ((m.key, m.value) for m in found)
    )
    assert "state_unusable" in worker.log
    assert worker.terminate() == 0
    write_past_it(PARTITION, msgspec.msgpack.encode({"encoding": ENCODING, "next_offset": 10**6}))
    worker.start(ready_within_s=None)
    assert worker.wait(60) == 1
    assert "stopped_by_failure" in worker.log
    assert not told(worker.log)
