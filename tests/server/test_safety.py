"""Which requests reach the application, and the headers of every answer."""

import asyncio
import json
import socket
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from llm2clip_search.errors import InputError
from llm2clip_search.server.hosts import Hosts, is_loopback
from llm2clip_search.server.safety import MAX_LARGE_BODIES, Safety
from tests.support.guarded import PORT, TOKEN, app, ask


@pytest.mark.parametrize("host", ["127.0.0.1:8410", "localhost:8410", "[::1]:8410", "LOCALHOST:8410"])
def test_loopback_names_with_the_port_are_answered(host: str) -> None:
    assert ask(app(), host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8410", "127.0.0.1.evil.example:8410", "localhost.evil.example:8410"),
        *("127.0.0.1", "localhost", "localhost:8411", "localhost.:8410", "localhost:08410", "localhost:8410:8410"),
        *(
            "127.1:8410",
            "2130706433:8410",
            "0x7f.1:8410",
            "192.168.1.5:8410",
            "[::ffff:127.0.0.1]:8410",
            "0.0.0.0:8410",
        ),
        *("user@localhost:8410", "localhost:8410, evil.example", "localhost:8410#", "", " ", "1.1.1.1.nip.io:8410"),
    ],
)
def test_any_other_name_is_refused(host: str) -> None:
    answer = ask(app(), host=host)
    assert answer.status_code == 421
    assert answer.json()["type"] == "/problems/misdirected"
    assert answer.headers["content-type"] == "application/problem+json"


def test_names_that_the_user_allows_are_answered_exactly() -> None:
    served = app(allowed_hosts=("photos.example.org", "Photos.example.org:8443"), token=TOKEN)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for host, status in (
        ("photos.example.org", 200),
        ("photos.example.org:8443", 200),
        ("photos.example.org:443", 421),
        ("www.photos.example.org", 421),
        ("example.org", 421),
        ("127.0.0.1:8410", 200),
    ):
        assert ask(served, host=host, headers=bearer).status_code == status, host


@pytest.mark.parametrize("name", ["https://photos.example.org", "photos.example.org/", "", "*", "*.example.org", "a b"])
def test_a_name_that_no_host_header_has_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a host name"):
        app(allowed_hosts=(name,), token=TOKEN)


def test_a_server_on_all_addresses_answers_to_addresses_but_not_to_names() -> None:
    served, bearer = app(host="0.0.0.0", token=TOKEN), {"Authorization": f"Bearer {TOKEN}"}
    for host, status in (
        ("192.168.1.5:8410", 200),
        ("[fe80::1]:8410", 200),
        ("127.0.0.1:8410", 200),
        ("192.168.1.5:80", 421),
        ("192.168.1.5", 421),
        ("[::1", 421),
        ("evil.example:8410", 421),
        ("192.168.1.5.evil.example:8410", 421),
        (f"{socket.gethostname()}:8410", 200),
    ):
        assert ask(served, host=host, headers=bearer).status_code == status, host


def test_the_port_is_that_of_the_connection() -> None:
    """Port 80 is left out by browsers."""
    hosts = Hosts.of("127.0.0.1")
    assert [hosts.allow(b"localhost", port) for port in (80, 8410, None)] == [True, False, False]
    assert [hosts.allow(b"[::1]", port) for port in (80, 8410)] == [True, False]
    assert [hosts.allow(b"localhost:9000", port) for port in (9000, 8410, None)] == [True, False, False]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.1.5", "localhost.evil.example", "")),
    ],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("path", ["/", "/api/v1/search", "/api/v1/health", "/static/page.js", "/none"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "Same-Origin"},
        {"Sec-Fetch-Site": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8411"},
        {"Origin": "http://127.0.0.1:8410.evil.example"},
        {"Origin": "http://localhost:8410"},  # another origin than the host that it asks
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8410"},
    ],
)
def test_other_sites_are_refused_on_every_route(path: str, method: str, headers: Mapping[str, str]) -> None:
    answer = ask(app(), path, method=method, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["type"] == "/problems/forbidden"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
        {"Origin": "http://127.0.0.1:8410", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_programs_and_the_page_itself_are_answered(headers: Mapping[str, str]) -> None:
    assert ask(app(), method="POST", headers=headers, content=b"{}").text == "2"


def test_a_link_on_another_site_gets_a_page_that_leads_on() -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Accept": "text/html,*/*"}
    answer = ask(app(), "/?q=dog", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (403, "text/html; charset=utf-8")
    assert '<a href="">' in answer.text, "to the same address, now from this site"


EVERY_HEADER = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
}


async def crash(request: Request) -> Response:
    raise RuntimeError(request.url.path)


@pytest.mark.parametrize(
    ("application", "path", "options", "status"),
    [
        (app(), "/", {}, 200),
        (app(), "/api/v1/images/1/thumbnail", {}, 200),
        (app(), "/none", {}, 404),
        (app(), "/", {"method": "DELETE"}, 405),
        (app(), "/", {"host": "evil.example"}, 421),
        (app(), "/", {"headers": {"Origin": "null"}}, 403),
        (app(token=TOKEN), "/", {}, 401),
        (app(), "/api/v1/search", {"method": "POST", "content": b" " * (2 << 20)}, 413),
    ],
)
def test_every_answer_has_the_headers(application: Safety, path: str, options: dict[str, Any], status: int) -> None:
    answer = ask(application, path, **options)
    assert answer.status_code == status
    assert EVERY_HEADER.items() <= dict(answer.headers).items()
    assert "camera=()" in answer.headers["permissions-policy"]
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_answer_to_a_crash_has_the_headers() -> None:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app(handler=crash), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}") as client:
            return await client.get("/")

    answer = asyncio.run(run())
    assert answer.status_code == 500
    assert EVERY_HEADER.items() <= dict(answer.headers).items()


def test_a_preflight_is_not_allowed_anything() -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = ask(app(), method="OPTIONS", headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_answers_are_not_kept_unless_their_handler_says_so() -> None:
    assert ask(app()).headers["cache-control"] == "no-store"
    assert ask(app(), "/none").headers["cache-control"] == "no-cache"
    assert ask(app(), "/api/v1/images/1/thumbnail").headers["cache-control"] == "private, max-age=60"


def test_bodies_are_limited_by_their_route() -> None:
    for path, size, status in (
        ("/api/v1/search", 1 << 20, 200),
        ("/api/v1/search", (1 << 20) + 1, 413),
        ("/api/v1/uploads", 4 << 20, 200),
        ("/api/v1/uploads", (4 << 20) + 1, 413),
    ):
        answer = ask(app(), path, method="POST", content=b"x" * size)
        assert answer.status_code == status, (path, size)
        assert answer.text == str(size) if status == 200 else answer.json()["type"] == "/problems/too-large"


def run_raw(application: Safety, messages: list[dict[str, Any]], **headers: str) -> list[dict[str, Any]]:
    """The messages that the application sends; after ``messages``, the client says nothing more."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(60)
        raise AssertionError("the deadline has passed")

    async def send(message: Any) -> None:
        sent.append(message)

    named = {"host": f"127.0.0.1:{PORT}", **headers}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/search",
        "raw_path": b"/api/v1/search",
        "server": ("127.0.0.1", PORT),
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()],
    }
    asyncio.run(application(scope, receive, send))
    return sent


def test_a_body_without_a_length_is_counted() -> None:
    part = {"type": "http.request", "body": b"x" * (1 << 18), "more_body": True}
    reads: list[int] = []

    async def count(request: Request) -> Response:
        try:
            async for chunk in request.stream():
                reads.append(len(chunk))
        except Exception:  # whatever a handler does with it
            return PlainTextResponse("never sent")
        return PlainTextResponse("never sent")

    sent = run_raw(app(handler=count), [dict(part) for _ in range(100)], transfer_encoding="chunked")
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["type"] == "/problems/too-large"
    assert sum(reads) <= 1 << 20


def test_a_body_that_does_not_come_ends_by_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2clip_search.server.safety.JSON_SECONDS", 0.05)
    part = {"type": "http.request", "body": b'{"terms"', "more_body": True}
    sent = run_raw(app(), [part], content_length="100")
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["type"] == "/problems/too-slow"


def test_large_bodies_arrive_a_few_at_a_time() -> None:
    async def run() -> list[int]:
        begun, go_on = asyncio.Semaphore(0), asyncio.Event()

        async def hold(request: Request) -> Response:
            begun.release()
            await go_on.wait()
            return PlainTextResponse(str(len(await request.body())))

        transport = httpx.ASGITransport(app(handler=hold))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}") as client:

            def post(size: int) -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(client.post("/api/v1/uploads", content=b"x" * size))

            held = [post(2 << 20) for _ in range(MAX_LARGE_BODIES)]
            for _ in held:
                await begun.acquire()
            refused = await post(2 << 20)
            small = post(1 << 20)
            await begun.acquire()
            go_on.set()
            return [refused.status_code, *(each.status_code for each in await asyncio.gather(small, *held))]

    assert asyncio.run(run()) == [429, 200, *[200] * MAX_LARGE_BODIES]


def test_headers_are_limited() -> None:
    assert ask(app(), headers={f"x-{number}": "1" for number in range(90)}).status_code == 200
    assert ask(app(), headers={f"x-{number}": "1" for number in range(100)}).status_code == 431
    assert ask(app(), headers={"x-long": "x" * (64 << 10)}).status_code == 431
    assert ask(app(), f"/?q={'x' * (60 << 10)}").status_code == 200
    answer = ask(app(), f"/?q={'x' * (60 << 10)}", headers={"x-long": "x" * (4 << 10)})
    assert answer.status_code == 431
    assert answer.json()["type"] == "/problems/headers-too-large"


def test_websockets_are_refused() -> None:
    sent: list[Any] = []

    async def run() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        await app()({"type": "websocket", "path": "/", "headers": []}, receive, send)

    asyncio.run(run())
    assert sent == [{"type": "websocket.close", "code": 1008}]
