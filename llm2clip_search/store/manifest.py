"""``manifest.json``: the one file that says which shards, tombstones and FAISS index make up the index.

It is replaced atomically at each commit, and a file that it does not name does not exist.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.errors import DamagedError, StoreError
from llm2clip_search.store.faults import unreadable
from llm2clip_search.store.migration import upgrade
from llm2clip_search.vectorindex.operating import OperatingPoint
from llm2clip_search.vectorindex.policy import AnnConfig

MANIFEST = "manifest.json"
UNFINISHED = ".merging"
"""Folder within a new index's own where a merge builds it; without a manifest beside it, shards are no index yet."""
SHARDS = "shards"
"""Folder of the shards' folders."""
SCHEMA_VERSION = 5


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A folder ``shards/NAME`` with the vectors and metadata of ``rows`` rows."""

    name: str
    rows: int
    first_id: int
    """Lowest id of its rows, dead ones included; ids outside the range need not be looked for in the shard."""
    last_id: int
    relative: bool
    """Every path in it is relative to the folder that holds the index, so that filters need not look at each. False if
    an earlier version wrote it."""
    sha256: dict[str, str]
    """Of ``embeddings.npy``, ``metadata.parquet`` and ``rows.arrow``, which schemas before 3 lack."""


@dataclass(frozen=True, kw_only=True)
class ColumnEntry:
    """A column of the metadata that a corpus brought along, beside the fixed ones."""

    name: str
    type: str
    """Arrow's name of its type, for people."""
    arrow: str
    """Its Arrow schema, serialised and in base64: the same in every shard that has the column; others have nulls."""


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """A corpus that the index was made from, and how it is read; later runs read it in the same way."""

    uri: str
    """Path or URI, as the metadata writes them."""
    exclude: tuple[str, ...] = ()
    """Patterns of what is left out."""
    everything: bool = False
    """Hidden files and system folders are read too."""
    mounts: tuple[str, ...] = ()
    """Folders within it that were on a disk of their own, as the metadata writes paths."""
    modality: str = "image"
    """What its items are embedded as: image or text. One URI may be a source of both."""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """How else it is read, as `corpora.options.SourceOptions` says it."""


@dataclass(frozen=True, kw_only=True)
class AnnEntry:
    """A file ``ann/NAME`` that FAISS reads; its vectors carry the index's ids."""

    name: str = ""
    """Given when it is written."""
    sha256: str | None = None
    """Of the file; None if an earlier version wrote it."""
    factory: str
    """Its kind and parameters, as a FAISS factory string."""
    rows: int
    """Vectors in it, dead ones included."""
    trained_on: int
    """Live rows when it was built from scratch."""
    shards: tuple[str, ...]
    """Shards whose vectors are in it; those of later shards are searched exactly."""
    queries: str
    """What recall was measured with: ``captions`` that the model brought along, or ``midpoints`` of stored vectors."""
    exact_ms: float
    """Milliseconds of one exact query over all live rows when it was measured; 0 if an earlier version wrote it."""
    filtered_ms: float
    """The same over a tenth of the rows, drawn at random."""
    points: tuple[OperatingPoint, ...]
    """Recall and time by effort, measured against exact search when the file was written."""


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
    ann_config: AnnConfig | None = None
    """How approximate search was configured; later runs keep it unless they are given another."""
    sources: tuple[SourceEntry, ...] = ()
    """Corpora indexed so far."""
    base: str = ""
    """Absolute folder that the index lay in when its paths were last known to be right, posix; empty if an earlier
    version wrote it. If the index lies elsewhere now, it was moved or copied, with its images or without them."""
    columns: tuple[ColumnEntry, ...] = ()
    """Columns that corpora brought along."""

    def write(self, folder: Path) -> None:
        """Replace the manifest of an index folder."""
        replace_file(folder / MANIFEST, self.to_json().encode())

    def to_json(self) -> str:
        """One line per entry and per shard: a commit must not get slower as shards add up, and ``json`` with an
        indentation takes 40 times as long."""
        entries = {**vars(self), "model": self.model.to_dict(), "ann": asdict(self.ann) if self.ann else None}
        entries["ann_config"] = asdict(self.ann_config) if self.ann_config else None
        entries["sources"] = [vars(source) for source in self.sources]
        entries["columns"] = [vars(column) for column in self.columns]
        shards = ",\n  ".join(json.dumps(vars(shard)) for shard in entries.pop("shards"))
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items()]
        text = "{\n" + ",\n".join([*lines, f' "shards": [\n  {shards}\n ]'])
        return f'{text}{_CHECKSUM}{_digest(text)}"\n}}\n'

    def next(self, **changes: Any) -> "Manifest":
        """The manifest of the next commit."""
        return replace(self, generation=self.generation + 1, **changes)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of an index folder.

        Raises:
            StoreError: no index there, no permission to read it, or a schema newer than this version's.
            DamagedError: the file is lost while shards are there, or it is not a manifest.
        """
        path = folder / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
            raw = json.loads(text)
        except FileNotFoundError as error:
            if has_shards(folder):
                raise unreadable(path, error) from error
            raise StoreError(
                f"{folder} holds no index.", hint="Run 'llm2clip-search index FOLDER' to create one."
            ) from error
        except NotADirectoryError as error:
            raise StoreError(f"{folder} is a file, not the folder of an index.") from error
        except (OSError, ValueError, RecursionError) as error:
            raise unreadable(path, error) from error
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if not isinstance(version, int) or version < 1:
            raise DamagedError(f"{path} is not the manifest of an index.")
        # Those of schemas before 4 have no checksum.
        if "checksum" in raw and raw.pop("checksum") != _digest(text.rpartition(_CHECKSUM)[0]):
            raise DamagedError(f"{path} differs from its own checksum.")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{folder} has schema version {version}, newer than {SCHEMA_VERSION}, which this version reads.",
                hint="Upgrade with pip install -U llm2clip-search.",
            )
        try:
            return _from_mapping(upgrade(raw, folder))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise DamagedError(f"{path} lacks or misnames an entry: {error}.") from error


_CHECKSUM = ',\n "checksum": "'
"""What stands between the last entry and the checksum of all before it."""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def has_shards(folder: Path) -> bool:
    """True if a folder holds the shards of an index, whether or not it has lost its manifest."""
    try:
        if (folder / UNFINISHED).exists():
            return False
        return any(path.name.isdecimal() for path in (folder / SHARDS).iterdir())
    except OSError:
        return False


_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
"""A name of a file or folder in its place, whatever system it is read on."""


def _from_mapping(raw: dict[str, Any]) -> Manifest:
    manifest = _unchecked(raw)
    names: list[str] = [shard.name for shard in manifest.shards]
    names += [name for shard in manifest.shards for name in shard.sha256]
    names += [manifest.ann.name, *manifest.ann.shards] if manifest.ann else []
    names += [manifest.tombstones] if manifest.tombstones is not None else []
    # Whoever hands an index over writes its checksum, too.
    if odd := [name for name in names if not _NAME.fullmatch(name)]:
        raise ValueError(f"{odd[0]!r:.100} is not a file of the index")
    return manifest


def _unchecked(raw: dict[str, Any]) -> Manifest:
    return Manifest(
        **{
            **raw,
            "model": ModelIdentity(**raw["model"]),
            "shards": tuple(ShardEntry(**entry) for entry in raw["shards"]),
            "sources": tuple(_source_entry(entry) for entry in raw["sources"]),
            "columns": tuple(ColumnEntry(**column) for column in raw["columns"]),
            "ann": _ann_entry(raw["ann"]) if raw["ann"] else None,
            "ann_config": AnnConfig(**raw["ann_config"]) if raw["ann_config"] else None,
        }
    )


def _source_entry(raw: dict[str, Any]) -> SourceEntry:
    return SourceEntry(**{**raw, "exclude": tuple(raw["exclude"]), "mounts": tuple(raw["mounts"])})


def _ann_entry(raw: dict[str, Any]) -> AnnEntry:
    points = tuple(OperatingPoint(**point) for point in raw["points"])
    return AnnEntry(**{**raw, "shards": tuple(raw["shards"]), "points": points})
