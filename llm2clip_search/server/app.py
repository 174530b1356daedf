"""The application: routes, the page's files, and what surrounds every request."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from llm2clip_search.server.api import (
    conditions,
    embeddings,
    facets,
    images,
    maps,
    saved,
    search,
    status,
    texts,
    uploads,
)
from llm2clip_search.server.endpoint import PREFIX, Endpoint, Pools
from llm2clip_search.server.openapi import describe
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.safety import Safety
from llm2clip_search.server.service import Service

STATIC = Path(__file__).parent / "static"

ENDPOINTS: tuple[Endpoint, ...] = (
    *search.ENDPOINTS,
    *facets.ENDPOINTS,
    *conditions.ENDPOINTS,
    *images.ENDPOINTS,
    *uploads.ENDPOINTS,
    *texts.ENDPOINTS,
    *embeddings.ENDPOINTS,
    *maps.ENDPOINTS,
    *saved.ENDPOINTS,
    *status.ENDPOINTS,
)
"""Every route of the API."""


def create_app(service: Service) -> ASGIApp:
    """The application of a service, which it starts and closes.

    Raises:
        InputError: as `Hosts.of`.
    """
    pools = Pools(queue=service.config.queue, cores=os.cpu_count() or 1)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    routes = [endpoint.route(service, pools) for endpoint in ENDPOINTS]
    routes.append(Route(f"{PREFIX}/openapi.json", _openapi))
    routes.append(Route("/", _page))
    app = Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=STATIC))],
        lifespan=lifespan,
        exception_handlers={404: _not_found, 405: _not_allowed},
    )
    return Safety(app, service.config)


async def _openapi(_: Request) -> Response:
    return Response(describe(ENDPOINTS), media_type="application/json")


async def _page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


async def _not_found(request: Request, _: Exception) -> Response:
    return Problem("not-found", f"There is nothing at {request.url.path}.").response


async def _not_allowed(request: Request, _: Exception) -> Response:
    return Problem("method-not-allowed", f"{request.url.path} does not take {request.method}.").response
