"""What a request has to meet before a handler sees it, and the headers of every answer.

Any page that a browser shows can make it send requests to this server, also if the server listens on loopback only. A
request is therefore answered only if it names the server as its user does (`hosts`), if no other site made the browser
send it, and, where other machines can connect, if it brings the token.
"""

import asyncio
import hmac
import re
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm2clip_search.errors import InputError
from llm2clip_search.server.hosts import Hosts
from llm2clip_search.server.refusals import Refusal
from llm2clip_search.server.request_body import JSON_BODY, BodyLimit, LimitedBody, TooLargeError

HEALTH = "/api/v1/health"
"""Answered without a token, so that whatever watches the server needs none."""
MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 << 10
"""Of all headers and the URL together."""
WRONG_TOKEN_SECONDS = 0.5
"""How long the answer to a wrong token takes."""
MAX_WAITING = 16
"""Answers to wrong tokens that wait at the same time; further ones are refused at once."""

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = tuple(
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": _CONTENT_POLICY,
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
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")
"""What RFC 6750 allows in a header, which is also fine in a cookie."""

_FOREIGN = Refusal(
    name="forbidden",
    status=HTTPStatus.FORBIDDEN,
    detail="Another site made the browser send this request.",
    hint="Only the server's own page and programs may send requests.",
    form='<p><a href="/">Open the search page</a></p>',
)
_HOST = Refusal(
    name="misdirected",
    status=HTTPStatus.MISDIRECTED_REQUEST,
    detail="The server does not answer to the host name of this request.",
    hint="Behind a proxy, or for another name, whoever runs the server allows the name with --allow-host.",
)
_HEADERS_TOO_LARGE = Refusal(
    name="headers-too-large",
    status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    detail=f"A request may have {MAX_HEADERS} headers and {MAX_HEADER_BYTES:,} bytes of headers and URL.",
    hint="Send long captions and conditions in the body, with POST.",
)
_NO_PATH = Refusal(name="bad-request", status=HTTPStatus.BAD_REQUEST, detail="The URL has no path.")
_TOKEN_FORM = (
    '<form action="/"><label>Token <input name="token" type="password" autocomplete="current-password" required>'
    '</label> <button>Open</button></form><p>After following a link with the token, <a href="/">continue</a>.</p>'
)
_UNAUTHORIZED = Refusal(
    name="unauthorized",
    status=HTTPStatus.UNAUTHORIZED,
    detail="The server needs its token.",
    hint="It was printed when the server started, or is in LLM2CLIP_TOKEN there. Programs send it as"
    " 'Authorization: Bearer TOKEN'; browsers open /?token=TOKEN once.",
    headers=((b"www-authenticate", b"Bearer"),),
    form=_TOKEN_FORM,
)
_TOO_MANY = Refusal(
    name="busy",
    status=HTTPStatus.TOO_MANY_REQUESTS,
    detail="There have been too many wrong tokens.",
    headers=((b"retry-after", b"1"),),
    form=_TOKEN_FORM,
)


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)


def checked_token(token: str) -> str:
    """A token that a user chose.

    Raises:
        InputError: it is short, or has characters that a header cannot carry.
    """
    if not _TOKEN.fullmatch(token):
        raise InputError("A token has at least 16 characters: letters, digits and any of - . _ ~ + /.")
    return token


class Safety:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, *, hosts: Hosts, token: str | None, bodies: Mapping[str, BodyLimit] | None = None
    ) -> None:
        """Wrap an application.

        Args:
            hosts: which Host headers are answered.
            token: what a request has to bring; None if only programs of this machine can connect.
            bodies: limits of the bodies of some paths; those of all others are JSON.
        """
        self._app, self._hosts = app, hosts
        self._token = None if token is None else token.encode()
        # Browsers do not keep cookies apart by port.
        self._cookie = f"llm2clip-{hosts.port}".encode()
        self._bodies = dict(bodies or {})
        self._waiting = 0

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
            await _HEADERS_TOO_LARGE.send(send, is_page=False)
            return
        is_page = scope["path"] == "/" and b"text/html" in headers.get(b"accept", [b""])[0]
        if (refusal := self._refusal(scope, headers)) is not None:
            await refusal.send(send, is_page=is_page)
        elif self._token is not None and scope["path"] != HEALTH:
            await self._answer_with_token(scope, headers, receive, send, is_page=is_page)
        else:
            await self._pass_on(scope, headers, receive, send)

    def _refusal(self, scope: Scope, headers: Mapping[bytes, list[bytes]]) -> Refusal | None:
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return _HOST
        origins = (b"http://" + hosts[0], b"https://" + hosts[0])
        if any(origin not in origins for origin in headers.get(b"origin", ())):
            return _FOREIGN
        if any(site not in (b"same-origin", b"none") for site in headers.get(b"sec-fetch-site", ())):
            return _FOREIGN
        return None if scope["path"].startswith("/") else _NO_PATH

    async def _answer_with_token(
        self, scope: Scope, headers: Mapping[bytes, list[bytes]], receive: Receive, send: Send, *, is_page: bool
    ) -> None:
        query: bytes = scope["query_string"]
        fields = query.split(b"&") if scope["path"] == "/" else []
        asked = [unquote_to_bytes(each[6:]) for each in fields if each.startswith(b"token=")]
        if asked and self._is_right(asked[0]):
            rest = b"&".join(each for each in fields if not each.startswith(b"token="))
            await self._let_in(b"/?" + rest if rest else b"/", headers, send)
        elif not asked and any(map(self._is_right, (given := self._given(headers)))):
            await self._pass_on(scope, headers, receive, send)
        else:
            refusal = await self._refuse_token() if asked or given else _UNAUTHORIZED
            await refusal.send(send, is_page=is_page)

    def _is_right(self, given: bytes) -> bool:
        return self._token is not None and hmac.compare_digest(given, self._token)

    def _given(self, headers: Mapping[bytes, list[bytes]]) -> list[bytes]:
        """The tokens that a request brings in its headers."""
        bearers = [value[7:].strip() for value in headers.get(b"authorization", ()) if value[:7].lower() == b"bearer "]
        pairs = (pair.strip().partition(b"=") for value in headers.get(b"cookie", ()) for pair in value.split(b";"))
        return bearers + [value for name, _, value in pairs if name == self._cookie]

    async def _refuse_token(self) -> Refusal:
        """Slow down whoever guesses; a request with the right token never waits."""
        if self._waiting >= MAX_WAITING:
            return _TOO_MANY
        self._waiting += 1
        try:
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
        finally:
            self._waiting -= 1
        return _UNAUTHORIZED

    async def _let_in(self, location: bytes, headers: Mapping[bytes, list[bytes]], send: Send) -> None:
        """Keep the token in a cookie, and the browser at an address without it."""
        assert self._token is not None, "it was compared"
        # A client that lies about its proxy gets a cookie that it does not send again.
        is_https = headers[b"host"][0].lower() in self._hosts.proxied and headers.get(b"x-forwarded-proto") == [
            b"https"
        ]
        secure = b"; Secure" if is_https else b""
        cookie = self._cookie + b"=" + self._token + b"; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000" + secure
        answer = [(b"location", location), (b"set-cookie", cookie), (b"referrer-policy", b"no-referrer")]
        answer += [(b"cache-control", b"no-store"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": HTTPStatus.SEE_OTHER.value, "headers": answer})
        await send({"type": "http.response.body", "body": b""})

    async def _pass_on(self, scope: Scope, headers: Mapping[bytes, list[bytes]], receive: Receive, send: Send) -> None:
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        limit = self._bodies.get(scope["path"], JSON_BODY)
        if any(int(length) > limit.bytes for length in headers.get(b"content-length", ())):
            await _too_large(limit).send(send, is_page=False)
            return
        await _pass_on_limited(self._app, scope, LimitedBody(receive, limit), send, limit)


async def _pass_on_limited(app: ASGIApp, scope: Scope, body: LimitedBody, send: Send, limit: BodyLimit) -> None:
    """Let a handler read a body; if a limit is reached, whatever the handler makes of it is dropped."""
    has_started = False

    async def send_unless_limited(message: Message) -> None:
        nonlocal has_started
        if body.fault is None or has_started:
            has_started = True
            await send(message)

    try:
        await app(scope, body, send_unless_limited)
    except Exception:
        if body.fault is None or has_started:
            raise
    if body.fault is not None and not has_started:
        refusal = _too_large(limit) if isinstance(body.fault, TooLargeError) else _too_slow(limit)
        await refusal.send(send, is_page=False)


def _too_large(limit: BodyLimit) -> Refusal:
    detail = f"The body has more than {limit.bytes:,} bytes."
    return Refusal(name="too-large", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail=detail)


def _too_slow(limit: BodyLimit) -> Refusal:
    detail = f"The body did not arrive within {limit.seconds:g} seconds."
    return Refusal(
        name="too-slow", status=HTTPStatus.REQUEST_TIMEOUT, detail=detail, headers=((b"connection", b"close"),)
    )


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
            headers += [header for header in (*_HEADERS, (b"cache-control", caching)) if header[0] not in present]
            message = {**message, "headers": headers}
        await send(message)

    return send_with_headers
