"""Who may look, and what a browser may do with the page: host check, token, security headers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import SplitResult, urlsplit

from aiohttp import web

from stream_worker.settings import LOOPBACK, Settings

COOKIE: Final = "vitalcast-view"
WRONG_TOKEN_DELAY_S: Final = 1.0  # for each attempt, so that guessing takes ages
FORM_WITHIN_S: Final = 10.0  # a form is one packet; who sends half of it would keep the connection for ever
NO_TOKEN_NEEDED: Final = frozenset({"/login", "/page/style.css"})
# Styles are the exception: plotly.js writes its own. They can colour and place things, but load and run nothing, since
# nothing else is allowed; and no text of a sender is ever read as markup, so none can bring a style along.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with less, browsers would not say whose form it is
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Server": "vitalcast",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access:
    """Lets in who is on this machine, or who has shown the token; without a token, only by the machine's own names.

    The latter keeps out foreign pages that point a name of their own at this address.
    """

    def __init__(self, settings: Settings) -> None:
        self._token = None if settings.view_token is None else settings.view_token.get_secret_value().encode()
        self._session = secrets.token_urlsafe(32)

    @property
    def asks_token(self) -> bool:
        """Whether the page has a token."""
        return self._token is not None

    def is_right(self, token: str) -> bool:
        """Whether this is the token; takes the same time whatever it is."""
        return self._token is not None and hmac.compare_digest(
            _digest(token.encode("utf-8", "replace")), _digest(self._token)
        )

    def admit(self, request: web.Request, response: web.StreamResponse, *, over_tls: bool) -> None:
        """Give the browser a session for as long as this process runs; scripts and other sites do not see it."""
        name = _cookie_of(request)
        response.set_cookie(name, self._session, httponly=True, secure=over_tls, samesite="Strict", path="/")

    def may(self, request: web.Request) -> bool:
        """Whether the request may have the ward."""
        if self._token is None:
            return (_parts(f"//{request.host}").hostname or "") in LOOPBACK
        shown = request.cookies.get(_cookie_of(request), "")
        return hmac.compare_digest(shown.encode("utf-8", "replace"), self._session.encode())


def _cookie_of(request: web.Request) -> str:
    """The session's name: one for each port, as browsers do not tell those of a host apart when they send cookies."""
    return f"{COOKIE}-{_digest(request.host.encode('utf-8', 'replace')).hex()[:8]}"


def is_own_page(request: web.Request) -> bool:
    """Whether a page of this very server asks: browsers name the page's origin with each WebSocket and form."""
    return _parts(request.headers.get("Origin", "")).netloc == request.host


def _parts(url: str) -> SplitResult:
    """The parts of an address, all empty where it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.hostname
    except ValueError:
        return urlsplit("")
    return parts


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse before anything else happens."""
    access: Access = request.app[ACCESS]
    if request.path in NO_TOKEN_NEEDED or access.may(request):
        return await handler(request)
    if request.path == "/" and access.asks_token:
        raise web.HTTPSeeOther("/login")
    raise web.HTTPForbidden(text="Not allowed here: open the page by its own address, or give its token.\n")


async def login(request: web.Request) -> web.StreamResponse:
    """Take the token from the form."""
    access: Access = request.app[ACCESS]
    if not is_own_page(request) or not access.is_right(await _token_in(request)):
        await asyncio.sleep(WRONG_TOKEN_DELAY_S)
        raise web.HTTPSeeOther("/login#wrong")
    response = web.HTTPSeeOther("/")
    # Behind a proxy this server does not see TLS, but the browser says where the form came from.
    access.admit(request, response, over_tls=_parts(request.headers["Origin"]).scheme == "https")
    raise response


async def _token_in(request: web.Request) -> str:
    """What the form has; nothing if there is none, none that can be read, or not all of it has come in time."""
    try:
        async with asyncio.timeout(FORM_WITHIN_S):
            return str((await request.post()).get("token", ""))
    except (ValueError, LookupError, TimeoutError):  # no form as Content-Type has it, or of an unknown charset
        return ""


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """On every answer, errors included. Nothing is kept by the browser unless it says otherwise."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


ACCESS: Final = web.AppKey("access", Access)
