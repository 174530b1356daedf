"""FAISS's inverted lists behind the `VectorIndex` seam."""

from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.vectorindex.clustering import spherical_centroids
from llm2clip_search.vectorindex.faiss_library import IdBitmap, import_faiss, threads_for, write_index
from llm2clip_search.vectorindex.index import Capabilities
from llm2clip_search.vectorindex.kinds import TRAINING_PER_LIST, Ivf, IvfPq, IvfRaBitQ

COUNTED_IDS = 65_536
"""Of a filter that allows more ids, about this many are counted by list."""
QUERIES_AT_ONCE = 256
"""Bounds the memory of a filtered search, which ranks all lists for each query."""
CODE_TRAINING = 65_536
"""Vectors that product quantisation is trained with: 256 for each of its centroids."""


class InvertedListsIndex:
    """Lists of codes whose vectors carry the store's ids; the effort is the number of lists that a search reads.

    A filtered search skips lists without allowed vectors. It reads ``effort`` lists that hold some, and on until it has
    seen as many as that number of lists would hold if they were spread evenly. So matches that lie far from the query
    are found as well.
    """

    capabilities = Capabilities(exact=False, filters=True, writable=True)

    def __init__(self, kind: Ivf | IvfPq | IvfRaBitQ, index: Any) -> None:
        """Wrap a FAISS index of that kind; `create_index` and `load_index` make one."""
        faiss = import_faiss()
        self.kind = kind
        self.faiss_index = index
        self._lists = faiss.downcast_index(faiss.extract_index_ivf(index))
        rotated = isinstance(faiss.downcast_index(index), faiss.IndexPreTransform)
        self._rotation = faiss.downcast_VectorTransform(index.chain.at(0)) if rotated else None
        self._centroids: np.ndarray | None = None
        self._list_of: np.ndarray | None = None
        self._allowed: tuple[_Allowed, ...] = ()
        """The last two: live ids are passed again and again, and a next page has the filter of the page before."""

    def __len__(self) -> int:
        return int(self._lists.ntotal)

    def ids(self) -> np.ndarray:
        """int64, those of its vectors, in any order."""
        return np.concatenate([np.empty(0, dtype=np.int64), *_members(self._lists.invlists)])

    @property
    def training_size(self) -> int:
        """Vectors that `train` wants; 0 once it is trained."""
        return 0 if self._lists.is_trained else TRAINING_PER_LIST * self.kind.lists

    def train(self, vectors: np.ndarray, *, seed: int = 0) -> None:
        """Fit centroids and codes to a sample.

        Args:
            vectors: float32 ``[n, dim]``, unit length, in random order; at least `IndexKind.min_rows`.
        """
        if self._rotation is not None:
            self._rotation.init(seed + 1)
        self._lists.quantizer.add(spherical_centroids(self._rotated(vectors), self.kind.lists, seed=seed))
        if isinstance(self.kind, IvfPq):
            # It renumbers the codes for a search by Hamming distance, which is not used here, and takes 1.5 s a byte.
            self._lists.do_polysemous_training = False
        self.faiss_index.train(vectors[:CODE_TRAINING])

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.faiss_index.add_with_ids(np.asarray(vectors, dtype=np.float32), ids)
        self._list_of, self._allowed = None, ()

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, effort: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        if len(queries) > QUERIES_AT_ONCE:
            parts = [
                self.search(queries[start : start + QUERIES_AT_ONCE], k, allowed=allowed, effort=effort)
                for start in range(0, len(queries), QUERIES_AT_ONCE)
            ]
            return np.concatenate([scores for scores, _ in parts]), np.concatenate([ids for _, ids in parts])
        probes = min(self.kind.lists, effort or self.kind.default_effort)
        with threads_for(len(queries)):
            return self._search(self._rotated(queries), k, probes, allowed)

    def _search(
        self, rotated: np.ndarray, k: int, probes: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if allowed is None or not len(rotated):
            return self._read(rotated, k, *self._nearest_lists(rotated, probes), selector=None)
        kept = next((each for each in self._allowed if each.ids is allowed), None)
        if kept is None:
            kept = _Allowed(allowed, self._lists_of(allowed), self.kind.lists)
            self._allowed = (kept, *self._allowed[:1])
        return self._read(rotated, k, *self._lists_with(rotated, probes, kept), selector=kept.bitmap.selector)

    def save(self, path: Path) -> None:
        write_index(self.faiss_index, path)

    def with_flat_centroids(self) -> Any:
        """A FAISS index, `Ivf` or `IvfPq`, of the same lists and codes in the same memory, whose centroids are compared
        one by one; it is of use as long as this one."""
        faiss, lists = import_faiss(), self._lists
        centroids = faiss.IndexFlatIP(lists.d)
        centroids.add(self._all_centroids())
        if isinstance(self.kind, IvfPq):
            flat = faiss.IndexIVFPQ(centroids, lists.d, lists.nlist, lists.pq.M, lists.pq.nbits, lists.metric_type)
            flat.pq = lists.pq
        else:
            codes = (lists.sq.qtype, lists.metric_type, lists.by_residual)
            flat = faiss.IndexIVFScalarQuantizer(centroids, lists.d, lists.nlist, *codes)
            flat.sq = lists.sq
        flat.by_residual, flat.is_trained = lists.by_residual, True
        flat.replace_invlists(lists.invlists, False)
        flat.ntotal = lists.ntotal
        if self._rotation is None:
            return flat
        rotated = faiss.IndexPreTransform(flat)
        rotated.prepend_transform(self._rotation)
        return rotated

    def _all_centroids(self) -> np.ndarray:
        """float32 ``[lists, dim]``, of rotated vectors."""
        centroids: np.ndarray = self._lists.quantizer.reconstruct_n(0, self.kind.lists)
        return centroids

    def _rotated(self, vectors: np.ndarray) -> np.ndarray:
        if self._rotation is None:
            return np.ascontiguousarray(vectors, dtype=np.float32)
        rotated: np.ndarray = self._rotation.apply(np.ascontiguousarray(vectors, dtype=np.float32))
        return rotated

    def _nearest_lists(self, rotated: np.ndarray, probes: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the nearest centroids, float32 ``[n, probes]``, and their lists, int64, -1 for none."""
        parameters = None
        if self.kind.graph:
            parameters = import_faiss().SearchParametersHNSW(efSearch=max(64, 2 * probes))
        scores, lists = self._lists.quantizer.search(rotated, probes, params=parameters)
        return scores, lists

    def _lists_with(self, rotated: np.ndarray, probes: int, allowed: "_Allowed") -> tuple[np.ndarray, np.ndarray]:
        """As `_nearest_lists`, for each query as many lists as hold the allowed vectors it has to see."""
        vectors = probes / self.kind.lists * float(allowed.counts.sum()) - 1e-6
        holders = min(probes, int(np.count_nonzero(allowed.counts)))
        # A broad filter needs few lists, so that comparing all centroids is avoided.
        for number in (4 * probes, self.kind.lists):
            scores, lists = self._nearest_lists(rotated, number) if number < self.kind.lists else self._ranked(rotated)
            counts: np.ndarray = np.where(lists >= 0, allowed.counts[lists], 0)
            enough = (np.cumsum(counts, axis=1) >= vectors) & (np.cumsum(counts > 0, axis=1) >= holders)
            if enough[:, -1].all():
                break
        reads = np.argmax(enough, axis=1) + 1
        scores, lists, counts = (array[:, : int(reads.max())] for array in (scores, lists, counts))
        skipped = np.arange(lists.shape[1]) >= reads[:, None]
        if allowed.is_exact:
            skipped |= counts == 0
        return scores, np.where(skipped, -1, lists)

    def _ranked(self, rotated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All lists, nearest first."""
        if self._centroids is None:
            self._centroids = self._all_centroids()
        scores = rotated @ self._centroids.T
        lists = np.argsort(-scores, axis=1)
        return np.take_along_axis(scores, lists, 1), lists

    def _read(
        self, rotated: np.ndarray, k: int, scores: np.ndarray, lists: np.ndarray, *, selector: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search some lists; FAISS's Python wrapper of this call refuses parameters."""
        faiss = import_faiss()
        found = np.empty((len(rotated), k), dtype=np.float32)
        ids = np.empty((len(rotated), k), dtype=np.int64)
        scores, lists = np.ascontiguousarray(scores, dtype=np.float32), np.ascontiguousarray(lists)
        parameters = faiss.SearchParametersIVF(nprobe=lists.shape[1], sel=selector)
        pointers = (faiss.swig_ptr(array) for array in (lists, scores, found, ids))
        self._lists.search_preassigned_c(len(rotated), faiss.swig_ptr(rotated), k, *pointers, False, parameters)
        return found, ids

    def _lists_of(self, ids: np.ndarray) -> np.ndarray:
        """The list of each of some ids, or of an even sample of them; -1 for ids that are not in the index."""
        if self._list_of is None:
            self._list_of = _list_by_id(self._lists.invlists)
        sample = ids[:: max(1, len(ids) // COUNTED_IDS)]
        there = sample[sample < len(self._list_of)]
        lists: np.ndarray = self._list_of[there]
        return lists


class _Allowed:
    """What a search needs to know of the ids that a filter allows."""

    def __init__(self, ids: np.ndarray, lists: np.ndarray, count: int) -> None:
        self.ids = ids
        self.bitmap = IdBitmap(ids)
        self.counts = np.bincount(lists[lists >= 0], minlength=count)
        """Allowed vectors of each list, in units of the sample."""
        self.is_exact = len(ids) < 2 * COUNTED_IDS
        """Every id was counted, so that a list without any need not be read."""


def _list_by_id(lists: Any) -> np.ndarray:
    """The list that each id is in, int32 indexed by id; -1 for ids that are in none."""
    members = _members(lists)
    found = np.full(max((int(ids.max()) + 1 for ids in members if len(ids)), default=0), -1, dtype=np.int32)
    for number, ids in enumerate(members):
        found[ids] = number
    return found


def _members(lists: Any) -> list[np.ndarray]:
    """Ids of each list, int64; they are views of FAISS's memory."""
    faiss = import_faiss()
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    nothing = np.empty(0, dtype=np.int64)
    return [faiss.rev_swig_ptr(lists.get_ids(n), size) if size else nothing for n, size in enumerate(sizes)]
