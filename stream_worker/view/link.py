"""Keeps a board current from Kafka for as long as the page is served, through a broker that goes and comes back."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Final, Literal

from kafka.errors import KafkaError

from stream_worker.clients import KafkaFaultError
from stream_worker.connection import BrokerUnreachableError, check_broker
from stream_worker.settings import Settings
from stream_worker.view.board import Board
from stream_worker.ward_feed import WardFeed

# Of each partition. Eight stays read once a second fill four hours in four partitions; reading so much back takes
# some seconds, in which the page shows what it has.
READ_BACK: Final = 30_000
# Heartbeats come every 10 s at most; silence longer than this is a reason to ask whether the broker is there.
ASK_AFTER_S: Final = 3.0
TRY_AGAIN_S: Final = 2.0

State = Literal["reading_back", "live", "lost"]


class Link:
    """How the board hangs on Kafka: said on the page."""

    def __init__(self, state: State = "reading_back") -> None:
        self.state: State = state
        self.since_ms = int(time.time() * 1000)

    def turn(self, state: State) -> None:
        """Note the state, and since when it holds."""
        if state != self.state:
            self.state, self.since_ms = state, int(time.time() * 1000)


def page_feed(settings: Settings) -> WardFeed:
    """A feed that begins some hours back.

    Raises: BrokerUnreachableError, KafkaFaultError.
    """
    return WardFeed(settings, READ_BACK, every_forecast=True)


def follow(settings: Settings, feed: WardFeed, board: Board, link: Link, stop: threading.Event) -> None:
    """Apply what comes until `stop` is set, whatever happens to the broker."""
    current: WardFeed | None = feed
    while not stop.is_set():
        try:
            with closing(current or page_feed(settings)) as connected:
                _read(settings, connected, board, link, stop)
        except (BrokerUnreachableError, KafkaFaultError, KafkaError):
            link.turn("lost")
            stop.wait(TRY_AGAIN_S)
        current = None


def _read(settings: Settings, feed: WardFeed, board: Board, link: Link, stop: threading.Event) -> None:
    """Read until `stop` is set. Raises: what follow catches, once the broker does not answer any more."""
    link.turn("reading_back")
    heard = time.monotonic()
    while not stop.is_set():
        count = feed.poll(board, timeout_s=0.2)
        if count < 100:  # what a large poll brings is of the past, and more of it waits
            link.turn("live")
        if count:
            heard = time.monotonic()
        elif time.monotonic() - heard > ASK_AFTER_S:
            check_broker(settings)
            heard = time.monotonic()
