"""The worker's HTTP: /metrics, /health/live, /health/ready. Nothing with patient data."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

# The loop is late by tens of milliseconds under load; this late it hangs.
LIVE_WITHIN_S: Final = 30.0
# A connection without a request is closed then; aiohttp's own limit is an hour. Connections use up the files that the
# process may have open, and with them its way to Kafka. Longer than Prometheus, or a proxy, waits between requests.
IDLE_S: Final = 75.0


class PortTakenError(Exception):
    """The HTTP port cannot be used; the message is one line for the user."""


def bind(host: str, port: int, setting: str = "http") -> socket.socket:
    """A bound socket, before anything else is started; `setting` begins the names in the error.

    Raises: PortTakenError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise PortTakenError(
            f"{setting}_host {host}, {setting}_port {port}: {error.strerror or 'cannot be bound'}"
        ) from error
    return bound


class Health:
    """What the worker knows of itself."""

    def __init__(self) -> None:
        self._moved_at = time.monotonic()
        self.is_ready = False

    def touch(self) -> None:
        """The loop moved."""
        self._moved_at = time.monotonic()

    @property
    def is_live(self) -> bool:
        """Whether the loop moved lately."""
        return time.monotonic() - self._moved_at < LIVE_WITHIN_S


async def serve(bound: socket.socket, health: Health, registry: CollectorRegistry) -> web.AppRunner:
    """Start answering on `bound`; the caller cleans the runner up."""

    def answer(is_good: Callable[[], bool], good: str, bad: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(_request: web.Request) -> web.Response:
            return web.Response(text=good + "\n") if is_good() else web.Response(text=bad + "\n", status=503)

        return handle

    application = web.Application()
    application.router.add_get("/metrics", make_aiohttp_handler(registry))
    application.router.add_get("/health/live", answer(lambda: health.is_live, "live", "the event loop hangs"))
    application.router.add_get("/health/ready", answer(lambda: health.is_ready, "ready", "not ready"))
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=IDLE_S)
    await runner.setup()
    await web.SockSite(runner, bound).start()
    return runner
