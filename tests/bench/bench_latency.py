"""How long a reading waits for its forecast: from its Kafka timestamp to a read_committed consumer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import orjson
import pytest
from confluent_kafka import Consumer, Producer

from tests.bench.bench_worker import backlog, metric
from tests.conftest import WorkerStarter
from tests.kafka_broker import Broker
from tests.kafka_client import Topics

SECONDS = float(os.environ.get("VITALCAST_BENCH_SECONDS", "20"))
STAYS = 1000


class Feed(threading.Thread):
    """Sends readings at a steady rate, and notes when the broker took each."""

    def __init__(self, servers: str, topic: str, rate: float) -> None:
        super().__init__(daemon=True)
        self._producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", "linger.ms": 0})
        self._topic, self._rate = topic, rate
        self.taken_ms: dict[tuple[int, int], int] = {}

    def run(self) -> None:
        """Send for SECONDS, then stop."""
        readings: Iterator[tuple[str, bytes]] = backlog(STAYS, 1)
        start = time.monotonic()
        for number in range(int(self._rate * SECONDS)):
            while time.monotonic() < start + number / self._rate:
                self._producer.poll(0)
                time.sleep(0.0005)
            key, value = next(readings)
            self._producer.produce(self._topic, key=key, value=value, on_delivery=self._note)
        self._producer.flush(30)

    def _note(self, error: object, message: object) -> None:
        assert error is None
        self.taken_ms[message.partition(), message.offset()] = message.timestamp()[1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("rate", [1, 100, 1000, 10_000])
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
    cpu_s = metric(worker.metrics(), "process_cpu_seconds_total")
    feed.start()
    seen_ms: dict[tuple[int, int], float] = {}
    expected, end = int(rate * SECONDS), time.monotonic() + SECONDS + 30
    while len(seen_ms) < expected and time.monotonic() < end:
        # What is there, at once: a wait for more would count as the worker's.
        first = consumer.poll(0.05)
        messages = [] if first is None else [first, *consumer.consume(1000, 0)]
        now_ms = time.time() * 1000
        for message in messages:
            source = orjson.loads(message.value())["source"]
            seen_ms[source["partition"], source["offset"]] = now_ms
    feed.join()
    cpu_s = metric(worker.metrics(), "process_cpu_seconds_total") - cpu_s
    consumer.close()
    assert len(seen_ms) == expected
    waits = np.array([seen_ms[place] - taken for place, taken in feed.taken_ms.items()])
    figures = ", ".join(f"p{q:g} {np.percentile(waits, q):.0f} ms" for q in (50, 99, 99.9))
    print(f"\n{rate} readings/s: {figures}, {100 * cpu_s / SECONDS:.0f} % of a core")
