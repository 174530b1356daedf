"""What the adapter makes of a server's refusals and of lost connections."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from llm2clip_search.errors import EngineError
from llm2clip_search.vectorindex.serving import qdrant
from llm2clip_search.vectorindex.serving.opening import open_engine

Answer = tuple[int, object] | None
"""Status and JSON; None closes the connection without a word."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that is closed on purpose is no error."""


@contextmanager
def server(answer: Callable[[int, str], Answer]) -> Iterator[tuple[str, list[str]]]:
    """A server on loopback; ``answer`` gets the number of the request, from 1, and its path.

    Yields:
        Its address, and the tokens of the requests so far.
    """
    tokens: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            tokens.append(self.headers.get("api-key") or "")
            given = answer(len(tokens), self.path)
            if given is None:
                self.close_connection = True
                self.connection.close()
                return
            body = json.dumps(given[1]).encode()
            self.send_response(given[0])
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the names that the library calls

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    made = _Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}", tokens
    finally:
        made.shutdown()
        made.server_close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "WAITS", (0.0, 0.0, 0.0))


MISSING = (200, {"time": 0.1, "status": "ok", "result": {"exists": False}})


def test_a_lost_connection_is_tried_again() -> None:
    with server(lambda number, _: MISSING if number > 2 else None) as (address, tokens):
        assert open_engine(f"qdrant:{address}/photos").state() is None
        assert len(tokens) == 3


def test_a_busy_server_is_tried_again_and_given_up() -> None:
    busy = (503, {"status": {"error": "optimising"}})
    with server(lambda number, _: MISSING if number > 3 else busy) as (address, tokens):
        assert open_engine(f"qdrant:{address}/photos").state() is None
        assert len(tokens) == 4
    with server(lambda *_: busy) as (address, tokens):
        with pytest.raises(EngineError, match=r"/photos answered HTTP 503: .*optimising"):
            open_engine(f"qdrant:{address}/photos").state()
        assert len(tokens) == 4


def test_a_server_that_drops_every_connection_is_given_up() -> None:
    with server(lambda *_: None) as (address, tokens):
        with pytest.raises(EngineError, match=r"qdrant:http://127\.0\.0\.1:\d+/photos cannot be reached: "):
            open_engine(f"qdrant:{address}/photos").count()
        assert len(tokens) == 4


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_not_sent_again_and_not_shown(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "secret-7d1f")
    with server(lambda *_: (status, {"status": {"error": "Invalid API key"}})) as (address, tokens):
        engine = open_engine(f"qdrant:{address}/photos")
        with pytest.raises(EngineError, match=f"refuses the token \\(HTTP {status}\\)") as raised:
            engine.state()
    assert tokens == ["secret-7d1f"]
    assert "QDRANT_API_KEY" in raised.value.hint
    assert "secret" not in f"{raised.value} {raised.value.hint} {engine.name}"


def test_a_collection_that_is_gone_and_a_wrong_request_are_said() -> None:
    with (
        server(lambda *_: (404, {"status": {"error": "Not found"}})) as (address, _),
        pytest.raises(EngineError, match="/photos does not exist"),
    ):
        open_engine(f"qdrant:{address}/photos").delete(np.array([1]))
    with (
        server(lambda *_: (400, {"status": {"error": "Vector dimension error"}})) as (address, _),
        pytest.raises(EngineError, match=r"answered HTTP 400: .*Vector dimension error"),
    ):
        open_engine(f"qdrant:{address}/photos").search(np.ones((1, 3), dtype=np.float32), 3)


def test_what_is_no_answer_of_qdrant_is_said() -> None:
    with (
        server(lambda *_: (200, {"hello": "world"})) as (address, tokens),
        pytest.raises(EngineError, match=r"What answers at qdrant:.*/photos is not a Qdrant server"),
    ):
        open_engine(f"qdrant:{address}/photos").state()
    assert len(tokens) == 1
    with (
        server(lambda *_: (200, {"result": {"exists": ["?"]}})) as (address, _),
        pytest.raises(EngineError, match="is not a Qdrant server"),
    ):
        open_engine(f"qdrant:{address}/photos").state()


def test_a_prefix_of_a_proxy_is_kept() -> None:
    paths: list[str] = []

    def answer(_: int, path: str) -> Answer:
        paths.append(path)
        return MISSING

    with server(answer) as (address, _):
        engine = open_engine(f"qdrant:{address}/vectors/photos")
        assert engine.state() is None
        assert engine.name == f"qdrant:{address}/vectors/photos"
    assert paths == ["/vectors/collections/photos/exists"]
