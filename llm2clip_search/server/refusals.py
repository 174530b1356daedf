"""Answers to requests that no handler sees: a problem for programs, a short page for people."""

from dataclasses import dataclass, field
from html import escape
from http import HTTPStatus

import msgspec
from starlette.types import Send

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request is refused."""

    name: str
    """Of the problem's type."""
    status: HTTPStatus
    detail: str
    hint: str = ""
    headers: Headers = ()
    form: str = field(default="")
    """HTML that a person can go on with; empty if there is nothing to do."""

    async def send(self, send: Send, *, is_page: bool) -> None:
        """Answer with it, as a page if a browser is to show it."""
        kind, body = (
            (b"text/html; charset=utf-8", self._page()) if is_page else (b"application/problem+json", self._json())
        )
        length = str(len(body)).encode()
        headers = [(b"content-type", kind), (b"content-length", length), (b"cache-control", b"no-store"), *self.headers]
        await send({"type": "http.response.start", "status": self.status.value, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _json(self) -> bytes:
        problem = {"type": f"/problems/{self.name}", "title": self.status.phrase, "status": self.status.value}
        return msgspec.json.encode(problem | {"detail": self.detail} | ({"hint": self.hint} if self.hint else {}))

    def _page(self) -> bytes:
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>llm2clip-search</title>'
            '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark"></head>'
            f"<body><main><h1>{escape(self.status.phrase)}</h1><p>{escape(self.detail)}</p><p>{escape(self.hint)}</p>"
            f"{self.form}</main></body></html>"
        ).encode()
