"""Requests to a server, byte by byte."""

import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

WAIT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server answered; of a connection that it closed without an answer, status 0."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body of a JSON answer."""
        return json.loads(self.body)


def exchange(port: int, sent: bytes) -> Answer:
    """Send bytes as they are, and read one answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        with suppress(ConnectionError):  # it may answer, and close, before it has read all
            connection.sendall(sent)
        return answer(connection)


def answer(connection: socket.socket) -> Answer:
    """The next answer on a connection; its body is all that comes until it is complete."""
    data = b""
    with suppress(ConnectionError):
        while b"\r\n\r\n" not in data and (part := connection.recv(65536)):
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        chunked = headers.get("transfer-encoding") == "chunked"
        while (len(body) < length or (chunked and not body.endswith(b"0\r\n\r\n"))) and (
            part := connection.recv(65536)
        ):
            body += part
        if lines[0]:
            return Answer(status=int(lines[0].split()[1]), headers=headers, body=body)
    return Answer(status=0, headers={}, body=b"")


def request(
    port: int,
    target: str = "/",
    *,
    method: str = "GET",
    body: bytes = b"",
    host: str = "",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request of a program, by default with the right host."""
    named = {"host": host or f"127.0.0.1:{port}", "connection": "close"}
    if body:
        named["content-length"] = str(len(body))
    lines = [f"{name}: {value}" for name, value in (named | dict(headers or {})).items()]
    return exchange(port, "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body)
