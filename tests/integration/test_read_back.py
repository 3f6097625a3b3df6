"""A board that begins late is filled with the hours before, beside what is live."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

from confluent_kafka import Producer

from schemas.codec import encode
from schemas.reading import STAY_EVENT_V1, Reading, StayEvent
from stream_worker.settings import Settings, load_settings
from stream_worker.view.board import HISTORY_MIN, Board, minute_of
from stream_worker.view.link import page_board
from stream_worker.view.read_back import read_back
from stream_worker.ward_feed import WardFeed
from tests.kafka_broker import Broker
from tests.kafka_client import Topics, produce, read_committed
from tests.waiting import eventually

STAYS = [f"s-{number}" for number in range(6)]
EVERY_S = 5


def filled(settings: Settings) -> Board:
    """A board with what is live, then with what was before."""
    board = page_board(settings)
    feed = WardFeed(settings)
    there = len(read_committed(settings.bootstrap_servers, settings.readings_topic)) - sum(feed.starts.values())

    def has_read_all() -> bool:
        feed.poll(board, timeout_s=0.1)
        return feed.read[settings.readings_topic] == there

    eventually(has_read_all, within_s=60)
    until = {partition: start for partition, start in feed.starts.items() if partition.topic != settings.alerts_topic}
    read_back(settings, board, until, threading.Event())
    feed.close()
    return board


def settings_of(kafka: Broker, topics: Topics) -> Settings:
    return load_settings(None, bootstrap_servers=kafka.bootstrap_servers, **topics.settings)


def test_the_last_hours_are_read_back_whatever_the_rate(kafka: Broker, topics: Topics) -> None:
    now = datetime.now(UTC).replace(second=30, microsecond=0)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "partitioner": "murmur2_random"})

    def send(stay_id: str, at: datetime, hr: float) -> None:
        value = encode(Reading(stay_id=stay_id, observed_at=at, vitals={"hr": hr}))
        producer.produce(topics.readings, key=stay_id, value=value, timestamp=int(at.timestamp() * 1000))
        producer.poll(0)

    send("long ago", now - timedelta(hours=9), 50)
    send("gone", now - timedelta(hours=3), 60)
    ended = encode(StayEvent(schema=STAY_EVENT_V1, stay_id="gone", at=now - timedelta(hours=2.9), event="ended"))
    sent_ms = int((now - timedelta(hours=2.9)).timestamp() * 1000)
    producer.produce(topics.readings, key="gone", value=ended, timestamp=sent_ms)
    for back in range(5 * 3600, 0, -EVERY_S):
        for stay_id in STAYS:
            send(stay_id, now - timedelta(seconds=back), 80)
    assert producer.flush(30) == 0
    board = filled(settings_of(kafka, topics))
    for stay_id in STAYS:
        minutes = sorted(board.past(stay_id).track("hr").values)
        assert minutes[-1] == minute_of(now - timedelta(seconds=EVERY_S))
        assert len(minutes) == HISTORY_MIN
        assert minutes[-1] - minutes[0] == HISTORY_MIN - 1, "without a gap"
    assert set(board.beds) - {"long ago"} == set(STAYS), "a stay that ended stays away"


def test_what_was_replayed_fast_is_read_back_too(kafka: Broker, topics: Topics) -> None:
    """Its Kafka timestamps are all of the last seconds."""
    start = datetime(2015, 6, 2, 16, tzinfo=UTC)
    times = [start + timedelta(seconds=10 * step) for step in range(1000)]
    records = [("a", encode(Reading(stay_id="a", observed_at=at, vitals={"hr": 80.0}))) for at in times]
    produce(kafka.bootstrap_servers, topics.readings, records)
    board = filled(settings_of(kafka, topics))
    assert len(board.past("a").track("hr").values) == 167


def test_signals_that_come_rarely_are_read_back_and_nothing_odd_ends_it(kafka: Broker, topics: Topics) -> None:
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)
    values: list[bytes] = []
    for second in range(0, 3600, 5):
        at = start + timedelta(seconds=second)
        vitals: dict[str, float | None] = {"hr": 80.0} if second % 60 < 50 else {"hr": 80.0, "temp": 37.0}
        values.append(encode(Reading(stay_id="a", observed_at=at, vitals=vitals)))
        if second % 600 == 300:
            values += [b'{"stay_id": "\xff", "observed_at": "now"}', b'{"stay_id":' * 50_000]
    produce(kafka.bootstrap_servers, topics.readings, [("a", value) for value in values])
    past = filled(settings_of(kafka, topics)).past("a")
    assert len(past.track("hr").values) == 60
    assert len(past.track("temp").values) == 60


def test_a_stop_ends_it_at_once(kafka: Broker, topics: Topics) -> None:
    settings = settings_of(kafka, topics)
    feed = WardFeed(settings)
    stop = threading.Event()
    stop.set()
    began = time.monotonic()
    read_back(settings, page_board(settings), dict.fromkeys(feed.starts, 1000), stop)
    feed.close()
    assert time.monotonic() - began < 5
