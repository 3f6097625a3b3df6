"""`vitalcast view`: the ward in the browser until Ctrl-C."""

from __future__ import annotations

import socket
from contextlib import closing

from rich.console import Console

from stream_worker.health import bind
from stream_worker.log import describe
from stream_worker.settings import LOOPBACK, Settings, SettingsError
from stream_worker.stopping import stop_on_signals
from stream_worker.threads import Beside
from stream_worker.view.link import Link, follow, page_board
from stream_worker.view.server import serving
from stream_worker.ward_feed import WardFeed


class ReaderError(Exception):
    """What reads the topics for the page has failed; the message is one line for the user and quotes no record."""


def run_view(settings: Settings, console: Console, duration_s: float | None) -> None:
    """Serve the page of the settings' topics until Ctrl-C, or for so many seconds.

    Raises: SettingsError, BrokerUnreachableError, KafkaFaultError, PortTakenError, ReaderError.
    """
    board, link = page_board(settings), Link()
    with (
        listening(settings, settings.view_port) as bound,
        closing(WardFeed(settings)) as feed,
        stop_on_signals() as stop,
    ):
        address = address_of(settings.view_host, bound.getsockname()[1])
        # Served on after a fault, the page would take its own silence for the worker's.
        reader = Beside("reader", lambda: follow(settings, feed, board, link, stop), on_fault=stop.set)
        reader.start()
        with serving(settings, board, link, bound):
            console.print(f"Live page: {address} · Kafka {settings.bootstrap_servers} · Ctrl-C ends", soft_wrap=True)
            if settings.view_token is not None:
                console.print("The page asks for view_token. Put TLS in front of it before others use it.")
            stop.wait(duration_s)
        stop.set()
        reader.join(3)
        if reader.fault is not None:
            fault = describe(reader.fault)
            raise ReaderError(f"the page's reader has ended: {fault['type']} at {fault['at'][-1]}") from reader.fault


def listening(settings: Settings, port: int) -> socket.socket:
    """A socket for the page at `port`; 0: at a free one.

    Raises: SettingsError if others than this machine could look without a token; PortTakenError.
    """
    if settings.view_host not in LOOPBACK and settings.view_token is None:
        raise SettingsError(f"view_host {settings.view_host} is not this machine alone: set view_token")
    return bind(settings.view_host, port, "view")


def address_of(host: str, port: int) -> str:
    """The page's address."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
