"""An open index: searched by captions, images and mixtures of both."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm2clip_search.base.lazy import Lazy
from llm2clip_search.encoders import Encoder, load_encoder
from llm2clip_search.encoders.placement import Quantize
from llm2clip_search.encoders.towers import Runtime
from llm2clip_search.engine.plan import SearchPlan, plan_search
from llm2clip_search.engine.query import Query, Term, compose_terms
from llm2clip_search.engine.results import Hit, Result
from llm2clip_search.errors import QueryError, StoreError
from llm2clip_search.store import Snapshot, find_index
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

INTERNAL = ("corpus", "version")
"""Columns that say how a row is kept up to date, not what is in the image; results leave them out."""


class SearchIndex:
    """A snapshot of an index, with the encoder that made it.

    A text query never loads the vision tower, an image query never loads the LLM, and a query by id or by vector
    loads neither. Several threads may query one object.
    """

    def __init__(self, snapshot: Snapshot, encoder: Encoder | None = None) -> None:
        """Without an encoder the index is searched by vectors and by ids only."""
        self.snapshot = snapshot
        self._encoder = encoder
        self._gpus = Lazy(gpu_count)
        self._exact = ExactIndex(snapshot, snapshot.manifest.live)
        self._exact_on_gpu = Lazy(
            lambda: GpuFlatIndex(snapshot, len(self), dim=snapshot.manifest.dim, memory=gpu_memory())
        )
        self._filter = Lazy(self._open_filter)
        self._approximate = Lazy(self._load_approximate)
        self._approximate_on_gpu = Lazy(lambda: GpuListsIndex(self._approximate()))
        ann = snapshot.manifest.ann
        covered = frozenset(ann.shards if ann else ())
        tail = snapshot.only(snapshot.names - covered)
        self._tail = ExactIndex(tail, len(tail))
        # Dead vectors stay in the approximate index until it is built again.
        self._is_masked = ann is not None and ann.rows > len(snapshot.only(covered))

    def __len__(self) -> int:
        return self.snapshot.manifest.live

    @property
    def recall(self) -> float:
        """Recall that approximate searches aim at unless a query asks for another."""
        return (self.snapshot.manifest.ann_config or AnnConfig()).recall

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the index.

        Raises:
            QueryError: the index was opened without one.
        """
        if self._encoder is None:
            raise QueryError(
                f"{self.snapshot.folder} was opened without an encoder; it is searched by vectors and ids."
            )
        return self._encoder

    def query(
        self,
        text: str | None = None,
        *,
        image: str | Path | None = None,
        like: int | None = None,
        add: Sequence[str] = (),
        sub: Sequence[str] = (),
        k: int = 10,
        offset: int = 0,
        threshold: float | None = None,
        where: str | None = None,
        recall: float | None = None,
    ) -> Result:
        """Find the images nearest to a caption, an image, an indexed image, or their sum.

        Args:
            text: a caption.
            image: path of an image file.
            like: id of an indexed image.
            add, sub: captions to add or subtract, each optionally with a weight as in ``"rain^0.5"``.
            k: results to return.
            offset: results to skip, for paging.
            threshold: lowest cosine to return.
            where: SQL condition over the metadata, applied before the search.
            recall: as in `Query`.

        Raises:
            QueryError: an empty query, an id or column that does not exist, wrong SQL.
            ImageError: an image that cannot be read.
        """
        terms = compose_terms(text=text, image=image, like=like, add=add, sub=sub)
        return self.run(Query(terms=terms, k=k, offset=offset, threshold=threshold, where=where, recall=recall))

    def run(self, query: Query) -> Result:
        """Run one query; errors as for `query`."""
        clock = _Clock()
        matches = self._matches(query.where)
        plan = self._plan(matches, query.k + query.offset, query.recall)
        clock.lap("plan")
        warnings = self._warnings(query)
        vector = self._compose(query.terms)
        clock.lap("encode")
        scores, ids = self._search(vector[None, :], query.k + query.offset, plan, matches)
        clock.lap("search")
        hits = self._join(scores[0], ids[0], query)
        clock.lap("join")
        return Result(hits=hits, plan=plan, warnings=warnings, seconds=clock.seconds)

    def query_texts(self, texts: Sequence[str], *, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Search for many captions at once, without metadata.

        Returns:
            float32 cosines and int64 ids, each ``[n, min(k, rows)]``, best first.
        """
        return self.search(self.encoder.encode_texts(texts), k=k)

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
            QueryError: vectors of another width.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.snapshot.manifest.dim:
            raise QueryError(f"Vectors are {list(vectors.shape)}, but the index is {self.snapshot.manifest.dim} wide.")
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        return self._search(queries, k, self._plan(allowed, k, recall), allowed)

    def _matches(self, where: str | None) -> np.ndarray | None:
        """Ids that meet the condition; None without a condition, and then DuckDB is not imported."""
        if where is None:
            return None
        return self._filter().ids(where)

    def _open_filter(self) -> "Filter":
        from llm2clip_search.engine.filter import Filter

        return Filter(self.snapshot)

    def _plan(self, matches: np.ndarray | None, k: int, recall: float | None) -> SearchPlan:
        return plan_search(
            rows=len(self),
            matches=None if matches is None else len(matches),
            k=k,
            ann=self.snapshot.manifest.ann,
            tail=len(self._tail),
            recall=self.recall if recall is None else recall,
            gpu=self._gpus() > 0,
        )

    def _warnings(self, query: Query) -> list[str]:
        captions = [term.value for term in query.terms if term.kind == "text"]
        if not captions:
            return []
        limit = self.encoder.max_tokens
        return [
            f"The caption is {count} tokens long, but {self.encoder.name} reads {limit}; the last {count - limit}"
            " are not read."
            for count in self.encoder.count_tokens(captions)
            if count > limit
        ]

    def _compose(self, terms: Sequence[Term]) -> np.ndarray:
        """Weighted sum of the terms' unit vectors, normalised: float32 ``[dim]``."""
        vectors = np.empty((len(terms), self.snapshot.manifest.dim), dtype=np.float32)
        captions = [row for row, term in enumerate(terms) if term.kind == "text"]
        if captions:
            vectors[captions] = self.encoder.encode_texts([terms[row].value for row in captions])
        for row, term in enumerate(terms):
            if term.kind == "image":
                vectors[row] = self.encoder.encode_images([term.value])[0]
            elif term.kind == "like":
                vectors[row] = self._stored(int(term.value))
        total = (vectors * np.array([[term.weight] for term in terms], dtype=np.float32)).sum(axis=0)
        norm = float(np.linalg.norm(total))
        if norm < 1e-6:
            raise QueryError(
                "The terms of the query cancel each other out.",
                hint="Change a weight, or drop one of --add and --sub.",
            )
        composed: np.ndarray = total / norm
        return composed

    def _stored(self, identifier: int) -> np.ndarray:
        if identifier not in self.snapshot:
            raise QueryError(
                f"The index has no image with id {identifier}.", hint="Use --like with an id that results show."
            )
        vector: np.ndarray = self.snapshot.vectors([identifier])[0]
        scaled: np.ndarray = vector / np.linalg.norm(vector)
        return scaled

    def _search(
        self, queries: np.ndarray, k: int, plan: SearchPlan, matches: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, plan.matches)
        if plan.strategy == "nothing":
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if plan.point is None:
            return self._search_exactly(queries, k, plan, matches)
        allowed = self.snapshot.live_ids if matches is None and self._is_masked else matches
        index: VectorIndex = self._approximate()
        if plan.device == "gpu" and allowed is None:
            index = self._approximate_on_gpu()
        _, candidates = index.search(queries, plan.candidates, allowed=allowed, effort=plan.effort)
        if plan.tail:
            _, newest = self._tail.search(queries, k, allowed=matches)
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

    def _load_approximate(self) -> FaissIndex:
        ann, path = self.snapshot.manifest.ann, self.snapshot.ann_path
        assert ann is not None, "the plan is approximate only if there is an index"
        assert path is not None, "the manifest names it"
        return load_index(kind_of(ann.factory), path, rows=ann.rows, dim=self.snapshot.manifest.dim)

    def _join(self, scores: np.ndarray, ids: np.ndarray, query: Query) -> list[Hit]:
        page = slice(query.offset, query.offset + query.k)
        kept = [
            (rank, identifier, score)
            for rank, (identifier, score) in enumerate(zip(ids.tolist(), scores.tolist(), strict=True), start=1)
            if identifier >= 0 and (query.threshold is None or score >= query.threshold)
        ][page]
        rows = self.snapshot.rows([identifier for _, identifier, _ in kept])
        hits: list[Hit] = []
        for (rank, identifier, score), row in zip(kept, rows, strict=True):
            rest = {key: value for key, value in row.items() if key not in ("id", "path", *INTERNAL)}
            uri = self.snapshot.located(row["path"])
            hits.append(Hit(rank=rank, id=identifier, score=max(-1.0, min(1.0, score)), uri=uri, metadata=rest))
        return hits


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def open_index(
    folder: str | Path | None = None,
    *,
    model: str | None = None,
    encoder: Encoder | None = None,
    runtime: Runtime = "auto",
    device: str = "auto",
    quantize: Quantize = "none",
) -> SearchIndex:
    """Open an index for searching.

    Args:
        folder: the index folder; by default the nearest ``.llm2clip`` from the current folder upward.
        model: name of the model to load, by default the one that made the index.
        encoder: an encoder that is loaded already, instead of ``model`` and the options below.
        runtime, device, quantize: as for `load_encoder`.

    Raises:
        StoreError: no index there, or another model made it.
        ModelError: the model cannot be loaded.
    """
    snapshot = Snapshot(Path(folder) if folder is not None else find_index())
    if encoder is None:
        name = model or snapshot.manifest.model.name
        encoder = load_encoder(name, runtime=runtime, device=device, quantize=quantize)
    elif model is not None:
        raise StoreError("An index is opened with a model's name or with an encoder, not with both.")
    check_model(snapshot, encoder.identity)
    return SearchIndex(snapshot, encoder)
