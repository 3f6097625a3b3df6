"""How long a reading waits for its forecast: from its Kafka timestamp to a read_committed consumer."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer

from tests.bench.bench_worker import backlog, metric
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics

SECONDS = float(os.environ.get("VITALCAST_BENCH_SECONDS", "20"))
WARM_UP_S = 10  # connections are made, the broker's code is compiled: not what a running worker is asked for
STAYS = 1000
FORECAST_ID = re.compile(rb'"forecast_id":"[^"]+-(\d+)-(\d+)"')
ID_BYTES = 200  # the beginning of a forecast, with the place of its reading


class Feed(threading.Thread):
    """Sends readings at a steady rate, and notes when the broker took each, from the WARM_UP_S-th second on."""

    def __init__(self, servers: str, topic: str, rate: float) -> None:
        super().__init__(daemon=True)
        self._producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random"})
        self._topic, self._rate = topic, rate
        self.taken_ms: dict[tuple[int, int], int] = {}

    def run(self) -> None:
        """Send to warm up, then for SECONDS."""
        readings: Iterator[tuple[str, bytes]] = backlog(STAYS, 1, turns=sys.maxsize)
        start = time.monotonic()
        first = int(self._rate * WARM_UP_S)
        for number in range(first + int(self._rate * SECONDS)):
            while time.monotonic() < start + number / self._rate:
                self._producer.poll(0)
                time.sleep(0.0005)
            key, value = next(readings)
            noted = {"on_delivery": self._note} if number >= first else {}
            self._producer.produce(self._topic, key=key, value=value, **noted)
        self._producer.flush(30)

    def _note(self, error: object, message: object) -> None:
        assert error is None
        self.taken_ms[message.partition(), message.offset()] = message.timestamp()[1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("rate", [1, 100, 1000, 10_000, 12_500, 18_000])
def bench_latency(kafka: Broker, topics: Topics, start_worker: WorkerStarter, rate: float) -> None:
    worker = start_worker()
    os.sched_setaffinity(worker.pid, {0})
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": f"{topics.app_id}-latency",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.subscribe([topics.forecasts])
    feed = Feed(kafka.bootstrap_servers, topics.readings, rate)
    feed.start()
    seen: list[tuple[float, bytes]] = []
    expected, end = int(rate * WARM_UP_S) + int(rate * SECONDS), time.monotonic() + WARM_UP_S + SECONDS + 30
    cpu_s = 0.0
    while len(seen) < expected and time.monotonic() < end:
        # What is there, at once: a wait for more would count as the worker's. It is looked at later.
        first = consumer.poll(0.05)
        messages = [] if first is None else [first, *consumer.consume(1000, 0)]
        now_ms = time.time() * 1000
        seen += [(now_ms, message.value()[:ID_BYTES]) for message in messages]
        if not cpu_s and feed.taken_ms:
            cpu_s = metric(worker.metrics(), "process_cpu_seconds_total")
    feed.join()
    cpu_s = metric(worker.metrics(), "process_cpu_seconds_total") - cpu_s
    consumer.close()
    seen_ms = {}
    for now_ms, beginning in seen:
        ((partition, offset),) = FORECAST_ID.findall(beginning)
        seen_ms[int(partition), int(offset)] = now_ms
    assert len(seen_ms) == len(seen) == expected
    waits = np.array([seen_ms[place] - taken for place, taken in feed.taken_ms.items()])
    figures = ", ".join(f"p{q:g} {np.percentile(waits, q):.0f} ms" for q in (50, 99, 99.9))
    print(f"\n{rate} readings/s: {figures}, {100 * cpu_s / SECONDS:.0f} % of a core")
