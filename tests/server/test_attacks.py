"""Attacks on a real server, byte by byte, as no client library would send them."""

import os
import socket
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from llm2clip_search.benchmarks.perf.hostile_paths import CLIMB_PREFIXES, CLIMBS
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.safety import Safety
from tests.support.server import running
from tests.support.wire import Answer, answer, exchange, request

SECRET = "the secret of this machine"


async def echo(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with static files, beside which lies a secret."""
    folder = tmp_path_factory.mktemp("served")
    static = folder / "static"
    static.mkdir()
    (static / "page.js").write_text("'page'")
    (folder / "secret").write_text(SECRET)
    (static / "link").symlink_to(folder / "secret")
    routes = [Route("/api/v1/search", echo, methods=["GET", "POST"]), Mount("/static", StaticFiles(directory=static))]
    with running(Safety(Starlette(routes=routes), ServerConfig())) as served:
        yield served


def is_alive(port: int) -> bool:
    """True if the next request is answered as ever."""
    return request(port, "/api/v1/search", method="POST", body=b"{}").body == b"2"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.nip.io:{}", "localhost.evil.example:{}", "evil.example:{}"]
)
def test_a_rebound_name_is_refused(port: int, host: str) -> None:
    for path in ("/", "/api/v1/search", "/static/page.js"):
        assert request(port, path, host=host.format(port)).status == 421


def test_a_request_has_one_host(port: int) -> None:
    own = f"Host: 127.0.0.1:{port}\r\n"
    for head in (
        "GET /api/v1/search HTTP/1.1\r\n",
        f"GET /api/v1/search HTTP/1.1\r\n{own} folded: 1\r\n",
        f"GET /api/v1/search HTTP/1.1\r\n{own}{own}",
        f"GET /api/v1/search HTTP/1.1\r\n{own}Host: evil.example\r\n",
        "GET /api/v1/search HTTP/1.0\r\n",
        f"GET /api/v1/search HTTP/1.0\r\n{own}Host: evil.example\r\n",
        f"GET http://evil.example/api/v1/search HTTP/1.1\r\n{own}",
        f"GET http://127.0.0.1:{port}/api/v1/search HTTP/1.1\r\n{own}",
        f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n{own}",
        f"OPTIONS * HTTP/1.1\r\n{own}",
    ):
        assert exchange(port, f"{head}\r\n".encode()).status in (400, 421), head
    assert is_alive(port)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE"])
def test_requests_of_other_sites_are_refused(port: int, method: str) -> None:
    for name, value in (
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
    ):
        refused = request(port, "/api/v1/search", method=method, headers={name: value})
        assert refused.status == 403
        assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("path", CLIMBS)
def test_no_path_leads_out_of_the_static_files(port: int, path: str) -> None:
    for prefix in CLIMB_PREFIXES:
        found = request(port, f"{prefix}{path}")
        assert found.status in (400, 404), found
        assert SECRET.encode() not in found.body
        assert b"root:" not in found.body
    assert request(port, "/static/page.js").body == b"'page'"


def test_many_and_long_headers_are_refused(port: int) -> None:
    head = f"GET /api/v1/search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode()
    for extra in (
        b"".join(b"X-%d: 1\r\n" % number for number in range(10_000)),
        b"X: " + b"x" * (1 << 20) + b"\r\n",
        b"X: 1\r\n" * 200,
        b"X\x00: 1\r\n",
        b"X: \x00\r\n",
    ):
        assert exchange(port, head + extra + b"\r\n").status in (0, 400, 431), extra[:40]
    assert exchange(port, b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\n\r\n").status in (0, 400, 431)
    assert is_alive(port)


def test_lengths_that_contradict_each_other_are_refused(port: int) -> None:
    """What one side takes for a body must not be the next request of the other (request smuggling)."""
    head = f"POST /api/v1/search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    for lengths in (
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: 2, 3\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: 0x2\r\n",
        "Content-Length: 1e1\r\n",
        f"Content-Length: {'9' * 5000}\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: xchunked\r\n",
    ):
        assert exchange(port, f"{head}{lengths}\r\n{{}}".encode()).status in (400, 413, 501), lengths
    both = exchange(port, f"{head}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode())
    assert both.status == 400 or both.body == b"0", "the length does not count"
    assert is_alive(port)


def test_a_body_is_refused_by_its_length_before_it_comes(port: int) -> None:
    refused = request(port, "/api/v1/search", method="POST", headers={"content-length": str(100 << 30)})
    assert refused.status == 413
    assert refused.json["type"] == "/problems/too-large"


def test_a_body_without_length_is_refused_once_it_is_too_long(port: int) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = f"POST /api/v1/search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head + chunk * 17)
        assert answer(connection).status == 413
    assert is_alive(port)


def slow_answer(port: int, first: bytes, then: bytes) -> Answer:
    """The answer to bytes that come one by one."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(first)
        connection.settimeout(0.02)
        for _ in range(1000):
            try:
                if not connection.recv(1, socket.MSG_PEEK):
                    return Answer(status=0, headers={}, body=b"")
                break
            except TimeoutError:
                connection.sendall(then)
        else:
            raise AssertionError("the server waits for ever")
        connection.settimeout(20)
        return answer(connection)


def test_headers_that_come_slowly_end_by_a_deadline(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2clip_search.server.connection.HEADER_SECONDS", 0.2)
    assert slow_answer(port, b"GET / HTTP/1.1\r\nX: ", b"x").status == 0
    assert slow_answer(port, b"", b"").status == 0, "a connection on which nothing comes"
    head = f"GET /api/v1/search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for _ in range(2):  # the second one on a connection that was used before
            connection.sendall(head)
            assert answer(connection).status == 200
        connection.sendall(b"GET / HT")
        assert connection.recv(1) == b""
    assert is_alive(port)


def test_a_body_that_comes_slowly_ends_by_a_deadline(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2clip_search.server.connection.BODY_SECONDS", 0.2)
    head = f"POST /api/v1/search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 100000\r\n\r\n".encode()
    assert slow_answer(port, head, b"x").status == 0
    assert is_alive(port)


def ask_for_ever(port: int) -> None:
    """Send requests and read no answer, until the server closes the connection; a timeout is no ConnectionError."""
    ask = f"GET /api/v1/search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        while True:
            connection.sendall(ask * 100)


def test_a_client_that_does_not_read_is_dropped(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2clip_search.server.connection.STALL_SECONDS", 0.2)
    with pytest.raises(ConnectionError):
        ask_for_ever(port)
    assert is_alive(port)


def test_what_is_no_http_is_refused(port: int) -> None:
    for sent in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200),
        b"\r\n\r\n\r\n\r\n",
        b"GET\r\n\r\n",
    ):
        assert exchange(port, sent + b"\r\n\r\n").status in (0, 400)
    assert is_alive(port)
