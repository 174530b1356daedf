"""What a request has to meet before a handler sees it, and the headers of every answer.

Any page that a browser shows can make it send requests to this server, also if the server listens on loopback only. A
request is therefore answered only if it names the server as its user does (`hosts`), if no other site made the browser
send it, and, where other machines can connect, if it brings the token.
"""

import asyncio
import hmac
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.hosts import Hosts
from llm2clip_search.server.refusals import (
    FOREIGN,
    MISDIRECTED,
    NO_PATH,
    TOO_MANY_BODIES,
    TOO_MANY_TOKENS,
    UNAUTHORIZED,
    Refusal,
    headers_too_large,
    too_large,
)
from llm2clip_search.server.request_body import BodyLimit, LimitedBody

HEALTH = "/api/v1/health"
"""Answered without a token, so that whatever watches the server needs none."""
MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 << 10
"""Of all headers and the URL together."""
JSON_SECONDS = 15.0
LARGE_SECONDS = 120.0
"""For the body of a request to arrive."""
MAX_LARGE_BODIES = 8
"""Bodies of more than the limit of JSON that arrive at the same time, which bounds their memory."""
WRONG_TOKEN_SECONDS = 0.5
"""How long the answer to a wrong token takes."""
MAX_WAITING = 16
"""Answers to wrong tokens that wait at the same time; further ones are refused at once."""
COOKIE_SECONDS = 30 * 24 * 3600

Headers = Mapping[bytes, list[bytes]]

_ADDED = tuple(
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
        # Not no-referrer, with which browsers send forms of the page itself with "Origin: null".
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }.items()
)
_WATCHED = frozenset(
    {b"host", b"origin", b"sec-fetch-site", b"authorization", b"cookie", b"content-length", b"transfer-encoding"}
    | {b"accept", b"x-forwarded-proto"}
)


class Safety:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        """Wrap an application.

        Raises:
            InputError: as `Hosts.of`.
        """
        self._app = app
        self._hosts = Hosts.of(config.host, config.allowed_hosts)
        self._token = None if config.token is None else config.token.encode()
        self._json = BodyLimit(bytes=config.json_bytes, seconds=JSON_SECONDS)
        large = BodyLimit(bytes=config.upload_bytes, seconds=LARGE_SECONDS)
        self._bodies = {"/api/v1/uploads": large, "/v1/embeddings": large}
        self._waiting = self._large = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._answer(scope, receive, _with_headers(send, scope["path"]))
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _watched(scope)
        if headers is None:
            await headers_too_large(MAX_HEADERS, MAX_HEADER_BYTES).send(send)
            return
        is_page = scope["path"] == "/" and b"text/html" in headers.get(b"accept", [b""])[0]
        if (refusal := self._refusal(scope, headers)) is not None:
            await refusal.send(send, is_page=is_page)
        elif self._token is not None and scope["path"] != HEALTH:
            await self._answer_with_token(self._token, scope, headers, receive, send, is_page=is_page)
        else:
            await self._pass_on(scope, headers, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or not self._hosts.allow(hosts[0], _port(scope)):
            return MISDIRECTED
        origins = (b"http://" + hosts[0], b"https://" + hosts[0])
        if any(origin not in origins for origin in headers.get(b"origin", ())):
            return FOREIGN
        if any(site not in (b"same-origin", b"none") for site in headers.get(b"sec-fetch-site", ())):
            return FOREIGN
        return None if scope["path"].startswith("/") else NO_PATH

    async def _answer_with_token(
        self, token: bytes, scope: Scope, headers: Headers, receive: Receive, send: Send, *, is_page: bool
    ) -> None:
        fields = scope["query_string"].split(b"&") if scope["path"] == "/" else []
        in_address = [unquote_to_bytes(each[6:]) for each in fields if each.startswith(b"token=")]
        given = in_address or _tokens(headers, _cookie_name(scope))
        is_right = any(hmac.compare_digest(each, token) for each in given)
        if is_right and in_address:
            rest = b"&".join(each for each in fields if not each.startswith(b"token="))
            cookie = self._cookie(token, scope, headers)
            await _lead_on(b"/?" + rest if rest else b"/", cookie, send)
        elif is_right:
            await self._pass_on(scope, headers, receive, send)
        else:
            refusal = await self._refuse_token() if given else UNAUTHORIZED
            await refusal.send(send, is_page=is_page)

    async def _refuse_token(self) -> Refusal:
        """Slow down whoever guesses; a request with the right token never waits."""
        if self._waiting >= MAX_WAITING:
            return TOO_MANY_TOKENS
        self._waiting += 1
        try:
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
        finally:
            self._waiting -= 1
        return UNAUTHORIZED

    def _cookie(self, token: bytes, scope: Scope, headers: Headers) -> bytes:
        """The cookie that lets a browser in."""
        is_proxied = headers[b"host"][0].decode("latin-1").lower() in self._hosts.proxied
        # A client that lies about this gets a cookie that it does not send again.
        is_https = is_proxied and headers.get(b"x-forwarded-proto") == [b"https"]
        rest = f"; HttpOnly; SameSite=Strict; Path=/; Max-Age={COOKIE_SECONDS}{'; Secure' * is_https}"
        return _cookie_name(scope) + b"=" + token + rest.encode()

    async def _pass_on(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        lengths = [int(each) for each in headers.get(b"content-length", ())]
        if not lengths and b"transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        limit = self._bodies.get(scope["path"], self._json)
        if any(length > limit.bytes for length in lengths):
            await too_large(limit.bytes).send(send)
        elif max(lengths, default=limit.bytes) <= self._json.bytes:
            await _pass_on_limited(self._app, scope, LimitedBody(receive, limit), send)
        elif self._large >= MAX_LARGE_BODIES:
            await TOO_MANY_BODIES.send(send)
        else:
            self._large += 1
            try:
                await _pass_on_limited(self._app, scope, LimitedBody(receive, limit), send)
            finally:
                self._large -= 1


async def _pass_on_limited(app: ASGIApp, scope: Scope, body: LimitedBody, send: Send) -> None:
    """Let a handler read a body; if a limit is reached, whatever the handler makes of it is dropped."""
    has_started = False

    async def send_unless_refused(message: Message) -> None:
        nonlocal has_started
        if body.refusal is None or has_started:
            has_started = True
            await send(message)

    try:
        await app(scope, body, send_unless_refused)
    except Exception:
        if body.refusal is None or has_started:
            raise
    if body.refusal is not None and not has_started:
        await body.refusal.send(send)


async def _lead_on(location: bytes, cookie: bytes, send: Send) -> None:
    """Keep the token in a cookie, and the browser at an address without it."""
    headers = [(b"location", location), (b"set-cookie", cookie), (b"referrer-policy", b"no-referrer")]
    headers += [(b"cache-control", b"no-store"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _port(scope: Scope) -> int | None:
    """The port that a connection was made to."""
    return scope["server"][1] if scope.get("server") else None


def _cookie_name(scope: Scope) -> bytes:
    """Browsers do not keep cookies apart by port."""
    return f"llm2clip-{_port(scope)}".encode()


def _tokens(headers: Headers, cookie: bytes) -> list[bytes]:
    """The tokens that a request brings in its headers."""
    bearers = [value[7:].strip() for value in headers.get(b"authorization", ()) if value[:7].lower() == b"bearer "]
    pairs = (pair.strip().partition(b"=") for value in headers.get(b"cookie", ()) for pair in value.split(b";"))
    return bearers + [value for name, _, value in pairs if name == cookie]


def _watched(scope: Scope) -> dict[bytes, list[bytes]] | None:
    """The headers that matter here by name, with all their values; None if there are too many headers."""
    headers = scope["headers"]
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if len(headers) > MAX_HEADERS or size + sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        return None
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _WATCHED:
            found.setdefault(name, []).append(value)
    return found


def _with_headers(send: Send, path: str) -> Send:
    """Sends answers with the headers that they lack."""
    caching = b"no-store" if path.startswith(("/api/", "/v1/")) else b"no-cache"

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [header for header in (*_ADDED, (b"cache-control", caching)) if header[0] not in present]
            message = {**message, "headers": headers}
        await send(message)

    return send_with_headers
