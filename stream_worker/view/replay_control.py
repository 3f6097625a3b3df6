"""Play, pause and speed of the demo's recordings, from its page. `vitalcast view` has none of it: it only looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web

from stream_worker.playback import Playback
from stream_worker.view.access import is_own_page
from stream_worker.ward_words import hours

# A page of another origin cannot send it: the browser would ask first, and is never told that it may.
HEADER: Final = "X-Vitalcast-Page"
TURNS: Final[Mapping[str, Callable[[Playback], None]]] = {
    "play": Playback.play,
    "pause": Playback.pause,
    "faster": Playback.faster,
    "slower": Playback.slower,
}


def replay_part(playback: Playback) -> dict[str, Any]:
    """How the replay stands, as the page shows it."""
    state = playback.state
    return {
        "playing": state.is_playing,
        "ended": state.has_ended,
        "speed": f"{state.speed:g}×",
        "at": hours(state.at_s),
    }


def replay_routes(playback: Playback) -> list[web.RouteDef]:
    """POST /replay/play, pause, faster, slower: from this server's own page only."""

    async def turn(request: web.Request) -> web.Response:
        if not is_own_page(request) or HEADER not in request.headers:
            raise web.HTTPForbidden(text="Only this server's own page may turn the replay.\n")
        TURNS[request.match_info["turn"]](playback)
        return web.Response(status=204)

    return [web.post(f"/replay/{{turn:{'|'.join(TURNS)}}}", turn)]
