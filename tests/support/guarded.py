"""An application behind the checks that every request passes, and a client of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.safety import Safety

PORT = 8410
TOKEN = "a-token-that-nobody-would-guess"
COOKIE = f"llm2clip-{PORT}"

Handler = Callable[[Request], Awaitable[Response]]


async def echo(request: Request) -> Response:
    """Answers with the size of the body."""
    return PlainTextResponse(str(len(await request.body())))


async def cached(request: Request) -> Response:
    return PlainTextResponse("picture", headers={"Cache-Control": "private, max-age=60"})


def app(*, handler: Handler = echo, **config: Any) -> Safety:
    """Ways that the real application has, with ``config`` as of `ServerConfig`."""
    methods = ["GET", "POST"]
    paths = ("/", "/api/v1/search", "/api/v1/uploads", "/api/v1/health", "/static/page.js")
    routes = [Route(path, handler, methods=methods) for path in paths] + [Route("/api/v1/images/1/thumbnail", cached)]
    return Safety(Starlette(routes=routes), ServerConfig(**{"upload_bytes": 4 << 20, **config}))


def ask(
    application: Safety,
    path: str = "/api/v1/search",
    *,
    method: str = "GET",
    host: str = f"127.0.0.1:{PORT}",
    **more: Any,
) -> httpx.Response:
    headers = {"Host": host, **more.pop("headers", {})}

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}") as client:
            return await client.request(method, path, headers=headers, **more)

    return asyncio.run(run())
