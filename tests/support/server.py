"""A served index: in this process for quick tests, and behind a real socket for the others."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from llm2clip_search.encoders import Encoder
from llm2clip_search.server.app import create_app
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.run import uvicorn_config
from llm2clip_search.server.service import Service

SECONDS = 30
"""How long anything may take before a test gives up."""


@contextmanager
def served(*indices: Path, encoder: Encoder, **config: Any) -> Iterator[TestClient]:
    """A client of indices that are open; no socket is involved. ``config`` is as of `ServerConfig`."""
    service = Service(ServerConfig(indices=indices, **config), encoder=encoder)
    token = service.config.token
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    address = f"http://127.0.0.1:{service.config.port}"
    with TestClient(create_app(service), base_url=address, headers=headers) as client:
        wait_until(lambda: client.get("/api/v1/ready").status_code == 200)
        yield client


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """The address of a server on a free port of the loopback interface."""
    with running(create_app(service)) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(app: ASGIApp) -> Iterator[int]:
    """The free port of the loopback interface on which an application is served, as `serve` does."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn_config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(SECONDS)


def wait_until(holds: Any) -> None:
    """Ask again and again until it holds."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
