"""``manifest.json``: the one file that says which shards, tombstones and FAISS index make up the index.

It is replaced atomically at each commit, and a file that it does not name does not exist.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.errors import StoreError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A folder ``shards/NAME`` with the vectors and metadata of ``rows`` rows."""

    name: str
    rows: int
    sha256: dict[str, str]
    """Of ``embeddings.npy`` and ``metadata.parquet``."""


@dataclass(frozen=True, kw_only=True)
class AnnEntry:
    """A file ``ann/NAME`` that FAISS reads; its vectors carry the index's ids."""

    name: str
    factory: str
    """FAISS factory string."""
    rows: int
    """Vectors in it, dead ones included."""
    trained_on: int
    """Live rows when it was built from scratch."""
    shards: tuple[str, ...]
    """Shards whose vectors are in it."""
    recall_at_10: float
    """Measured against exact search with a sample of its own vectors, when it was written."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The state of an index after one commit."""

    schema_version: int = SCHEMA_VERSION
    generation: int = 0
    """Number of commits so far; a commit's tombstones and FAISS file are named for it."""
    model: ModelIdentity
    dim: int
    dtype: str = "float16"
    """Of the vectors on disk, which have unit length before they are rounded."""
    next_id: int = 0
    next_shard: int = 1
    shards: tuple[ShardEntry, ...] = ()
    tombstones: str | None = None
    """A Parquet file of (shard, id): rows that were deleted, or that a later shard holds."""
    tombstones_sha256: str | None = None
    live: int = 0
    """Rows that are neither deleted nor superseded."""
    dead: int = 0
    failures: int = 0
    ann: AnnEntry | None = None
    roots: tuple[str, ...] = field(default=())
    """Corpora indexed so far, by path or URI as in the metadata."""

    def write(self, folder: Path) -> None:
        replace_file(folder / MANIFEST, json.dumps(asdict(self), indent=1).encode())

    def next(self, **changes: Any) -> "Manifest":
        """The manifest of the next commit."""
        return replace(self, generation=self.generation + 1, **changes)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of an index folder.

        Raises:
            StoreError: no index there, damaged JSON, or a schema newer than this version's.
        """
        path = folder / MANIFEST
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StoreError(
                f"{folder} holds no index.", hint="Run 'llm2clip-search index FOLDER' to create one."
            ) from error
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}.") from error
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if not isinstance(version, int):
            raise StoreError(f"{path} is not the manifest of an index.")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{folder} has schema version {version}, newer than {SCHEMA_VERSION}, which this version reads.",
                hint="Upgrade with pip install -U llm2clip-search.",
            )
        try:
            return _from_mapping(raw)
        except (TypeError, KeyError) as error:
            raise StoreError(f"{path} lacks or misnames an entry: {error}.") from error


def _from_mapping(raw: dict[str, Any]) -> Manifest:
    ann = raw.pop("ann", None)
    return Manifest(
        **{
            **raw,
            "model": ModelIdentity(**raw["model"]),
            "shards": tuple(ShardEntry(**entry) for entry in raw["shards"]),
            "roots": tuple(raw["roots"]),
            "ann": AnnEntry(**{**ann, "shards": tuple(ann["shards"])}) if ann else None,
        }
    )
