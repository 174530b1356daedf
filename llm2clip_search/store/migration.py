"""Manifests of earlier schemas, brought up to date when they are read.

A migration changes the manifest in memory only; the next commit writes it, in the one atomic step that any commit is.
So a reader needs no write access, and a kill at any instant leaves the old manifest or the new one. Shards stay as
they were written: what their files lack is filled in by whoever reads them.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm2clip_search.base.lazy import LazyModule

pa = LazyModule("pyarrow")
pq = LazyModule("pyarrow.parquet")

Manifest = dict[str, Any]


def upgrade(raw: Manifest, folder: Path) -> Manifest:
    """A manifest of an earlier schema as one of this version's; one of this version is returned as it is."""
    while (step := _STEPS.get(raw["schema_version"])) is not None:
        raw = step(raw, folder)
    return raw


def _from_1(raw: Manifest, folder: Path) -> Manifest:
    """Schema 2 has the id range of each shard, and columns that corpora bring along."""
    shards = []
    for entry in raw["shards"]:
        first, last = _id_range(folder / "shards" / entry["name"] / "metadata.parquet") or (0, raw["next_id"] - 1)
        shards.append({**entry, "first_id": first, "last_id": last})
    return {**raw, "schema_version": 2, "shards": shards, "columns": []}


def _from_2(raw: Manifest, _folder: Path) -> Manifest:
    """Schema 3 has operating points, and knows of shards whose paths are all relative. Earlier versions measured the
    recall of one effort, and no times: 0 stands for unknown."""
    ann = raw.get("ann")
    if ann is not None:
        lists = re.match(r"IVF(\d+),", ann["factory"])
        effort = 128 if lists is None else min(int(lists[1]), max(16, int(lists[1]) // 32))
        measured = {"depth": 10, "effort": effort, "candidates": 30, "recall": ann["recall_at_10"], "milliseconds": 0.0}
        kept = {name: ann[name] for name in ("name", "factory", "rows", "trained_on", "shards")}
        unknown = {"sha256": None, "queries": "midpoints", "exact_ms": 0.0, "filtered_ms": 0.0}
        ann = {**kept, **unknown, "points": [measured]}
    shards = [{**entry, "relative": False} for entry in raw["shards"]]
    return {**raw, "schema_version": 3, "shards": shards, "ann": ann, "ann_config": None}


def _from_3(raw: Manifest, _folder: Path) -> Manifest:
    """Schema 4 knows how each source was read, and where the index lay. A part of another source, which could have no
    options of its own, is no longer a source by itself."""
    roots = raw["roots"]
    whole = [root for root in roots if not any(root.startswith(f"{other}/") or other == "." != root for other in roots)]
    sources = [{"uri": root, "exclude": [], "everything": False, "mounts": []} for root in whole]
    kept = {name: value for name, value in raw.items() if name != "roots"}
    return {**kept, "schema_version": 4, "sources": sources, "base": ""}


def _from_4(raw: Manifest, _folder: Path) -> Manifest:
    """Schema 5 has texts beside images, and sources that are read by further options. What was a column of a corpus
    may be one of the index's own now."""
    sources = [{**each, "modality": "image", "options": {}} for each in raw["sources"]]
    own = ("modality", "text", "caption", "rating", "keywords", "described")
    columns = [each for each in raw["columns"] if each["name"] not in own]
    return {**raw, "schema_version": 5, "sources": sources, "columns": columns}


_STEPS: dict[int, Callable[[Manifest, Path], Manifest]] = {1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4}


def _id_range(path: Path) -> tuple[int, int] | None:
    """Lowest and highest id from the footer's statistics; None if they cannot be read, and any id may be there."""
    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return None
    groups = (footer.row_group(number) for number in range(footer.num_row_groups))
    statistics = [group.column(footer.schema.names.index("id")).statistics for group in groups]
    if not statistics or not all(each is not None and each.has_min_max for each in statistics):
        return None
    return min(each.min for each in statistics), max(each.max for each in statistics)
