"""An open index, and how to open one or several."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from llm2clip_search.base.files import user_path
from llm2clip_search.base.lazy import Lazy
from llm2clip_search.encoders import Encoder, as_encoder, load_encoder
from llm2clip_search.encoders.inputs import as_array, captions_of
from llm2clip_search.encoders.placement import Quantize
from llm2clip_search.encoders.towers import Runtime
from llm2clip_search.engine.candidates import what_to_find
from llm2clip_search.engine.captions import clean_caption
from llm2clip_search.engine.numbers import whole_number
from llm2clip_search.engine.plan import SearchPlan, plan_search
from llm2clip_search.engine.query import Find, Query
from llm2clip_search.engine.searcher import Searcher
from llm2clip_search.engine.several import SearchIndices
from llm2clip_search.engine.time_limit import TIME_LIMIT_S
from llm2clip_search.errors import InputError, QueryError, StoreError
from llm2clip_search.store import DEFAULT_FOLDER, Snapshot, find_index, has_index
from llm2clip_search.store.snapshot import check_same_model
from llm2clip_search.store.writer import check_model
from llm2clip_search.vectorindex.exact import SLACK, ExactIndex, rank_again
from llm2clip_search.vectorindex.faiss_index import FaissIndex, load_index
from llm2clip_search.vectorindex.faiss_library import gpu_count
from llm2clip_search.vectorindex.gpu import GPU_MAX_K, GpuFlatIndex, GpuListsIndex, gpu_memory
from llm2clip_search.vectorindex.index import VectorIndex
from llm2clip_search.vectorindex.kinds import kind_of
from llm2clip_search.vectorindex.policy import AnnConfig

if TYPE_CHECKING:
    from llm2clip_search.engine.filter import Filter


class SearchIndex(Searcher):
    """A snapshot of an index, with the encoder that made it.

    A text query never loads the vision tower, an image query never loads the LLM, and a query by id or by vector
    loads neither. Several threads may query one object.
    """

    def __init__(
        self, snapshot: Snapshot, encoder: Encoder | None = None, *, condition_seconds: float = TIME_LIMIT_S
    ) -> None:
        """Without an encoder the index is searched by vectors and by ids only.

        Args:
            condition_seconds: the most that evaluating a condition may take.
        """
        super().__init__(encoder)
        self._condition_seconds = condition_seconds
        self.snapshot = snapshot
        # Nothing here refers back to this object, so that its files are let go as soon as its last user is gone.
        rows = snapshot.manifest.live
        texts, approximate = Lazy(snapshot.text_ids), Lazy(lambda: _load_approximate(snapshot))
        self._gpus = Lazy(gpu_count)
        self._exact = ExactIndex(snapshot, rows)
        self._exact_on_gpu = Lazy(lambda: GpuFlatIndex(snapshot, rows, dim=snapshot.manifest.dim, memory=gpu_memory()))
        self._filter = Lazy(lambda: _open_filter(snapshot, condition_seconds))
        self._texts = texts
        self._images = Lazy(lambda: np.setdiff1d(snapshot.live_ids, texts(), assume_unique=True))
        self._approximate = approximate
        self._approximate_on_gpu = Lazy(lambda: GpuListsIndex(approximate()))
        ann = snapshot.manifest.ann
        covered = frozenset(ann.shards if ann else ())
        tail = snapshot.only(snapshot.names - covered)
        self._tail = ExactIndex(tail, len(tail))
        self._tail_ids = Lazy(lambda: np.concatenate([shard.live_ids for shard in tail.shards]))
        # Dead vectors stay in the approximate index until it is built again.
        self._is_masked = ann is not None and ann.rows > len(snapshot.only(covered))

    @property
    def recall(self) -> float:
        """Recall that approximate searches aim at unless a query asks for another."""
        return (self.snapshot.manifest.ann_config or AnnConfig()).recall

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in this process or another, opens the index again, at its newest commit."""
        return _opened_again, (self.snapshot.folder, self._encoder, self._condition_seconds)

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

    def plan_for(self, k: int, *, allowed: np.ndarray | None = None, recall: float | None = None) -> SearchPlan:
        """How `search` would search."""
        return plan_search(
            rows=len(self),
            matches=None if allowed is None else len(allowed),
            k=k,
            ann=self.snapshot.manifest.ann,
            tail=len(self._tail),
            masked=self._is_masked,
            recall=self.recall if recall is None else recall,
            gpu=self._gpus() > 0,
        )

    def plan(self, query: Query, depth: int, matches: np.ndarray | None) -> SearchPlan:
        """How to find the ``depth`` best rows among those that a query's condition leaves."""
        return self.plan_for(depth, allowed=matches, recall=query.recall)

    def candidates(
        self, vectors: np.ndarray, depth: int, plan: SearchPlan, matches: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``depth`` best rows for unit vectors float32 ``[n, dim]``, by a plan of the same depth.

        Returns:
            float32 cosines and int64 ids, each ``[n, min(depth, matches)]``, best first; id -1 where nothing is found.
        """
        return self._search(vectors, depth, plan, matches)

    def _search(
        self, queries: np.ndarray, k: int, plan: SearchPlan, matches: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, plan.matches)
        if plan.strategy == "nothing":
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
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
        _, candidates = self._exact_on_gpu().search(queries, min(k + SLACK, plan.rows, GPU_MAX_K))
        return rank_again(self.snapshot, queries, candidates, k)


def _open_filter(snapshot: Snapshot, seconds: float) -> "Filter":
    from llm2clip_search.engine.filter import Filter

    return Filter(snapshot, time_limit_s=seconds)


def _load_approximate(snapshot: Snapshot) -> FaissIndex:
    ann, path = snapshot.manifest.ann, snapshot.ann_path
    assert ann is not None, "the plan is approximate only if there is an index"
    assert path is not None, "the manifest names it"
    return load_index(kind_of(ann.factory), path, rows=ann.rows, dim=snapshot.manifest.dim)


def _opened_again(folder: Path, encoder: Encoder | None, condition_seconds: float) -> SearchIndex:
    snapshot = Snapshot(folder)
    if encoder is not None:
        check_model(snapshot, encoder.identity)
    return SearchIndex(snapshot, encoder, condition_seconds=condition_seconds)


@overload
def open_index(
    folder: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    encoder: Encoder | str | None = None,
    runtime: Runtime = "auto",
    device: str = "auto",
    quantize: Quantize = "none",
    condition_seconds: float = TIME_LIMIT_S,
) -> SearchIndex: ...


@overload
def open_index(
    folder: Iterable[str | os.PathLike[str]],
    *,
    model: str | None = None,
    encoder: Encoder | str | None = None,
    runtime: Runtime = "auto",
    device: str = "auto",
    quantize: Quantize = "none",
    condition_seconds: float = TIME_LIMIT_S,
) -> Searcher: ...


def open_index(
    folder: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    *,
    model: str | None = None,
    encoder: Encoder | str | None = None,
    runtime: Runtime = "auto",
    device: str = "auto",
    quantize: Quantize = "none",
    condition_seconds: float = TIME_LIMIT_S,
) -> Searcher:
    """Open an index for searching, or several as one.

    Args:
        folder: the index folder, or the folder that holds it as ``.llm2clip``; by default the nearest ``.llm2clip``
            from the current folder upward. ``~`` is the home folder. Several folders are searched together, and their
            images make one ranking.
        model: name of the model to load, by default the one that made the index.
        encoder: an encoder that is loaded already, instead of ``model`` and the options below; a name is ``model``.
        runtime, device, quantize: as for `load_encoder`.
        condition_seconds: the most that evaluating a condition may take; strangers should get less than the default.

    Returns:
        A `SearchIndex`; a `SearchIndices` for several folders.

    Raises:
        StoreError: no index there, another model made it, or two indices were made by different models.
        ModelError: the model cannot be loaded.
        InputError: something that is not a folder.
    """
    folders = [find_index()] if folder is None else index_folders(folder)
    if isinstance(encoder, str):
        encoder, model = None, encoder if model is None else model
    elif encoder is not None:
        encoder = as_encoder(encoder)
    snapshots = [Snapshot(each) for each in folders]
    check_same_model(snapshots)
    if encoder is None:
        name = model or snapshots[0].manifest.model.name
        encoder = load_encoder(name, runtime=runtime, device=device, quantize=quantize)
    elif model is not None:
        raise StoreError("An index is opened with a model's name or with an encoder, not with both.")
    for snapshot in snapshots:
        check_model(snapshot, encoder.identity)
    opened = [SearchIndex(snapshot, encoder, condition_seconds=condition_seconds) for snapshot in snapshots]
    return opened[0] if len(opened) == 1 else SearchIndices(opened, encoder)


def index_folders(given: object) -> list[Path]:
    """Index folders of one path or several; a folder that holds ``.llm2clip`` stands for it."""
    one = isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable)
    several: list[Any] = [given] if one else list(given)  # type: ignore[call-overload]
    for each in several:
        if not isinstance(each, str | os.PathLike):
            raise InputError(f"The folder of an index is a path, not {type(each).__name__}.")
    paths = [user_path(each) for each in several]
    return [
        path / DEFAULT_FOLDER if not has_index(path) and has_index(path / DEFAULT_FOLDER) else path for path in paths
    ]
