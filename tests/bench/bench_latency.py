"""How long a reading waits for its forecast: from its Kafka timestamp to a read_committed consumer."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from tests.bench.load import Load
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics

SECONDS = float(os.environ.get("VITALCAST_BENCH_SECONDS", "20"))
STAYS = 1000


@pytest.mark.parametrize("rate", [1, 100, 1000, 10_000, 12_500, 16_000])
def bench_latency(kafka: Broker, topics: Topics, start_worker: WorkerStarter, rate: float) -> None:
    worker = start_worker()
    os.sched_setaffinity(worker.pid, {0})
    load = Load(kafka, topics, rate, SECONDS, STAYS)
    cpu_s: list[float] = []

    def look() -> None:
        load.warm.wait()
        cpu_s.append(worker.metric("process_cpu_seconds_total"))

    threading.Thread(target=look, daemon=True).start()
    waits = load.waits().wait_ms
    used_s = worker.metric("process_cpu_seconds_total") - cpu_s[0]
    figures = ", ".join(f"p{q:g} {np.percentile(waits, q):.0f} ms" for q in (50, 99, 99.9))
    print(f"\n{rate} readings/s: {figures}, {100 * used_s / SECONDS:.0f} % of a core")
