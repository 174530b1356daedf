"""A served index: in this process for quick tests, and behind a real socket for the others."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from llm2clip_search.encoders import Encoder
from llm2clip_search.server.app import create_app
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.service import Service

SECONDS = 30
"""How long anything may take before a test gives up."""


@contextmanager
def served(*indices: Path, encoder: Encoder, **config: Any) -> Iterator[TestClient]:
    """A client of indices that are open; no socket is involved. ``config`` is as of `ServerConfig`."""
    service = Service(ServerConfig(indices=indices, **config), encoder=encoder)
    with TestClient(create_app(service), base_url=f"http://127.0.0.1:{service.config.port}") as client:
        wait_until(lambda: client.get("/api/v1/ready").status_code == 200)
        yield client


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """The address of a server on a free port of the loopback interface."""
    server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(SECONDS)


def wait_until(holds: Any) -> None:
    """Ask again and again until it holds."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
