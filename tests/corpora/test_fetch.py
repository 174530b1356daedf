"""Fetching from a real server that misbehaves in every way."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from llm2clip_search.corpora.connections import is_public
from llm2clip_search.corpora.fetch import FetchConfig, Fetcher
from llm2clip_search.corpora.web import WebFiles
from llm2clip_search.errors import ImageError
from tests.support.web import Page, Request, WebServer, drip, web_server

BODY = bytes(range(256)) * 40
OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
CONFIG = FetchConfig(
    allow_private=True,
    per_host=3,
    read_seconds=0.5,
    seconds=1.0,
    max_bytes=100_000,
    back_off_seconds=0.01,
    longest_wait_seconds=0.5,
    connect_seconds=0.5,
)


def sometimes(*pages: Page) -> Page:
    """One page after the other; the last stays."""
    left = list(pages)

    def page(request: Request) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(request)

    return page


def good(request: Request) -> None:
    request.answer(BODY)


def redirect(target: str) -> Page:
    return lambda request: request.answer(status=302, Location=target)


def robots(tag: str) -> Page:
    return lambda request: request.answer(BODY, X_Robots_Tag=tag)


def kind(name: str, body: bytes = BODY) -> Page:
    return lambda request: request.answer(body, Content_Type=name)


def endless(request: Request) -> None:
    request.wfile.write(OPEN + b"\r\n")
    while True:
        request.wfile.write(BODY)


def cut(request: Request) -> None:
    request.answer(BODY, Content_Length=str(len(BODY) + 100))
    request.close_connection = True


def bomb(request: Request) -> None:
    request.answer(gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")


def packed(request: Request) -> None:
    request.answer(gzip.compress(BODY), Content_Encoding="gzip")


def garbage(request: Request) -> None:
    request.wfile.write(b"\x00\x01garbage\r\n\r\n")


def chunked(request: Request) -> None:
    request.wfile.write(OPEN + b"Transfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(BODY), 1000):
        block = BODY[start : start + 1000]
        request.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
    request.wfile.write(b"0\r\n\r\n")


PAGES: dict[str, Page] = {
    "/good": good,
    "/packed": packed,
    "/chunked": chunked,
    "/empty": lambda request: request.answer(),
    "/octets": kind("application/octet-stream"),
    "/busy-once": sometimes(lambda r: r.answer(status=503), lambda r: r.answer(status=429, Retry_After="0.1"), good),
    "/reset-once": sometimes(Request.reset, good),
    "/cut-once": sometimes(cut, good),
    "/moved": redirect("/good"),
    "/moved-twice": redirect("moved"),
    "/robots-others": robots("otherbot: noindex, nofollow"),
    "/robots-date": robots("unavailable_after: 25 Jun 2090 15:00:00 PST"),
    "/a%20b": good,
    "/%C3%BC.png": good,
    "/%2Fx": good,
    # what fails
    "/slow": lambda request: drip(request, start=OPEN + b"Content-Length: 100000\r\n\r\n"),
    "/slow-headers": lambda request: drip(request, start=OPEN + b"X-Long: "),
    "/slow-without-length": lambda request: drip(request, start=OPEN + b"\r\n"),
    "/silent": lambda request: time.sleep(3),
    "/endless": endless,
    "/huge": lambda request: request.answer(b"x", Content_Length=str(10 << 30)),
    "/bomb": bomb,
    "/cut": cut,
    "/reset": Request.reset,
    "/html": kind("text/html; charset=utf-8"),
    "/video": kind("video/mp4"),
    "/gone": lambda request: request.answer(status=410),
    "/forbidden": lambda request: request.answer(status=403),
    "/broken": lambda request: request.answer(status=500),
    "/wait": lambda request: request.answer(status=429, Retry_After="3600"),
    "/wait-date": lambda request: request.answer(status=503, Retry_After="Wed, 21 Oct 2093 07:28:00 GMT"),
    "/loop": redirect("/loop"),
    "/nowhere": lambda request: request.answer(status=302),
    "/other-scheme": redirect("ftp://example.com/a.png"),
    "/file": redirect("file:///etc/passwd"),
    "/noai": robots("noai"),
    "/noimageindex": robots("otherbot: nofollow, llm2clip-search: NoImageIndex"),
    "/garbage": garbage,
}


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with web_server(PAGES) as running:
        yield running


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/good",
            "/packed",
            "/chunked",
            "/octets",
            "/busy-once",
            "/reset-once",
            "/cut-once",
            "/moved",
            "/moved-twice",
        ),
        *("/robots-others", "/robots-date", "/a b", "/a%20b", "/ü.png", "/%2Fx", "/good?x=1 2#part", "/x/../good"),
    ],
)
def test_what_is_an_image_is_fetched(server: WebServer, path: str) -> None:
    assert Fetcher(CONFIG).image(f" {server.url}{path}\n") == BODY


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/slow", "it takes more than 1 s"),
        ("/slow-headers", "it takes more than 1 s"),
        ("/slow-without-length", "it takes more than 1 s"),
        ("/silent", "it takes more than 1 s"),
        ("/endless", "it has more than 100,000 bytes"),
        ("/huge", "it has 10,737,418,240 bytes, more than 100,000"),
        ("/bomb", "it has more than 100,000 bytes"),
        ("/cut", "it ends 100 bytes too early, 3 times"),
        ("/reset", "the server breaks the connection, 3 times"),
        ("/html", "the server sends text/html, not an image"),
        ("/video", "the server sends video/mp4, not an image"),
        ("/missing", "the server has no such page (status 404)"),
        ("/gone", "the server has it no more (status 410)"),
        ("/forbidden", "the server denies access (status 403)"),
        ("/broken", "the server answers (status 500), 3 times"),
        ("/wait", "the server answers (status 429) and asks to come back in 3,600 s"),
        ("/loop", "it is redirected more than 5 times"),
        ("/nowhere", "the server answers (status 302)"),
        ("/other-scheme", "ftp:// is not http:// or https://"),
        ("/file", "file:// is not http:// or https://"),
        ("/noai", "its server forbids it to be indexed: X-Robots-Tag noai"),
        ("/noimageindex", "its server forbids it to be indexed: X-Robots-Tag noimageindex"),
        ("/garbage", "the server breaks the connection, 3 times"),
    ],
)
def test_what_is_none_fails_with_its_reason_and_in_time(server: WebServer, path: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises((OSError, ImageError)) as caught:
        # On a busy machine, what is large or packed may take longer than what is slow is given.
        Fetcher(CONFIG if "takes more" in reason else replace(CONFIG, seconds=30.0)).image(server.url + path)
    assert str(caught.value) == reason
    assert getattr(caught.value, "stage", "read") == "read"
    assert time.monotonic() - started < 20.0  # not the minutes that the server would take
    assert isinstance(caught.value, FileNotFoundError) == (path in ("/missing", "/gone"))


def test_a_date_to_come_back_at_is_understood(server: WebServer) -> None:
    with pytest.raises(OSError, match=r"status 503\) and asks to come back in [\d,]{10,} s$"):
        Fetcher(CONFIG).image(f"{server.url}/wait-date")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/a.png", "ftp:// is not http:// or https://"),
        ("photos/a.png", "it is not a URL"),
        ("http://", "it is a URL without a host"),
        ("http:///a.png", "it is a URL without a host"),
        ("http://[::1/a.png", "it is not a valid URL"),
        ("http://example.com:99999/a.png", "it is not a valid URL"),
        ("http://nothing.invalid/a.png", "there is no host nothing.invalid, 3 times"),
        ("http://bücher.invalid/a.png", "there is no host xn--bcher-kva.invalid, 3 times"),
    ],
)
def test_a_url_that_leads_nowhere_is_a_failure(url: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the reason is compared below
        Fetcher(CONFIG).image(url)
    assert str(caught.value) == reason


def test_a_host_that_is_down_is_not_asked_again_for_a_while() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.png"
        fetcher = Fetcher(FetchConfig(allow_private=True, back_off_seconds=0.1))
        for quickest, slowest in ((0.2, 20.0), (0.0, 0.2)):
            started = time.monotonic()
            with pytest.raises(OSError, match="cannot be reached: connection refused"):
                fetcher.image(url)
            assert quickest <= time.monotonic() - started < slowest


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_no_address_of_this_machine_is_reached_by_any_of_its_names(server: WebServer, host: str) -> None:
    before = server.hits["/good"]
    with pytest.raises(OSError, match=r"of this machine or a private network|there is no host|cannot be reached"):
        Fetcher(FetchConfig(tries=1)).image(f"http://{host}:{server.server_port}/good")
    assert server.hits["/good"] == before


def test_the_address_that_is_checked_is_the_one_that_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server may say a public address first, and 127.0.0.1 when it is asked again."""
    answers = iter(["93.184.216.34", "127.0.0.1"])
    asked, reached = [], []

    def lookup(host: str, port: int, **kwargs: Any) -> Any:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        reached.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(OSError, match="connection refused"):
        Fetcher(FetchConfig(tries=1)).image("http://rebinding.example/a.png")
    assert asked == ["rebinding.example"]
    assert reached == [("93.184.216.34", 80)]


def test_a_redirect_into_a_private_network_is_refused(monkeypatch: pytest.MonkeyPatch, server: WebServer) -> None:
    """The first host counts as public; the redirect leads to 127.0.0.1."""
    monkeypatch.setattr("llm2clip_search.corpora.connections.is_public", lambda address: address == "127.0.0.2")
    target = redirect(f"{server.url}/good")
    with web_server({"/": target}) as outside:
        real = socket.getaddrinfo

        def lookup(host: str, port: int, **kwargs: Any) -> Any:
            return (
                [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", port))]
                if host == "a.example"
                else real(host, port, **kwargs)
            )

        real_connect = socket.socket.connect
        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        monkeypatch.setattr(
            socket.socket, "connect", lambda self, address: real_connect(self, ("127.0.0.1", address[1]))
        )
        before = server.hits["/good"]
        with pytest.raises(OSError, match=r"^127\.0\.0\.1 leads to the address 127\.0\.0\.1 of this machine"):
            Fetcher(FetchConfig(tries=1)).image(f"http://a.example:{outside.server_port}/")
    assert outside.hits["/"] == 1
    assert server.hits["/good"] == before


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((each, True) for each in ("8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::808:808")),
        *(
            (each, False)
            for each in ("10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.53", "0.0.0.0", "255.255.255.255")
        ),
        *((each, False) for each in ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192")),
        *((each, False) for each in ("224.0.0.1", "240.0.0.1", "192.0.2.1", "198.18.0.1")),
        *((each, False) for each in ("::1", "::", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1")),
        *((each, False) for each in ("::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1")),
    ],
)
def test_addresses_of_machines_networks_and_clouds_are_not_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_requests_to_one_host_are_few_and_share_connections() -> None:
    def page(request: Request) -> None:
        time.sleep(0.01)
        request.answer(BODY)

    with web_server({"/": page}) as server:
        fetcher = Fetcher(CONFIG)
        threads = [threading.Thread(target=lambda: [fetcher.image(server.url) for _ in range(4)]) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.hits["/"] == 48
        assert server.most_at_once == 3
        assert len(server.connections) == 3
        assert all(each["user-agent"].startswith("llm2clip-search/") for each in server.headers)


def test_a_password_goes_to_its_host_only() -> None:
    with web_server({"/": good}) as other, web_server({"/": redirect(f"{other.url}/")}) as server:
        assert Fetcher(CONFIG).image(server.url.replace("://", "://me:p%40ss@") + "/") == BODY
    assert server.headers[0]["authorization"] == "Basic bWU6cEBzcw=="
    assert "authorization" not in other.headers[0]


@pytest.mark.parametrize("page", [lambda r: r.ranged(BODY, ETag='"one"'), lambda r: r.answer(BODY, ETag='W/"one"')])
def test_files_of_a_server_are_read_by_ranges_where_it_has_them(page: Callable[[Request], None]) -> None:
    with web_server({"/list.bin": page}) as server:
        files, url = WebFiles(allow_private=True), f"{server.url}/list.bin"
        status = files.status(url)
        assert (status.size, status.version) == (len(BODY), "one")
        assert files.read_range(url, 100, 50) == BODY[100:150]
        assert files.read_range(url, len(BODY) - 5, 50) == BODY[-5:]
        assert files.read_range(url, len(BODY) + 5, 50) == b""
        with files.open(url) as file:
            assert file.read(10) == BODY[:10]
            file.seek(-7, 2)
            assert file.read() == BODY[-7:]
            file.seek(3)
            assert file.read() == BODY[3:]


def test_a_server_without_head_still_tells_size_and_version() -> None:
    def page(request: Request) -> None:
        if request.command == "HEAD":
            request.answer(status=405)
        else:
            request.ranged(BODY, Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT")

    with web_server({"/a": page}) as server:
        status = WebFiles(allow_private=True).status(f"{server.url}/a")
    assert (status.size, status.mtime_ns) == (len(BODY), 1_445_412_480_000_000_000)
    assert status.version == f"1445412480000000000:{len(BODY)}"
