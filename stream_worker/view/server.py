"""The live page's HTTP: its files, the chart library, and one WebSocket a viewer that carries what changed."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from socket import socket
from typing import Any, Final

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from stream_worker.health import IDLE_S
from stream_worker.playback import Playback
from stream_worker.settings import Settings
from stream_worker.times import to_time
from stream_worker.view.access import ACCESS, Access, add_headers, guard, is_own_page, login
from stream_worker.view.bed_page import bed_page
from stream_worker.view.board import Board
from stream_worker.view.link import Link
from stream_worker.view.replay_control import replay_part, replay_routes
from stream_worker.view.tiles import MOST_TILES, head, sparks, tile
from stream_worker.ward import Bed

# Four times a second: a bed that is read once a second is sent once a second, and is on the screen within a third of
# one. Half as often would save 2 % of a core in the browser, and be later by a sixth of a second.
TICK_S: Final = 0.25
SPARKS_EVERY_S: Final = 10.0  # a sparkline's pixel is more than a minute
SPARKS_WITHIN_S: Final = 0.1  # of a tick: those of a thousand beds take seconds
BED_EVERY_S: Final = 1.0
VIEWERS: Final = 64
FULL: Final = f"{VIEWERS} viewers have this page open, as many as it serves. It is trying again."
SIGN_EVERY_S: Final = 3.0  # of life, where nothing changes: the page takes 15 s without one for a lost server
ASKED_BYTES: Final = 1024  # a viewer only says which page it shows
WARD: Final = "ward"
NOTHING: Final[Mapping[str, Any]] = {"set": {}, "drop": []}
SCRIPTS: Final = ("main.js", "ward.js", "bed.js", "chart.js", "replay.js", "words.js")
Parts = dict[str, Any]


class Pages:
    """What each page holds now, as parts by name. Made once a tick, however many look."""

    def __init__(self, board: Board, link: Link, playback: Playback | None = None) -> None:
        self._board = board
        self._link = link
        self._playback = playback
        self._made: dict[str, tuple[float, Parts]] = {}
        self._sparks: dict[str, tuple[float, Any]] = {}

    def parts(self, show: str) -> Parts:
        """The ward, or the bed of a handle; of a handle that is not known, a `bed` that is null."""
        now = time.monotonic()
        made_at, parts = self._made.get(show, (-1.0, {}))
        if now - made_at < (TICK_S if show == WARD else BED_EVERY_S) * 0.9:
            return parts
        with self._board.lock:
            parts = {"head": self._head()} | (self._ward(now) if show == WARD else self._bed(show))
        kept = {name: made for name, made in self._made.items() if now - made[0] < 5}
        self._made = kept | {show: (time.monotonic(), parts)}
        return parts

    def _head(self) -> Parts:
        now, listening_since = datetime.now(UTC), to_time(self._link.since_ms * 1000)
        has_read_alerts = self._link.has_read_alerts  # and with them the newest heartbeats
        return {
            **head(self._board, now),
            "unwatched": has_read_alerts and self._board.is_unwatched(now, listening_since),
            "link": self._link.state,
            "link_since": self._link.since_ms,
            "link_fault": self._link.fault,
            "reading_back": self._link.is_reading_back,
            "reading_alerts": not has_read_alerts,
            "replay": None if self._playback is None else replay_part(self._playback),
        }

    def _ward(self, now: float) -> Parts:
        in_need = self._board.by_need()[:MOST_TILES]
        beds = [(self._board.handle(bed.stay_id), bed, alerts) for bed, alerts in in_need]
        self._draw({handle: bed for handle, bed, _ in beds}, now)
        parts: Parts = {"order": [handle for handle, _, _ in beds]}
        for handle, bed, alerts in beds:
            parts[f"tile:{handle}"] = tile(self._board, bed, alerts)
            parts[f"spark:{handle}"] = self._sparks[handle][1]
        return parts

    def _draw(self, beds: Mapping[str, Bed], now: float) -> None:
        """Renew sparklines, those that have waited longest first: each bed's at times of its own, as many as there is
        time for.
        """
        self._sparks = {handle: self._sparks.get(handle, (0.0, {})) for handle in beds}
        for handle in sorted(beds, key=lambda handle: self._sparks[handle][0]):
            due, before = self._sparks[handle]
            if now < due or time.monotonic() - now > SPARKS_WITHIN_S:
                break
            drawn = sparks(self._board, beds[handle])
            wait = SPARKS_EVERY_S * (1.0 if before else int(handle[:2], 16) / 256)
            self._sparks[handle] = (now + wait if drawn else 0.0, drawn)

    def _bed(self, handle: str) -> Parts:
        stay_id = self._board.stay_of(handle)
        if stay_id is None or stay_id not in self._board.stays:
            return {"bed": None}
        return bed_page(self._board, stay_id)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any] | None:
    """What turns `before` into `now`: parts to set and to drop. None if they are equal."""
    changed = {name: value for name, value in now.items() if name not in before or before[name] != value}
    gone = [name for name in before if name not in now]
    return {"set": changed, "drop": gone} if changed or gone else None


@contextmanager
def serving(
    settings: Settings, board: Board, link: Link, bound: socket, playback: Playback | None = None
) -> Iterator[None]:
    """Serve the board on the bound socket, from a thread of its own, while the context is open.

    `playback`: a replay that the page may turn.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="live-page", daemon=True)
    thread.start()
    app = application(settings, Pages(board, link, playback))
    if playback is not None:
        app.add_routes(replay_routes(playback))
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=IDLE_S, shutdown_timeout=0.5)

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, bound).start()

    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        yield
    finally:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(3)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(3)
        loop.close()


def application(settings: Settings, pages: Pages) -> web.Application:
    """The routes, guarded."""
    app = web.Application(middlewares=[guard])
    app[ACCESS] = Access(settings)
    app[PAGES] = pages
    app[VIEWERS_NOW] = set()
    app.on_response_prepare.append(add_headers)
    app.on_shutdown.append(_hang_up)
    app.router.add_get("/", _file("index.html", "text/html"))
    app.router.add_get("/login", _file("login.html", "text/html"))
    app.router.add_post("/login", login)
    app.router.add_get("/live", _live)
    app.router.add_get("/lib/plotly.js", _chart_library)
    app.router.add_get("/page/style.css", _file("style.css", "text/css"))
    for name in SCRIPTS:
        app.router.add_get(f"/page/{name}", _file(name, "text/javascript"))
    return app


def _file(name: str, kind: str) -> Callable[[web.Request], Any]:
    body = (resources.files("stream_worker.view") / "page" / name).read_bytes()

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return answer


async def _chart_library(_request: web.Request) -> web.Response:
    """plotly.js as its Python package brings it, packed, as every browser takes it; large, so a day in its cache."""
    packed = await asyncio.to_thread(_packed_library)
    headers = {"Cache-Control": "private, max-age=86400", "Content-Encoding": "gzip"}
    return web.Response(body=packed, content_type="text/javascript", headers=headers)


@cache
def _packed_library() -> bytes:
    return gzip.compress((resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes(), 6)


async def _live(request: web.Request) -> web.StreamResponse:
    """Tell a viewer what changed on the page that it shows, until it leaves."""
    viewers = request.app[VIEWERS_NOW]
    if not is_own_page(request):
        raise web.HTTPForbidden(text="Only this server's own page may listen.\n")
    viewer = web.WebSocketResponse(heartbeat=20, max_msg_size=ASKED_BYTES)
    await viewer.prepare(request)
    if len(viewers) >= VIEWERS:
        await viewer.close(code=WSCloseCode.TRY_AGAIN_LATER, message=FULL.encode())
        return viewer
    viewers.add(viewer)
    show = _Shown()
    sender = asyncio.create_task(_tell(viewer, show, request.app[PAGES]))
    try:
        async for message in viewer:
            if message.type is WSMsgType.TEXT:
                show.turn_to(message.data)
    finally:
        viewers.discard(viewer)
        sender.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await sender
    return viewer


class _Shown:
    """The page that a viewer shows, and the parts of it that it was told."""

    def __init__(self) -> None:
        self.page = WARD
        self.told: Parts = {}

    def turn_to(self, page: str) -> None:
        self.page, self.told = page, {}


async def _tell(viewer: web.WebSocketResponse, show: _Shown, pages: Pages) -> None:
    """Send the changes, four times a second at most; a slow viewer gets fewer of them, and delays nobody."""
    said_at = time.monotonic()
    while not viewer.closed:
        page, parts = show.page, pages.parts(show.page)
        change = changes(show.told, parts)
        if change is not None or time.monotonic() - said_at > SIGN_EVERY_S:
            show.told, said_at = parts, time.monotonic()
            await viewer.send_bytes(orjson.dumps({"page": page, **(change or NOTHING)}))
        await asyncio.sleep(TICK_S)


async def _hang_up(app: web.Application) -> None:
    viewers = app[VIEWERS_NOW]
    for viewer in tuple(viewers):
        await viewer.close()


PAGES: Final = web.AppKey("pages", Pages)
VIEWERS_NOW: Final = web.AppKey("viewers", set[web.WebSocketResponse])
