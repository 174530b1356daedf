"""Where a next page begins, as opaque text that belongs to one query at one state of the indices."""

import base64
import hashlib

import msgspec
from msgspec import Struct

from llm2clip_search.server.opened import Opened
from llm2clip_search.server.problems import Problem


class _Cursor(Struct, array_like=True, frozen=True):
    generation: str
    offset: int
    query: str


def cursor(asked: Struct, opened: Opened, offset: int) -> str:
    """The cursor of the page that begins after ``offset`` results of a request without its page."""
    given = _Cursor(opened.generation, offset, _digest(asked))
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(given)).decode().rstrip("=")


def read_cursor(given: str, asked: Struct, opened: Opened) -> int:
    """Results before the page.

    Raises:
        Problem: ``bad-request`` for a cursor of another query, ``index-changed`` for one of another state.
    """
    try:
        padded = given + "=" * (-len(given) % 4)
        read = msgspec.msgpack.decode(base64.urlsafe_b64decode(padded), type=_Cursor)
    except ValueError as error:
        raise Problem("bad-request", "The cursor was not made by this server.", parameter="cursor") from error
    if read.query != _digest(asked):
        raise Problem("bad-request", "The cursor belongs to another query.", parameter="cursor")
    opened.check(read.generation)
    return read.offset


def _digest(asked: Struct) -> str:
    return hashlib.blake2b(msgspec.json.encode(asked), digest_size=8).hexdigest()
