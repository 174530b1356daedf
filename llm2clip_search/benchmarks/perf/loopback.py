"""Servers on loopback, each a process of its own: files by HTTP, and an S3 server of the package moto.

``python -m llm2clip_search.benchmarks.perf.loopback FOLDER PORT`` serves a folder.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from socket import create_connection, socket

from llm2clip_search.errors import CorpusError

_WAIT_SECONDS = 60.0


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the benchmark's."""


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    """Serve a folder's files; the URL of the folder.

    Raises:
        CorpusError: the server does not start.
    """
    with _running(__name__, str(folder)) as url:
        yield url


def has_s3_server() -> bool:
    """True if moto, its web framework and obstore are installed."""
    return all(find_spec(name) is not None for name in ("moto", "flask", "flask_cors", "obstore"))


@contextmanager
def s3_server() -> Iterator[str]:
    """An empty S3 server; its endpoint.

    Raises:
        CorpusError: it does not start.
    """
    with _running("moto.server", "-H", "127.0.0.1", "-p") as url:
        yield url


@contextmanager
def _running(module: str, *arguments: str) -> Iterator[str]:
    """A module's server as a process, with a free port as its last argument; its URL."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, *arguments, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CorpusError(f"The server of the module {module} does not start.")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def main(folder: str, port: str) -> None:
    """Serve a folder until the process is ended."""
    ThreadingHTTPServer(("127.0.0.1", int(port)), partial(_Handler, directory=folder)).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
