"""A web server on loopback that behaves as a test wants, badly above all."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Request(BaseHTTPRequestHandler):
    """One request; `Page` answers it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: "WebServer"

    def do_GET(self) -> None:
        self.server.seen(self)
        path = self.path.partition("?")[0]
        with suppress(OSError):
            self.server.pages.get(path, _missing)(self)
        with self.server.lock:
            self.server.at_once -= 1

    do_HEAD = do_GET  # noqa: N815 - the name that http.server wants

    def log_message(self, format: str, *args: object) -> None:
        """Keep the terminal quiet."""

    def answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        """Send a whole answer; underscores of header names stand for hyphens."""
        self.send_response(status)
        sent = {"Content-Type": "image/png", "Content-Length": str(len(body))}
        for name, value in (sent | {name.replace("_", "-"): value for name, value in headers.items()}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def reset(self) -> None:
        """Break the connection, as a machine that crashes."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close_connection = True
        self.connection.close()

    def ranged(self, body: bytes, **headers: str) -> None:
        """Send a body, or the part of it that is asked for."""
        wanted = self.headers.get("Range")
        if wanted is None:
            self.answer(body, status=200, **headers)
            return
        first, last = (int(each) for each in wanted.removeprefix("bytes=").split("-"))
        if first >= len(body):
            self.answer(status=416)
            return
        part = body[first : last + 1]
        headers["Content_Range"] = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
        self.answer(part, status=206, **headers)


Page = Callable[[Request], None]


def _missing(request: Request) -> None:
    request.answer(b"<html>not here</html>", 404, Content_Type="text/html")


class WebServer(ThreadingHTTPServer):
    """Pages by path, and what was asked for."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, pages: Mapping[str, Page]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.pages, self.lock = dict(pages), threading.Lock()
        self.hits: Counter[str] = Counter()
        self.headers: list[Mapping[str, str]] = []
        self.connections: set[object] = set()
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def seen(self, request: Request) -> None:
        """Note a request."""
        with self.lock:
            self.hits[request.path] += 1
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
            self.connections.add(request.client_address)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what is tested."""


@contextmanager
def web_server(pages: Mapping[str, Page]) -> Iterator[WebServer]:
    """A server, for as long as the context lasts."""
    server = WebServer(pages)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def drip(request: Request, *, start: bytes, seconds: float = 0.05) -> None:
    """Send one byte after the other, for ever."""
    request.wfile.write(start)
    while True:
        request.wfile.write(b"x")
        request.wfile.flush()
        time.sleep(seconds)
