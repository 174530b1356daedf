"""The index on disk: manifest, shards, tombstones, failures and the writer's lock."""

from typing import TYPE_CHECKING

from llm2clip_search.base.lazy import lazy_names

if TYPE_CHECKING:
    from llm2clip_search.store.contents import DamagedFile
    from llm2clip_search.store.discover import DEFAULT_FOLDER, default_index, find_index, has_index
    from llm2clip_search.store.manifest import AnnEntry, Manifest, SourceEntry
    from llm2clip_search.store.schema import METADATA_SCHEMA, Row
    from llm2clip_search.store.snapshot import Snapshot
    from llm2clip_search.store.verification import Verification, verify_index
    from llm2clip_search.store.writer import Writer

__all__ = [
    "DEFAULT_FOLDER",
    "METADATA_SCHEMA",
    "AnnEntry",
    "DamagedFile",
    "Manifest",
    "Row",
    "Snapshot",
    "SourceEntry",
    "Verification",
    "Writer",
    "default_index",
    "find_index",
    "has_index",
    "verify_index",
]

__getattr__ = lazy_names(
    __name__,
    {
        "contents": ("DamagedFile",),
        "discover": ("DEFAULT_FOLDER", "default_index", "find_index", "has_index"),
        "manifest": ("AnnEntry", "Manifest", "SourceEntry"),
        "schema": ("METADATA_SCHEMA", "Row"),
        "snapshot": ("Snapshot",),
        "verification": ("Verification", "verify_index"),
        "writer": ("Writer",),
    },
)
