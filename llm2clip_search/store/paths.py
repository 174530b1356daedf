"""Paths as the metadata writes them, whole columns at a time: relative to the base below it, absolute elsewhere."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.base.lazy import LazyModule
from llm2clip_search.store.names import encode

pc = LazyModule("pyarrow.compute")

ABSOLUTE = "^/|^.:/|://" if os.name == "nt" else "^/|://"
"""Paths that are not relative, as `os.path.isabs` has them, and URIs. Elsewhere than on Windows, C: is a name."""


def located(paths: pa.ChunkedArray, base: str) -> pa.ChunkedArray:
    """Stored paths as absolute ones, still escaped; URIs stay. Relative ones start from ``base``, posix and escaped."""
    whole = pc.binary_join_element_wise(base.rstrip("/"), paths, "/")
    whole = pc.if_else(pc.equal(paths, "."), base, whole)  # a source may be the base itself
    return pc.if_else(pc.match_substring_regex(paths, ABSOLUTE), paths, whole)


_FILE_NAME = re.compile(r"[^/]\.\w{2,8}$")
"""A name that a file may have: only files have parts, while ``a#b.jpg`` is not below a folder ``a``."""


def beginnings(top: str) -> tuple[str, ...]:
    """What the located paths below ``top`` start with: those in a folder, and the parts of a file."""
    top = top.rstrip("/")
    return (f"{top}/", f"{top}#") if _FILE_NAME.search(top) else (f"{top}/",)


def is_below(paths: pa.ChunkedArray, top: str) -> pa.ChunkedArray:
    """True for located paths that are ``top`` or lie below it; parts of a file lie below it."""
    found = pc.equal(paths, top.rstrip("/"))
    for start in beginnings(top):
        found = pc.or_(found, pc.starts_with(paths, start))
    return found


def as_mask(values: pa.ChunkedArray) -> np.ndarray:
    """bool ``[n]``."""
    mask: np.ndarray = values.to_numpy()
    return mask.astype(bool)


@dataclass(frozen=True, kw_only=True)
class PathChange:
    """How the stored paths of an index become others: folders that have moved, or another base."""

    before: Path
    """The base that relative paths start from."""
    after: Path
    """The base that the new paths are relative to."""
    moves: tuple[tuple[str, str], ...] = ()
    """Old and new place of folders or URIs, absolute; the first that fits a path is applied."""

    def of(self, path: str) -> str:
        """One path."""
        changed: str = self.of_all(pa.chunked_array([[path]], pa.string()))[0].as_py()
        return changed

    def of_all(self, paths: pa.ChunkedArray) -> pa.ChunkedArray:
        """A column of paths; vectorised, because `Path` takes ten times as long."""
        _, out = self.places(paths)
        base = encode(self.after.as_posix())
        inner = base.rstrip("/") + "/"
        relative = pc.if_else(pc.starts_with(out, inner), pc.utf8_slice_codeunits(out, len(inner)), out)
        return pc.if_else(pc.equal(out, base), ".", relative)

    def places(self, paths: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """The absolute paths of a column of stored ones, before the change and after it."""
        whole = located(paths, encode(self.before.as_posix()))
        out = whole
        for old, new in (tuple(encode(each).rstrip("/") for each in move) for move in reversed(self.moves)):
            moved = pc.binary_join_element_wise(new, pc.utf8_slice_codeunits(whole, len(old)), "")
            moved = pc.if_else(pc.equal(moved, ""), "/", moved)
            out = pc.if_else(is_below(whole, old), moved, out)
        return whole, out

    def of_table(self, table: pa.Table) -> pa.Table:
        """The columns ``path`` and ``corpus`` of a table of rows."""
        table = _with_column(table, "path", self.of_all(table.column("path")))
        if "corpus" not in table.column_names:  # schema 1
            return table
        corpora = table.column("corpus")
        names = pc.unique(corpora).drop_null()
        changed = pa.array([self.of(name) for name in names.to_pylist()], pa.string())
        return _with_column(table, "corpus", changed.take(pc.index_in(corpora, names)))


def _with_column(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), table.schema.field(name), values)
