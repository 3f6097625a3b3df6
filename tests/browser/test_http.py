"""The live page's HTTP without a browser: who is let in, and what every answer says."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from email.message import Message

import pytest

from stream_worker.playback import Playback
from stream_worker.settings import SettingsError, load_settings
from stream_worker.view import access
from stream_worker.view import server as page_server
from stream_worker.view.command import listening
from tests.browser.ward import Served, served

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.fixture(scope="module")
def live() -> Iterator[Served]:
    with served() as ward:
        yield ward


def ask(live: Served, path: str, **headers: str) -> tuple[int, Message]:
    request = urllib.request.Request(live.address + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers


@pytest.mark.parametrize("path", ["", "page/main.js", "lib/plotly.js", "nowhere", "live"])
def test_every_answer_forbids_what_the_page_does_not_need(live: Served, path: str) -> None:
    status, headers = ask(live, path)
    assert status == {"nowhere": 404, "live": 403}.get(path, 200)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in headers["Cache-Control"] or path == "lib/plotly.js"
    assert not [name for name in headers if name.lower().startswith("access-control")]
    assert headers["Server"] == "vitalcast"


def test_names_that_are_not_this_machines_are_refused(live: Served) -> None:
    assert ask(live, "", Host="evil.example")[0] == 403
    assert ask(live, "", Host="[")[0] in (400, 403)
    assert ask(live, "live", Origin="http://[")[0] == 403
    assert ask(live, "", Host=f"localhost:{live.port}")[0] == 200


def test_other_pages_cannot_listen(live: Served) -> None:
    assert ask(live, "live", Origin="http://evil.example", **UPGRADE)[0] == 403
    assert ask(live, "live", Origin="null", **UPGRADE)[0] == 403
    assert ask(live, "live", **UPGRADE)[0] == 403


def turn(live: Served, how: str, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{live.address}replay/{how}", headers=named, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_only_the_demos_own_page_turns_the_replay(live: Served) -> None:
    playback = Playback(60)
    with served(playback=playback) as demo:
        own = {"Origin": demo.address.rstrip("/"), "X_Vitalcast_Page": "1"}
        assert turn(demo, "pause") == 403
        assert turn(demo, "pause", Origin=own["Origin"]) == 403, "a form can say as much"
        assert turn(demo, "pause", X_Vitalcast_Page="1") == 403
        assert turn(demo, "pause", X_Vitalcast_Page="1", Origin="http://evil.example") == 403
        assert turn(demo, "pause", **own, Host="evil.example") == 403
        assert turn(demo, "stop", **own) == 404
        assert ask(demo, "replay/pause")[0] == 405
        assert demo.plays()
        assert turn(demo, "pause", **own) == 204
        assert not demo.plays()
    assert turn(live, "pause", Origin=live.address.rstrip("/"), X_Vitalcast_Page="1") == 404, "a live page only looks"


def test_without_the_token_there_is_nothing_to_see() -> None:
    with served(view_token="sixteen giraffes") as live:
        for path in ("page/main.js", "lib/plotly.js", "live"):
            assert ask(live, path, Cookie="vitalcast-view=guess")[0] == 403
        assert ask(live, "page/style.css", Host="ward.example")[0] == 200  # with a token, under any name


@pytest.mark.parametrize(("scheme", "port"), [("http", ""), ("https", ""), ("https", ":8443")])
def test_a_session_over_tls_is_never_sent_without(scheme: str, port: str) -> None:
    with served(view_token="sixteen giraffes") as live:
        server = http.client.HTTPConnection(urllib.parse.urlsplit(live.address).netloc, timeout=30)
        named = {"Host": f"ward.example{port}", "Origin": f"{scheme}://ward.example{port}"}
        form = {**named, "Content-Type": "application/x-www-form-urlencoded"}
        server.request("POST", "/login", "token=sixteen+giraffes", form)
        answer = server.getresponse()
        server.close()
        assert answer.getheader("Location") == "/"
        assert ("; Secure" in answer.headers["Set-Cookie"]) == (scheme == "https")


def test_pages_at_two_ports_leave_each_other_their_sessions() -> None:
    with served(view_token="sixteen giraffes") as one, served(view_token="sixteen giraffes") as other:
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        for live in (one, other):
            origin = {"Origin": live.address.rstrip("/")}
            form = urllib.request.Request(f"{live.address}login", b"token=sixteen+giraffes", origin)
            with browser.open(form, timeout=30) as answer:
                assert answer.geturl() == live.address
        with browser.open(one.address, timeout=30) as answer:
            assert answer.geturl() == one.address


@pytest.mark.parametrize("kind", ["multipart/form-data", "application/x-www-form-urlencoded; charset=nope"])
def test_a_form_that_is_none_is_a_wrong_token(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    with served(view_token="sixteen giraffes") as live:
        headers = {"Content-Type": kind, "Origin": live.address.rstrip("/")}
        request = urllib.request.Request(f"{live.address}login", b"token=a", headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.geturl().partition("#")[0].endswith("/login")
    assert "Traceback" not in capfd.readouterr().err


def test_other_hosts_need_a_token_and_a_token_needs_some_length() -> None:
    with pytest.raises(SettingsError, match=r"view_host 0\.0\.0\.0 is not this machine alone: set view_token"):
        listening(load_settings(view_host="0.0.0.0"), 0)  # only here: the worker shares the file, not the token
    with pytest.raises(SettingsError, match=r"view_token: .*16"):
        load_settings(view_token="short")
    settings = load_settings(view_host="0.0.0.0", view_token="sixteen giraffes")
    assert "giraffes" not in str(settings.redacted()) + repr(settings)


def test_connections_that_ask_nothing_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "IDLE_S", 0.2)
    with served() as live, socket.create_connection(("127.0.0.1", live.port), timeout=30) as connection:
        connection.sendall(b"GET /")
        assert connection.recv(1) == b""


def test_half_a_form_is_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "FORM_WITHIN_S", 0.2)
    with (
        served(view_token="sixteen giraffes") as live,
        socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection,
    ):
        form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 30\r\n\r\ntoken="
        origin = f"127.0.0.1:{live.port}".encode()
        connection.sendall(b"POST /login HTTP/1.1\r\nHost: %b\r\nOrigin: http://%b\r\n%b" % (origin, origin, form))
        assert connection.recv(12) == b"HTTP/1.1 303"
