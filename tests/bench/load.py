"""A steady load and its echo: readings sent at a rate, and how long each waits for its forecast."""

from __future__ import annotations

import re
import sys
import threading
import time
from array import array
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from confluent_kafka import Consumer, KafkaError, Message, Producer
from numpy.typing import NDArray

from tests.bench.bench_worker import backlog
from tests.kafka_broker import Broker
from tests.kafka_client import Topics

WARM_UP_S = 10  # connections are made, the broker's code is compiled: not what a running worker is asked for
FORECAST_ID = re.compile(rb'"forecast_id":"[^"]+-(\d+)-(\d+)"')
ID_BYTES = 200  # the beginning of a forecast, with the place of its reading

Times = defaultdict[int, "array[float]"]  # ms by partition, in order of offset


class Waits(NamedTuple):
    """What came back, (n,): ms from the reading's Kafka timestamp to its forecast, and when, s after the warm-up."""

    wait_ms: NDArray[np.float64]
    at_s: NDArray[np.float64]


class Load(threading.Thread):
    """Sends readings of `stays` stays at a steady rate, WARM_UP_S seconds more than `seconds`."""

    def __init__(self, broker: Broker, topics: Topics, rate: float, seconds: float, stays: int) -> None:
        super().__init__(daemon=True)
        self._broker, self._topics = broker, topics
        self._rate, self._stays = rate, stays
        self._seconds = seconds
        self.count = int(rate * WARM_UP_S) + int(rate * seconds)
        self._taken_ms: Times = defaultdict(lambda: array("d"))
        self.warm = threading.Event()

    def run(self) -> None:
        """Send all."""
        # What a gateway would use: the default wait of 5 ms gathers a batch.
        producer = Producer({"bootstrap.servers": self._broker.bootstrap_servers, "partitioner": "murmur2_random"})
        readings = backlog(self._stays, 1, turns=sys.maxsize)
        start = time.monotonic()
        for number in range(self.count):
            while (now := time.monotonic()) < start + number / self._rate:
                producer.poll(0)
                time.sleep(0.0005)
            if now >= start + WARM_UP_S:
                self.warm.set()
            key, value = next(readings)
            producer.produce(self._topics.readings, key=key, value=value, on_delivery=self._note)
        producer.flush(30)

    def _note(self, error: KafkaError | None, message: Message) -> None:
        assert error is None
        self._taken_ms[message.partition()].append(message.timestamp()[1])

    def waits(self) -> Waits:
        """Send, and read the forecasts until the last: one for each reading, in their order, or an AssertionError."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._broker.bootstrap_servers,
                "group.id": f"{self._topics.app_id}-load",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
            }
        )
        consumer.subscribe([self._topics.forecasts])
        self.start()
        seen_ms: Times = defaultdict(lambda: array("d"))
        seen, end = 0, time.monotonic() + WARM_UP_S + self._seconds + 30
        while seen < self.count:
            assert time.monotonic() < end, f"{seen} of {self.count} forecasts"
            # What is there, at once: a wait for more would count as the worker's.
            first = consumer.poll(0.05)
            messages = [] if first is None else [first, *consumer.consume(1000, 0)]
            now_ms = time.time() * 1000
            for message in messages:
                ((partition, offset),) = FORECAST_ID.findall(message.value()[:ID_BYTES])
                assert int(offset) == len(seen_ms[int(partition)])
                seen_ms[int(partition)].append(now_ms)
            seen += len(messages)
        consumer.close()
        self.join()
        taken = np.concatenate([np.array(self._taken_ms[partition]) for partition in sorted(seen_ms)])
        came = np.concatenate([np.array(seen_ms[partition]) for partition in sorted(seen_ms)])
        at_s = (taken - taken.min()) / 1000 - WARM_UP_S
        measured = at_s >= 0
        return Waits((came - taken)[measured], at_s[measured])
