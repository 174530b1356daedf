"""Clients of a server on this machine that take as little of its time as possible."""

import http.client
import json
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from llm2clip_search.errors import CorpusError


class KeptOpen:
    """One connection, which is kept open; answers are JSON."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._connection.close()

    def get(self, path: str, *, any_status: bool = False) -> dict[str, Any]:
        """The answer to a GET request.

        Raises:
            CorpusError: the status is not 200, unless any is good.
        """
        return self._answer("GET", path, None, any_status=any_status)

    def post(self, path: str, value: object) -> dict[str, Any]:
        """The answer to a value in JSON; errors as `get`."""
        return self._answer("POST", path, value, any_status=False)

    def body(self, path: str) -> bytes:
        """The body of an answer as it is; errors as `get`."""
        return self._exchange("GET", path, None, any_status=False)[1]

    def status(self, path: str, value: object) -> int:
        """The status of the answer to a value in JSON."""
        return self._exchange("POST", path, value, any_status=True)[0]

    def _answer(self, method: str, path: str, value: object, *, any_status: bool) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._exchange(method, path, value, any_status=any_status)[1])
        return found

    def _exchange(self, method: str, path: str, value: object, *, any_status: bool) -> tuple[int, bytes]:
        """The status and the body of an answer; None asks without a body."""
        body = None if value is None else json.dumps(value)
        self._connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = self._connection.getresponse()
        read = answer.read()
        if answer.status != http.client.OK and not any_status:
            raise CorpusError(f"{method} {path} was answered with {answer.status}: {read[:200]!r}")
        return answer.status, read


def answers_per_second(address: str, paths: Sequence[str], *, connections: int = 4, seconds: float = 3.0) -> float:
    """How many GET requests are answered with 200, by connections that are kept open and each wait for their answer.

    Raises:
        CorpusError: another status.
    """
    parts = urlsplit(address)
    host = f"{parts.hostname}:{parts.port}"
    requests = [f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() for path in paths]
    opened = [socket.create_connection((parts.hostname or "", parts.port or 80)) for _ in range(connections)]
    try:
        answered, end = 0, time.perf_counter() + seconds
        started = time.perf_counter()
        while time.perf_counter() < end:
            for number, each in enumerate(opened):
                each.sendall(requests[(answered + number) % len(requests)])
            for each in opened:
                _read_answer(each)
            answered += connections
        return answered / (time.perf_counter() - started)
    finally:
        for each in opened:
            each.close()


def _read_answer(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16) or _closed()
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise CorpusError(f"A request was answered with {head.splitlines()[0]!r}.")
    [length] = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    got = len(body)
    while got < length:
        got += len(connection.recv(1 << 16) or _closed())


def _closed() -> bytes:
    raise CorpusError("The server closed a connection.")
