"""From the URL of a serving engine to the engine."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from llm2clip_search.errors import InputError
from llm2clip_search.vectorindex.serving.engine import ServingEngine

SCHEMES = "qdrant:http://HOST:6333/COLLECTION, qdrant-edge:FOLDER, lance:FOLDER and lance:s3://BUCKET/PATH"
TOKEN = "QDRANT_API_KEY"


def open_engine(url: str, *, collection: str | None = None) -> ServingEngine:
    """An engine by its URL; nothing is asked yet, except that the packages it needs are there.

    Args:
        url: ``qdrant:http(s)://HOST[:PORT]/COLLECTION``, ``qdrant-edge:FOLDER``, ``lance:FOLDER`` or
            ``lance:s3://BUCKET/PATH``. A Qdrant server's token is that of the environment variable QDRANT_API_KEY.
        collection: of a Qdrant server whose URL names none.

    Raises:
        InputError: not such a URL, or one with a password.
        EngineError: a package is not installed.
    """
    if not isinstance(url, str):
        raise InputError(f"A serving engine is named by its URL, not by {type(url).__name__}.")
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in ("qdrant", "qdrant-edge", "lance") or not rest:
        raise InputError(f"{url!r} is not the URL of a serving engine; these are {SCHEMES}.")
    if scheme == "qdrant":
        return _qdrant(url, rest, collection)
    if scheme == "qdrant-edge":
        from llm2clip_search.vectorindex.serving.qdrant_edge import QdrantEdgeEngine

        return QdrantEdgeEngine(Path(rest).expanduser().absolute())
    from llm2clip_search.vectorindex.serving.lance import LanceEngine

    return LanceEngine(rest.rstrip("/") if "://" in rest else str(Path(rest).expanduser().absolute()))


def _qdrant(url: str, address: str, collection: str | None) -> ServingEngine:
    from llm2clip_search.vectorindex.serving.qdrant import QdrantEngine

    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"{url!r} is not the URL of a serving engine: {error}.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url!r} is not the URL of a serving engine; these are {SCHEMES}.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InputError(
            f"The URL of the Qdrant server at {parts.hostname} holds a password or parameters, which would be shown.",
            hint=f"Put the token into the environment variable {TOKEN}.",
        )
    prefix, _, named = parts.path.rpartition("/")
    name = named or collection
    if not name:
        raise InputError(f"{url} names no collection.", hint="Write it at the end of the URL.")
    if not re.fullmatch(r"[\w.-]{1,200}", name):
        raise InputError(f"{name!r} cannot be the name of a collection: letters, digits, '.', '_' and '-' can.")
    return QdrantEngine.connect(f"{parts.scheme}://{parts.netloc}{prefix}", name, os.environ.get(TOKEN) or None)
