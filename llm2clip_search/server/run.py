"""Run the server until it is stopped by SIGINT or SIGTERM."""

import signal
import socket
from collections.abc import Callable

import uvicorn

from llm2clip_search.errors import InputError
from llm2clip_search.server.app import create_app
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.service import Service

STOP_S = 5
"""Seconds that running requests have to finish when the server stops."""


def serve(config: ServerConfig, *, listening: Callable[[str], None]) -> None:
    """Serve until a signal comes.

    Args:
        listening: called with the page's address once connections are accepted.

    Raises:
        InputError: the address or the port cannot be used.
    """
    bound = _bind(config)
    host = f"[{config.host}]" if ":" in config.host else config.host
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(Service(config)),
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=STOP_S,
        )
    )
    # uvicorn stops at these signals, and raises them again when it has: that must not be an error then.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: None)
    listening(f"http://{host}:{bound.getsockname()[1]}/")
    server.run(sockets=[bound])


def _bind(config: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
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
