"""Near-duplicates in an index: connected components of the images whose vectors are close to each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.base.vectors import unit
from llm2clip_search.engine.candidates import what_to_find
from llm2clip_search.engine.diversity import ROUNDING
from llm2clip_search.engine.query import Find
from llm2clip_search.engine.search import SearchIndex
from llm2clip_search.errors import QueryError
from llm2clip_search.store import Snapshot
from llm2clip_search.store.names import json_path

EXACT_ROWS = 100_000
"""Up to this many images, each is compared with each."""
NEIGHBOURS = 16
"""Nearest images of each that are looked at in a larger index."""
_BLOCK = 2048
"""Rows and columns of one matrix product."""
_QUERIES = 256
_PAIRS = 2_000_000
"""Pairs that wait until they are joined: 32 MB."""
_ROWS_PER_READ = 10_000


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """Images that are near-duplicates of each other, directly or through others of the group."""

    best: dict[str, Any]
    """Metadata of the largest picture, by pixels, then by file size, then by lower id; ``path`` is an absolute path or
    a URI."""
    others: tuple[dict[str, Any], ...]
    """Metadata of the others, by the same order, with ``score``, the cosine with the best one."""

    def __len__(self) -> int:
        return 1 + len(self.others)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object: number of images, the best one, and the others."""
        return {"images": len(self), "best": _shown(self.best), "others": [_shown(other) for other in self.others]}


_KEYS = ("id", "path", "width", "height", "size", "score")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    shown = json_path(row["path"])
    return {key: shown.pop(key) if key == "path" else row[key] for key in _KEYS if key in row} | shown


class Duplicates:
    """Groups of near-duplicates, largest first; their metadata is read as they are iterated over."""

    def __init__(
        self, snapshot: Snapshot, ids: np.ndarray, labels: np.ndarray, *, find: Find = "images", is_exact: bool
    ) -> None:
        """``labels`` are equal for rows of one group, int64 ``[rows]`` like ``ids``."""
        self.find: Find = find
        """What was compared."""
        self._snapshot, self._ids, self._labels = snapshot, ids, labels
        self.is_exact = is_exact
        """True if each image was compared with each, and not only with its nearest ones."""

    @property
    def compared(self) -> int:
        """Images that were looked at."""
        return len(self._ids)

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """Ids of each group, int64 ascending; largest group first, then by its lowest id."""
        order = np.argsort(self._labels, kind="stable")
        ends = np.flatnonzero(np.diff(self._labels[order])) + 1
        groups = [part for part in np.split(self._ids[order], ends) if len(part) > 1]
        return sorted(groups, key=lambda group: (-len(group), int(group[0])))

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[DuplicateGroup]:
        """The groups with the metadata of their images; a few are read at a time."""
        waiting: list[np.ndarray] = []
        for group in self.groups:
            waiting.append(group)
            if sum(map(len, waiting)) >= _ROWS_PER_READ:
                yield from self._read(waiting)
                waiting = []
        yield from self._read(waiting)

    def _read(self, groups: list[np.ndarray]) -> Iterator[DuplicateGroup]:
        if not groups:
            return
        ids = np.concatenate(groups).tolist()
        rows = iter(self._snapshot.rows(ids))
        for group in groups:
            members = [next(rows) for _ in group]
            members.sort(key=lambda row: (-(row["width"] or 0) * (row["height"] or 0), -row["size"], row["id"]))
            vectors = unit(self._snapshot.vectors([row["id"] for row in members]))
            for row, score in zip(members, (vectors @ vectors[0]).tolist(), strict=True):
                row["path"] = self._snapshot.located(row["path"])
                row["score"] = max(-1.0, min(1.0, score))
            best, *others = members
            del best["score"]
            yield DuplicateGroup(best=best, others=tuple(others))


def find_duplicates(
    index: SearchIndex,
    *,
    threshold: float = 0.95,
    find: Find | None = None,
    where: str | None = None,
    exact_rows: int = EXACT_ROWS,
    progress: Progress = no_progress,
) -> Duplicates:
    """Find images whose stored vectors have a cosine of at least ``threshold``.

    Groups are connected components: an image belongs to a group if it is close enough to one of its images. Up to
    ``exact_rows`` images, each is compared with each. In a larger index, each is searched for, and its `NEIGHBOURS`
    nearest images are looked at; so a pair may be missed if an image has more close neighbours than that, or if the
    index's approximate search misses one.

    Args:
        find: images or texts, which are never compared with each other; as in `Query`.
        where: SQL condition; only images that meet it are compared with each other.
        progress: called with ``images`` as they are compared.

    Raises:
        QueryError: a threshold that is not above 0 and at most 1, wrong SQL, or texts of an index that holds none.
    """
    if not 0.0 < threshold <= 1.0:
        raise QueryError(f"The cosine of duplicates is {threshold}; it must be above 0 and at most 1.")
    found = what_to_find(index.parts, find)
    matches = index.matches(where, found)
    ids = index.snapshot.live_ids if matches is None else matches
    components = _Components(len(ids))
    is_exact = len(ids) <= exact_rows
    pairs = (
        _all_pairs(index.snapshot, ids, threshold - ROUNDING, progress)
        if is_exact
        else _near_pairs(index, ids, matches, threshold - ROUNDING, progress)
    )
    for left, right in pairs:
        components.join(left, right)
    return Duplicates(index.snapshot, ids, components.labels(), find=found, is_exact=is_exact)


Pairs = tuple[np.ndarray, np.ndarray]
"""Positions in the ids, int64 ``[n]`` each."""


def _all_pairs(snapshot: Snapshot, ids: np.ndarray, least: float, progress: Progress) -> Iterator[Pairs]:
    """Each image with each, block by block; memory holds all vectors, as float32."""
    vectors = np.empty((len(ids), snapshot.manifest.dim), dtype=np.float32)
    for found, block in snapshot.blocks(ids):
        vectors[np.searchsorted(ids, found)] = unit(block)
    progress("images", 0, len(ids), {})
    for start in range(0, len(ids), _BLOCK):
        # The matrix is symmetric, so only its blocks on and left of the diagonal are computed: the first images take
        # less time than the last.
        rows = vectors[start : start + _BLOCK]
        for before in range(0, start + 1, _BLOCK):
            near = rows @ vectors[before : before + _BLOCK].T >= least
            left, right = np.nonzero(near)
            yield left + start, right + before
        progress("images", start + len(rows), len(ids), {})


def _near_pairs(
    index: SearchIndex, ids: np.ndarray, matches: np.ndarray | None, least: float, progress: Progress
) -> Iterator[Pairs]:
    """Each image with its nearest ones, as the index finds them."""
    depth = NEIGHBOURS + 1  # the image itself is among them
    plan = index.plan_for(depth, allowed=matches)
    progress("images", 0, len(ids), {})
    done = 0
    for found, block in _batches(index.snapshot, ids):
        scores, near = index.candidates(unit(block), depth, plan, matches)
        rows, columns = np.nonzero((scores >= least) & (near >= 0))
        yield np.searchsorted(ids, found[rows]), np.searchsorted(ids, near[rows, columns])
        done += len(found)
        progress("images", done, len(ids), {})


def _batches(snapshot: Snapshot, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for found, block in snapshot.blocks(ids):
        for start in range(0, len(found), _QUERIES):
            yield found[start : start + _QUERIES], block[start : start + _QUERIES]


class _Components:
    """Connected components of a graph whose edges come in batches."""

    def __init__(self, count: int) -> None:
        # Every node points to a lower one of its component, the lowest to itself.
        self._parents = np.arange(count)
        self._waiting: list[Pairs] = []
        self._count = 0

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Add edges between positions, int64 ``[n]`` each; those within a known component are dropped at once."""
        apart = self._parents[left] != self._parents[right]
        if not apart.any():
            return
        self._waiting.append((left[apart], right[apart]))
        self._count += int(apart.sum())
        if self._count >= _PAIRS:
            self._merge()

    def labels(self) -> np.ndarray:
        """The lowest position of each node's component, int64 ``[count]``."""
        self._merge()
        return self._parents

    def _merge(self) -> None:
        """Hook the higher root of every edge to the lower one and shorten paths, until no edge is left."""
        if not self._waiting:
            return
        left, right = (np.concatenate(ends) for ends in zip(*self._waiting, strict=True))
        while len(left):
            low = np.minimum(self._parents[left], self._parents[right])
            high = np.maximum(self._parents[left], self._parents[right])
            np.minimum.at(self._parents, high, low)
            while not np.array_equal(shorter := self._parents[self._parents], self._parents):
                self._parents = shorter
            apart = self._parents[left] != self._parents[right]
            left, right = left[apart], right[apart]
        self._waiting, self._count = [], 0
