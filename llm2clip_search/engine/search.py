"""An open index, and how to open one or several."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llm2clip_search.base.lazy import Lazy
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.inputs import as_array, captions_of
from llm2clip_search.encoders.within_memory import is_out_of_memory
from llm2clip_search.engine.candidates import Matches, what_to_find
from llm2clip_search.engine.captions import clean_caption
from llm2clip_search.engine.numbers import whole_number
from llm2clip_search.engine.plan import SearchPlan, plan_search
from llm2clip_search.engine.query import Find, Query
from llm2clip_search.engine.searcher import Searcher
from llm2clip_search.engine.time_limit import TIME_LIMIT_S
from llm2clip_search.errors import QueryError
from llm2clip_search.store import Snapshot
from llm2clip_search.store.snapshot import check_model
from llm2clip_search.vectorindex.exact import SLACK, ExactIndex, rank_again
from llm2clip_search.vectorindex.faiss_library import gpu_count
from llm2clip_search.vectorindex.index import VectorIndex
from llm2clip_search.vectorindex.kinds import kind_of
from llm2clip_search.vectorindex.policy import AnnConfig

if TYPE_CHECKING:
    from llm2clip_search.engine.filter import Filter
    from llm2clip_search.engine.served import Asked, EngineBeside
    from llm2clip_search.vectorindex.faiss_index import FaissIndex
    from llm2clip_search.vectorindex.gpu import GpuFlatIndex, GpuListsIndex
    from llm2clip_search.vectorindex.serving.engine import ServingEngine

logger = logging.getLogger(__name__)


class SearchIndex(Searcher):
    """A snapshot of an index, with the encoder that made it.

    A text query never loads the vision tower, an image query never loads the LLM, and a query by id or by vector
    loads neither. Several threads may query one object.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        encoder: Encoder | None = None,
        *,
        condition_seconds: float = TIME_LIMIT_S,
        engine: "ServingEngine | None" = None,
    ) -> None:
        """Without an encoder the index is searched by vectors and by ids only.

        Args:
            condition_seconds: the most that evaluating a condition may take.
            engine: a serving engine that the index was published to, which is searched in its place.

        Raises:
            EngineError: the engine cannot be reached, or holds something else.
        """
        super().__init__(encoder)
        self._condition_seconds = condition_seconds
        self.snapshot = snapshot
        self._engine = None if engine is None else _beside(engine, snapshot, condition_seconds)
        # Nothing here refers back to this object, so that its files are let go as soon as its last user is gone.
        rows = snapshot.manifest.live
        texts, approximate = Lazy(snapshot.text_ids), Lazy(lambda: _load_approximate(snapshot))
        self._gpus = Lazy(gpu_count)
        self._exact = ExactIndex(snapshot, rows)
        self._exact_on_gpu = Lazy(lambda: _exact_on_gpu(snapshot, rows))
        self._filter = Lazy(lambda: _open_filter(snapshot, condition_seconds))
        self._texts = texts
        self._images = Lazy(lambda: np.setdiff1d(snapshot.live_ids, texts(), assume_unique=True))
        self._approximate = approximate
        self._approximate_on_gpu = Lazy(lambda: _lists_on_gpu(approximate()))
        ann = snapshot.manifest.ann
        covered = frozenset(ann.shards if ann else ())
        tail = snapshot.only(snapshot.names - covered)
        self._tail = ExactIndex(tail, len(tail))
        self._tail_ids = Lazy(lambda: np.concatenate([shard.live_ids for shard in tail.shards]))
        # Dead vectors stay in the approximate index until it is built again.
        self._is_masked = ann is not None and ann.rows > len(snapshot.only(covered))
        # A plan takes a tenth of the time of a search, and captions that are asked one by one have the same.
        self._plan_here = lru_cache(maxsize=64)(
            partial(plan_search, rows=len(self), ann=ann, tail=len(self._tail), masked=self._is_masked)
        )

    @property
    def recall(self) -> float:
        """Recall that approximate searches aim at unless a query asks for another."""
        return (self.snapshot.manifest.ann_config or AnnConfig()).recall

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in this process or another, opens the index again, at its newest commit."""
        engine = None if self._engine is None else self._engine.name
        return _opened_again, (self.snapshot.folder, self._encoder, self._condition_seconds, engine)

    def query_texts(
        self, texts: str | Iterable[str], *, k: int = 10, find: Find | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search for many captions at once, without metadata.

        Args:
            texts: one caption, or any iterable of captions.
            find: as in `Query`.

        Returns:
            float32 cosines and int64 ids, each ``[n, min(k, rows)]``, best first. A place for which approximate search
            finds nothing has id -1 and score -2.

        Raises:
            QueryError: an empty caption, or texts of an index that holds none.
            InputError: a caption that is not a string.
        """
        captions = [clean_caption(caption) for caption in captions_of(texts)]
        for number, caption in enumerate(captions, start=1):
            if not caption:
                raise QueryError(f"Caption {number} of {len(captions)} is empty.")
        allowed = self.matches(None, what_to_find(self.parts, find))
        return self.search(self.encoder.encode_texts(captions), k=k, allowed=allowed)

    def search(
        self, vectors: np.ndarray, *, k: int = 10, allowed: np.ndarray | None = None, recall: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest rows of unit vectors float32 ``[n, dim]``.

        Args:
            allowed: int64 ids of live rows, ascending, that may be found; None allows all.
            recall: as in `Query`.

        Returns:
            As `query_texts`.

        Raises:
            QueryError: vectors of another width, or with values that are not finite; or ``k`` is not at least 1.
        """
        vectors, k = as_array(vectors), whole_number(k, "k", least=1)
        if vectors.ndim != 2 or vectors.shape[1] != self.snapshot.manifest.dim:
            raise QueryError(f"Vectors are {list(vectors.shape)}, but the index is {self.snapshot.manifest.dim} wide.")
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        if not np.isfinite(queries).all():
            bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
            raise QueryError(f"Vector {bad[0]} of {len(queries)} is not finite, so nothing is near it.")
        return self._search(queries, k, self.plan_for(k, allowed=allowed, recall=recall), allowed)

    @property
    def parts(self) -> tuple["SearchIndex"]:
        """The index itself."""
        return (self,)

    @property
    def indexed(self) -> Snapshot:
        """The index itself."""
        return self.snapshot

    @property
    def filter(self) -> "Filter":
        """Conditions over the rows."""
        return self._filter()

    def beside(self, columns: Iterable[pa.Field]) -> "SearchIndex":
        """The same index for a search over several; ``columns`` as of `Filter.beside`."""
        other, opened, further = object.__new__(type(self)), self._filter, list(columns)
        other.__dict__ |= self.__dict__ | {"_filter": Lazy(lambda: opened().beside(further))}
        return other

    def matches(
        self, where: str | None, find: Find | None = None, among: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Ids of images, or of texts, that meet a condition, int64 ascending; None if these are all rows.

        Without a condition DuckDB is not imported.

        Args:
            find: None allows both.
            among: ids, int64 ascending, of which the others do not count.

        Raises:
            QueryError: a condition that is wrong or not allowed.
        """
        found = self._matches(where, find)
        if among is None:
            return found
        known = self.snapshot.live_ids if found is None else found
        both: np.ndarray = known[np.isin(known, among, assume_unique=True)]
        return both

    def _matches(self, where: str | None, find: Find | None) -> np.ndarray | None:
        modality, held = None if find is None else find.removesuffix("s"), self.snapshot.modalities
        if modality is not None and modality not in held:
            return np.empty(0, dtype=np.int64)
        if modality is None or held == {modality}:
            return None if where is None else self._filter().ids(where)
        of_modality = self._texts() if modality == "text" else self._images()
        return of_modality if where is None else self._filter().ids(where, modality=modality)

    def limited(self, where: str | None, find: Find | None, among: np.ndarray | None) -> Matches | None:
        """The rows of `matches` as a search is limited to them; errors as of `matches`."""
        if self._engine is None:
            return self.matches(where, find, among)
        return self._engine.asked(where, find, among, lambda: self.matches(where, find, among))

    def plan_for(self, k: int, *, allowed: np.ndarray | None = None, recall: float | None = None) -> SearchPlan:
        """How `search` would search."""
        return self._plan(k, allowed, recall)

    def _plan(self, k: int, matches: Matches | None, recall: float | None) -> SearchPlan:
        recall = self.recall if recall is None else recall
        if self._engine is not None:
            return self._engine.plan(k, _as_asked(matches), recall)
        count = None if matches is None else len(matches)
        return self._plan_here(matches=count, k=k, recall=recall, gpu=self._gpus() > 0)

    def plan(self, query: Query, depth: int, matches: Matches | None) -> SearchPlan:
        """How to find the ``depth`` best rows among those that a query's condition leaves."""
        return self._plan(depth, matches, query.recall)

    def candidates(
        self, vectors: np.ndarray, depth: int, plan: SearchPlan, matches: Matches | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``depth`` best rows for unit vectors float32 ``[n, dim]``, by a plan of the same depth.

        Returns:
            float32 cosines and int64 ids, each ``[n, min(depth, matches)]``, best first; id -1 where nothing is found.
        """
        return self._search(vectors, depth, plan, matches)

    def _search(
        self, queries: np.ndarray, k: int, plan: SearchPlan, limited: Matches | None
    ) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, plan.matches)
        if plan.strategy == "nothing":
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if plan.device == "engine":
            assert self._engine is not None, "it made the plan"
            return self._engine.search(queries, k, plan, _as_asked(limited))
        matches = _ids_of(limited)
        if plan.device == "gpu":
            try:
                return self._search_here(queries, k, plan, matches)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning(
                    "The GPU has too little free memory for this index, which is searched on the CPU from now on."
                )
            self._gpus, plan = Lazy(lambda: 0), replace(plan, device="cpu")
        return self._search_here(queries, k, plan, matches)

    def _search_here(
        self, queries: np.ndarray, k: int, plan: SearchPlan, matches: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if plan.point is None:
            return self._search_exactly(queries, k, plan, matches)
        allowed = self.snapshot.live_ids if matches is None and self._is_masked else matches
        index: VectorIndex = self._approximate_on_gpu() if plan.device == "gpu" else self._approximate()
        _, candidates = index.search(queries, plan.candidates, allowed=allowed, effort=plan.effort)
        if plan.tail:
            inside = None if matches is None else matches[np.isin(matches, self._tail_ids(), assume_unique=True)]
            _, newest = self._tail.search(queries, k, allowed=inside)
            candidates = np.concatenate([candidates, newest], axis=1)
        return rank_again(self.snapshot, queries, candidates, k)

    def _search_exactly(
        self, queries: np.ndarray, k: int, plan: SearchPlan, matches: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if plan.device == "cpu":
            return self._exact.search(queries, k, allowed=matches)
        # Sums of float16 on the GPU may order near ties differently, so that more candidates are ranked again.
        _, candidates = self._exact_on_gpu().search(queries, min(k + SLACK, plan.rows))
        return rank_again(self.snapshot, queries, candidates, k)


def _beside(engine: "ServingEngine", snapshot: Snapshot, seconds: float) -> "EngineBeside":
    from llm2clip_search.engine.served import EngineBeside

    return EngineBeside(engine, snapshot, seconds)


def _as_asked(matches: Matches | None) -> "Asked | None":
    from llm2clip_search.engine.served import Asked, as_asked

    return matches if matches is None or isinstance(matches, Asked) else as_asked(np.asarray(matches))


def _ids_of(matches: Matches | None) -> np.ndarray | None:
    if matches is None or isinstance(matches, np.ndarray):
        return matches
    return np.asarray(getattr(matches, "ids", matches))


def _open_filter(snapshot: Snapshot, seconds: float) -> "Filter":
    from llm2clip_search.engine.filter import Filter

    return Filter(snapshot, time_limit_s=seconds)


def _exact_on_gpu(snapshot: Snapshot, rows: int) -> "GpuFlatIndex":
    from llm2clip_search.vectorindex.gpu import GpuFlatIndex, gpu_memory

    return GpuFlatIndex(snapshot, rows, dim=snapshot.manifest.dim, memory=gpu_memory())


def _lists_on_gpu(index: "FaissIndex") -> "GpuListsIndex":
    from llm2clip_search.vectorindex.gpu import GpuListsIndex

    return GpuListsIndex(index)


def _load_approximate(snapshot: Snapshot) -> "FaissIndex":
    from llm2clip_search.vectorindex.faiss_index import load_index

    ann, path = snapshot.manifest.ann, snapshot.ann_path
    assert ann is not None, "the plan is approximate only if there is an index"
    assert path is not None, "the manifest names it"
    snapshot.confirm_ann()
    return load_index(kind_of(ann.factory), path, rows=ann.rows, dim=snapshot.manifest.dim)


def _opened_again(folder: Path, encoder: Encoder | None, condition_seconds: float, engine: str | None) -> SearchIndex:
    snapshot = Snapshot(folder)
    if encoder is not None:
        check_model(snapshot, encoder.identity)
    opened = None
    if engine is not None:
        from llm2clip_search.vectorindex.serving.opening import open_engine

        opened = open_engine(engine)
    return SearchIndex(snapshot, encoder, condition_seconds=condition_seconds, engine=opened)
