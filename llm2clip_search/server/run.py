"""Run the server until it is stopped by SIGINT or SIGTERM."""

import logging
import signal
import socket
from collections.abc import Callable
from urllib.parse import quote

import uvicorn
from starlette.types import ASGIApp

from llm2clip_search.base.memory import keep_memory_low
from llm2clip_search.errors import InputError
from llm2clip_search.server.app import create_app
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.connection import PatientConnection
from llm2clip_search.server.hosts import WILDCARDS, in_url
from llm2clip_search.server.safety import MAX_HEADER_BYTES
from llm2clip_search.server.service import Service

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 500
"""Further connections are answered with 503, so that files can still be opened."""
KEEP_ALIVE_S = 30
STOP_S = 5
"""Seconds that running requests have to finish when the server stops."""


def serve(config: ServerConfig, *, listening: Callable[[str], None]) -> None:
    """Serve until a signal comes.

    Args:
        listening: called with the page's address once connections are accepted; the token is part of it.

    Raises:
        InputError: the address or the port cannot be used, or as `create_app`.
    """
    keep_memory_low()
    server = uvicorn.Server(uvicorn_config(create_app(Service(config))))
    bound = _bind(config)
    # uvicorn stops at these signals, and raises them again when it has: that must not be an error then.
    stopped_by = list[int]()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, _: stopped_by.append(number))
    listening(_address(config, bound.getsockname()[1]))
    server.run(sockets=[bound])
    for number in stopped_by:
        _log.info("Stopped by %s.", signal.Signals(number).name)


def uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    """How connections are served: within limits, and without a log of requests, which would hold captions."""
    return uvicorn.Config(
        app,
        http=PatientConnection,
        ws="none",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
        access_log=False,
        log_level="error",  # every malformed request would be a warning
        server_header=False,
        proxy_headers=False,  # nothing here depends on what a proxy says of its client
    )


def _address(config: ServerConfig, port: int) -> str:
    """Where the page is opened."""
    host = socket.gethostname().lower() if config.host in WILDCARDS else in_url(config.host)
    return f"http://{host}:{port}/" + ("" if config.token is None else f"?token={quote(config.token, safe='')}")


def _bind(config: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # asyncio sends without waiting for more (TCP_NODELAY) only if the protocol is named.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((config.host, config.port))
        bound.listen(128)
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"The server cannot listen on {config.host}, port {config.port}: {reason}.",
            hint="Choose another port with --port; 0 takes any that is free.",
        ) from error
    return bound
