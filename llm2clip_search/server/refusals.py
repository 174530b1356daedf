"""Answers to requests that no handler sees: a problem for programs, a short page for people."""

from dataclasses import dataclass
from html import escape

import msgspec
from starlette.types import Send

from llm2clip_search.base.visible import visible
from llm2clip_search.server.problems import MEDIA_TYPE, Problem

Headers = tuple[tuple[bytes, bytes], ...]

_TOKEN_FORM = (
    '<form action="/"><label>Token <input name="token" type="password" autocomplete="current-password" required>'
    '</label> <button>Open</button></form><p>After following a link with the token, <a href="/">continue</a>.</p>'
)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request is refused."""

    problem: Problem
    headers: Headers = ()
    further: str = ""
    """HTML that a person can go on with; empty if there is nothing to do."""

    async def send(self, send: Send, *, is_page: bool = False) -> None:
        """Answer with it, as a page if a browser is to show it."""
        document = self.problem.document
        kind, body = (b"text/html; charset=utf-8", self._page()) if is_page else (MEDIA_TYPE.encode(), self._json())
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *self.headers]
        if self.problem.retry_after is not None:
            headers.append((b"retry-after", str(self.problem.retry_after).encode()))
        headers.append((b"cache-control", b"no-store"))
        await send({"type": "http.response.start", "status": document.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _json(self) -> bytes:
        return msgspec.json.encode(self.problem.document)

    def _page(self) -> bytes:
        title, detail, hint = (
            escape(visible(text))
            for text in (self.problem.document.title, str(self.problem), self.problem.document.hint)
        )
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>llm2clip-search</title>'
            '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark"></head>'
            f"<body><main><h1>{title}</h1><p>{detail}</p><p>{hint}</p>{self.further}</main></body></html>"
        ).encode()


MISDIRECTED = Refusal(
    problem=Problem(
        "misdirected",
        "The server does not answer to the host name of this request.",
        hint="Whoever runs the server can allow the name, such as that of a reverse proxy, with --allow-host.",
    )
)
FOREIGN = Refusal(
    problem=Problem(
        "forbidden",
        "Another site made the browser send this request.",
        hint="Only the server's own page and programs may send requests.",
    ),
    further='<p><a href="">Open the search page</a></p>',
)
UNAUTHORIZED = Refusal(
    problem=Problem(
        "unauthorized",
        "The server needs its token.",
        hint="It was printed when the server started, or is in LLM2CLIP_TOKEN there. Programs send it as"
        " 'Authorization: Bearer TOKEN'; browsers open /?token=TOKEN once.",
    ),
    headers=((b"www-authenticate", b"Bearer"),),
    further=_TOKEN_FORM,
)
TOO_MANY_TOKENS = Refusal(
    problem=Problem("busy", "There have been too many wrong tokens.", retry_after=1), further=_TOKEN_FORM
)
TOO_MANY_BODIES = Refusal(problem=Problem("busy", "Too many large bodies arrive at the same time.", retry_after=2))
NO_PATH = Refusal(problem=Problem("bad-request", "The URL has no path."))


def headers_too_large(count: int, size: int) -> Refusal:
    """Of limits on the number of headers, and on the bytes of headers and URL."""
    return Refusal(
        problem=Problem(
            "headers-too-large",
            f"A request has {count} headers and {size:,} bytes of headers and URL at most.",
            hint="Send long captions and conditions in the body, with POST.",
        )
    )


def too_large(limit: int) -> Refusal:
    """Of a limit on the bytes of a body."""
    return Refusal(problem=Problem("too-large", f"The body has more than {limit:,} bytes."))


def too_slow(seconds: float) -> Refusal:
    """Of a limit on the time of a body; its rest cannot be told from another request, so the connection ends."""
    return Refusal(
        problem=Problem("too-slow", f"The body did not arrive within {seconds:g} seconds."),
        headers=((b"connection", b"close"),),
    )
