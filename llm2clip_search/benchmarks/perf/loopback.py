"""Servers on loopback, each a process of its own: files by HTTP, and an S3 server of the package moto.

``python -m llm2clip_search.benchmarks.perf.loopback FOLDER`` serves a folder and prints its port.
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
    """Serve a folder's files; the URL of the folder."""
    process = subprocess.Popen([sys.executable, "-m", __name__, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.communicate()


def has_s3_server() -> bool:
    """True if moto, its web framework and obstore are installed."""
    return all(find_spec(name) is not None for name in ("moto", "flask", "flask_cors", "obstore"))


@contextmanager
def s3_server() -> Iterator[str]:
    """An empty S3 server; its endpoint.

    Raises:
        CorpusError: it does not start.
    """
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CorpusError("The S3 server of the package moto does not start.")
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


def main(folder: str) -> None:
    """Serve a folder until the process is ended."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=folder))
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
