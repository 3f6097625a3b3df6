"""Keeps a board current from Kafka for as long as the page is served, through a broker that goes and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Set
from contextlib import closing, suppress
from typing import Final, Literal

from kafka.errors import KafkaError
from kafka.structs import TopicPartition

from model.manifest import ArtifactError, read_manifest
from schemas.signals import known_signals
from stream_worker.clients import KafkaFaultError
from stream_worker.connection import BrokerUnreachableError, check_broker
from stream_worker.settings import Settings, SettingsError
from stream_worker.view.board import Board
from stream_worker.view.read_back import read_back
from stream_worker.ward_feed import TopicChangedError, WardFeed, ward_times

# Heartbeats come every 10 s at most; silence longer than this is a reason to ask whether the broker is there.
ASK_AFTER_S: Final = 3.0
# With the broker, or with a file of the settings, which may be replaced: it is tried again.
TROUBLE: Final = (BrokerUnreachableError, KafkaFaultError, KafkaError, SettingsError)
TRY_AGAIN_S: Final = 2.0

State = Literal["live", "lost"]


class Link:
    """How the board hangs on Kafka: said on the page."""

    def __init__(self) -> None:
        self.state: State = "live"
        self.fault = ""  # what Kafka refuses, where it answers
        self.is_reading_back = False
        self.has_read_alerts = True  # before, some that are over seem open
        self.since_ms = int(time.time() * 1000)

    def turn(self, state: State, fault: str = "") -> None:
        """Note the state, and since when it holds."""
        self.fault = fault
        if state != self.state:
            self.state, self.since_ms = state, int(time.time() * 1000)


def page_board(settings: Settings) -> Board:
    """An empty board with the limits, times and model of the settings, which should be the worker's."""
    return Board(settings.limits, signals=_signals(settings), **ward_times(settings))


def _signals(settings: Settings) -> Set[str] | None:
    """What a worker with these settings knows; None if its model is not here."""
    try:
        return {signal.name for signal in known_signals(read_manifest(settings.model).inputs)}
    except ArtifactError:
        return None


def follow(settings: Settings, feed: WardFeed, board: Board, link: Link, stop: threading.Event) -> None:
    """Apply what comes, and beside it the last hours, until `stop` is set, whatever happens to the broker."""
    current: WardFeed | None = feed
    alerts_from: dict[TopicPartition, int] = {}
    link.has_read_alerts = feed.has_read_alerts
    while not stop.is_set():
        try:
            with closing(current or WardFeed(settings, alerts_from=alerts_from)) as connected:
                _begin_reading_back(settings, connected, board, link, stop)
                try:
                    _read(settings, connected, board, link, stop)
                finally:
                    if connected.has_read_alerts:
                        alerts_from = connected.alert_positions()
        except TopicChangedError:
            board.clear()
            alerts_from, link.has_read_alerts = {}, False
        except TROUBLE as error:
            link.turn("lost", str(error) if isinstance(error, KafkaFaultError) else "")
            stop.wait(TRY_AGAIN_S)
        current = None


def _begin_reading_back(settings: Settings, feed: WardFeed, board: Board, link: Link, stop: threading.Event) -> None:
    """Fill the board with what lies before the feed's start, unless that is still going on from an earlier feed."""
    if link.is_reading_back:
        return
    link.is_reading_back = True
    until = {partition: start for partition, start in feed.starts.items() if partition.topic != settings.alerts_topic}

    def run() -> None:
        try:
            with suppress(*TROUBLE):  # the feed meets it too
                read_back(settings, board, until, stop)
        finally:
            link.is_reading_back = False

    threading.Thread(target=run, name="read-back", daemon=True).start()


def _read(settings: Settings, feed: WardFeed, board: Board, link: Link, stop: threading.Event) -> None:
    """Read until `stop` is set. Raises: what follow catches, once the broker does not answer any more."""
    link.turn("live")
    heard = time.monotonic()
    while not stop.is_set():
        if feed.poll(board, timeout_s=0.2):
            heard = time.monotonic()
        elif time.monotonic() - heard > ASK_AFTER_S:
            check_broker(settings)
            heard = time.monotonic()
        link.has_read_alerts = link.has_read_alerts or feed.has_read_alerts  # which a quiet topic tells too
