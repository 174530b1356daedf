"""What tells one index from another, wherever it is moved."""

import uuid
from pathlib import Path

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import json_sha256

IDENTITY = "identity"
"""A file beside the manifest, which earlier versions do not know and leave in place; copies of an index share it."""


def index_identity(folder: Path) -> str:
    """32 hex digits that name an index; they are made and written when they are first asked for.

    An index in a folder that cannot be written is named by the folder.
    """
    path = folder / IDENTITY
    try:
        return uuid.UUID(hex=path.read_text(encoding="ascii").strip()).hex
    except (OSError, ValueError):
        identity = uuid.uuid4().hex
    try:
        replace_file(path, identity.encode("ascii"))
    except OSError:
        return json_sha256(str(folder.resolve()))[:32]
    return identity
