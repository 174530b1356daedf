"""What ties an index to the collections that it was published to."""

import re
import uuid
from pathlib import Path

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.errors import EngineError
from llm2clip_search.store.discover import DEFAULT_FOLDER
from llm2clip_search.store.faults import REFUSED, writing
from llm2clip_search.store.snapshot import Snapshot
from llm2clip_search.vectorindex.serving.state import Published

IDENTITY = "identity"
"""A file beside the manifest, which earlier versions do not know and leave in place; copies of an index share it."""


def index_identity(folder: Path) -> str:
    """32 hex digits that name an index; they are made and written when they are first asked for.

    An index in a folder that may not be written is named by the folder.

    Raises:
        StoreError: the file cannot be written although it may be: another name later would make it another index.
    """
    path = folder / IDENTITY
    try:
        return uuid.UUID(hex=path.read_text(encoding="ascii").strip()).hex
    except (OSError, ValueError):
        identity = uuid.uuid4().hex
    try:
        replace_file(path, identity.encode("ascii"))
    except OSError as error:
        if error.errno not in REFUSED:
            with writing(path):
                raise
        return _named_by_folder(folder)
    return identity


def _named_by_folder(folder: Path) -> str:
    return json_sha256(str(folder.resolve()))[:32]


def default_collection(folder: Path) -> str:
    """The name of a collection for an index: that of the folder with the images."""
    holder = folder.resolve().parent if folder.name == DEFAULT_FOLDER else folder.resolve()
    return re.sub(r"[^\w-]+", "-", holder.name, flags=re.ASCII).strip("-") or "images"


def check_published(snapshot: Snapshot, state: Published, name: str) -> None:
    """Refuse a collection of something else than an index.

    Args:
        state: its record.
        name: URL of the collection, for messages.

    Raises:
        EngineError: another model, width or index.
    """
    manifest = snapshot.manifest
    if state.model.fingerprint != manifest.model.fingerprint:
        raise EngineError(
            f"{name} holds vectors of {state.model.name} ({state.model.fingerprint}), but {snapshot.folder} was made by"
            f" {manifest.model.name} ({manifest.model.fingerprint}).",
            hint="Name another collection.",
        )
    if (state.dim, state.dtype) != (manifest.dim, manifest.dtype):
        raise EngineError(
            f"{name} holds vectors of {state.dim} x {state.dtype}, but {snapshot.folder} of {manifest.dim} x"
            f" {manifest.dtype}.",
            hint="Name another collection.",
        )
    # The folder's name is of a time when the identity could not be written.
    if state.index not in (index_identity(snapshot.folder), _named_by_folder(snapshot.folder)):
        raise EngineError(
            f"{name} holds another index, that of {state.folder}, and not {snapshot.folder}.",
            hint="Name another collection, or delete this one.",
        )
