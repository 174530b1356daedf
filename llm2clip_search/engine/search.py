"""An open index: ask it in captions, images and mixtures of both."""

import math
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.encoders import Encoder, load_encoder
from llm2clip_search.encoders.placement import Quantize, has_nvidia_driver
from llm2clip_search.encoders.towers import Runtime
from llm2clip_search.engine.plan import SearchPlan, plan_search
from llm2clip_search.engine.query import Query, Term, compose_terms
from llm2clip_search.engine.results import Hit, Result
from llm2clip_search.errors import QueryError
from llm2clip_search.store import Snapshot, find_index
from llm2clip_search.store.writer import check_model
from llm2clip_search.vectorindex.search import exact_search, import_faiss, probes, read_ann, search_parameters


class SearchIndex:
    """A snapshot of an index with the encoder that made it, loaded when a query needs it.

    A text query never loads the vision tower, an image query never loads the LLM, and a query by id
    loads neither.
    """

    def __init__(self, snapshot: Snapshot, encoder: Encoder) -> None:
        self.snapshot = snapshot
        self.encoder = encoder

    def __len__(self) -> int:
        return self.snapshot.manifest.live

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
    ) -> Result:
        """Find the images nearest to a caption, an image, an indexed image, or their sum.

        Args:
            add, sub: captions to add or subtract, each optionally with a weight as in ``"rain^0.5"``.
            threshold: lowest cosine to return.
            where: SQL condition over the metadata, applied before the search.

        Raises:
            QueryError: an empty query, an id or column that does not exist, wrong SQL.
            ImageError: an image that cannot be read.
        """
        terms = compose_terms(text=text, image=image, like=like, add=add, sub=sub)
        return self.run(Query(terms=terms, k=k, offset=offset, threshold=threshold, where=where))

    def run(self, query: Query) -> Result:
        """Run one query; see `query` for the errors."""
        seconds: dict[str, float] = {}
        clock = _Clock(seconds)
        matches = self._matches(query.where)
        plan = self._plan(matches, query.k + query.offset)
        clock.lap("plan")
        warnings = self._warnings(query)
        vector = self._compose(query.terms)
        clock.lap("encode")
        scores, ids = self._search(vector[None, :], query.k + query.offset, plan, matches)
        clock.lap("search")
        hits = self._join(scores[0], ids[0], query)
        clock.lap("join")
        return Result(hits=hits, plan=plan, warnings=warnings, seconds=seconds)

    def query_texts(self, texts: Sequence[str], *, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Many captions at once, without metadata.

        Returns:
            float32 cosines and int64 ids, each ``[n, min(k, rows)]``, best first.
        """
        return self.search(self.encoder.encode_texts(texts), k=k)

    def search(self, vectors: np.ndarray, *, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest rows of unit vectors float32 ``[n, dim]``; returns as `query_texts`.

        Raises:
            QueryError: vectors of another width.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.snapshot.manifest.dim:
            raise QueryError(f"Vectors are {list(vectors.shape)}, but the index is {self.snapshot.manifest.dim} wide.")
        return self._search(np.ascontiguousarray(vectors, dtype=np.float32), k, self._plan(None, k), None)

    def _matches(self, where: str | None) -> np.ndarray | None:
        """Ids that meet the condition; None without one, and then DuckDB is not imported."""
        if where is None:
            return None
        from llm2clip_search.engine.filter import matching_ids

        return matching_ids(self.snapshot, where)

    def _plan(self, matches: np.ndarray | None, k: int) -> SearchPlan:
        ann = self.snapshot.manifest.ann
        return plan_search(
            rows=len(self),
            matches=None if matches is None else len(matches),
            k=k,
            ann=ann.factory if ann else None,
            recall_at_10=ann.recall_at_10 if ann else None,
            gpu=self._gpus > 0,
        )

    def _warnings(self, query: Query) -> list[str]:
        captions = [term.value for term in query.terms if term.kind == "text"]
        limit = self.encoder.max_tokens
        counts = self.encoder.count_tokens(captions) if captions else []
        return [
            f"The caption is {count} tokens long, but {self.encoder.name} reads {limit}; the last {count - limit}"
            " are not read."
            for count in counts
            if count > limit
        ]

    def _compose(self, terms: Sequence[Term]) -> np.ndarray:
        """Weighted sum of the terms' unit vectors, normalised: float32 ``[dim]``."""
        vectors = np.empty((len(terms), self.encoder.dim), dtype=np.float32)
        captions = [place for place, term in enumerate(terms) if term.kind == "text"]
        if captions:
            vectors[captions] = self.encoder.encode_texts([terms[place].value for place in captions])
        for place, term in enumerate(terms):
            if term.kind == "image":
                vectors[place] = self.encoder.encode_images([term.value])[0]
            elif term.kind == "like":
                vectors[place] = self._stored(int(term.value))
        total = (vectors * np.array([[term.weight] for term in terms], dtype=np.float32)).sum(axis=0)
        norm = float(np.linalg.norm(total))
        if norm < 1e-6:
            raise QueryError("The terms cancel each other out; change a weight, or drop one of --add and --sub.")
        composed: np.ndarray = total / norm
        return composed

    def _stored(self, identifier: int) -> np.ndarray:
        if identifier not in self.snapshot.live_ids:
            raise QueryError(
                f"--like {identifier}: the index has no image with this id; results show the ids there are."
            )
        vector: np.ndarray = self.snapshot.vectors([identifier])[0]
        unit: np.ndarray = vector / np.linalg.norm(vector)
        return unit

    def _search(
        self, queries: np.ndarray, k: int, plan: SearchPlan, matches: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, plan.matches)
        if plan.strategy == "nothing":
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if plan.strategy == "exact over matches":
            return exact_search(self.snapshot, queries, k, ids=matches)
        if plan.strategy == "exact":
            if plan.device == "cpu":
                return exact_search(self.snapshot, queries, k)
            scores, ids = self._gpu_flat.search(queries, k)
            return scores, ids
        return self._approximate_search(queries, k, plan, matches)

    def _approximate_search(
        self, queries: np.ndarray, k: int, plan: SearchPlan, matches: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ask the approximate index for more than ``k``, then rank those by their stored vectors.

        Ranking again makes the scores those of exact search, whatever the index quantises.
        """
        faiss = import_faiss()
        ann = self.snapshot.manifest.ann
        assert ann is not None, "the plan is approximate only when there is an index"
        wanted = min(2 * k + 10, plan.matches)
        allowed = matches if matches is not None else self.snapshot.live_ids if ann.rows > plan.rows else None
        if plan.device == "gpu" and allowed is None:
            _, found = self._gpu_ann.search(queries, wanted)
        else:
            selector = None if allowed is None else faiss.IDSelectorBatch(allowed)
            index = self._ann
            effort = math.ceil(wanted / 64)
            _, found = index.search(
                queries, wanted, params=search_parameters(faiss, index, selector=selector, effort=effort)
            )
        scores = np.full((len(queries), k), -2.0, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for row, candidates in enumerate(found):
            top, best = exact_search(self.snapshot, queries[row : row + 1], k, ids=candidates[candidates >= 0])
            scores[row, : top.shape[1]], ids[row, : best.shape[1]] = top[0], best[0]
        return scores, ids

    @cached_property
    def _ann(self) -> Any:
        ann = self.snapshot.manifest.ann
        assert ann is not None, "the plan is approximate only when there is an index"
        return read_ann(self.snapshot.folder / "ann" / ann.name)

    @cached_property
    def _gpus(self) -> int:
        if not has_nvidia_driver():
            return 0  # a query need not import FAISS to learn that
        faiss = import_faiss()
        return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0

    @cached_property
    def _gpu_ann(self) -> Any:
        """A copy of the approximate index; GPU searches take no parameters, so it carries its own."""
        faiss = import_faiss()
        inverted = faiss.extract_index_ivf(self._ann)
        inverted.nprobe = probes(inverted.nlist)
        return faiss.index_cpu_to_all_gpus(self._ann)

    @cached_property
    def _gpu_flat(self) -> Any:
        """The live vectors in GPU memory, searched exactly."""
        faiss = import_faiss()
        flat = faiss.IndexIDMap2(faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(self.snapshot.manifest.dim)))
        for ids, vectors in self.snapshot.blocks():
            flat.add_with_ids(vectors, ids)
        return flat

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
            rest = {key: value for key, value in row.items() if key not in ("id", "path")}
            path = self.snapshot.absolute(row["path"])
            hits.append(Hit(rank=rank, id=identifier, score=max(-1.0, min(1.0, score)), path=path, metadata=rest))
        return hits


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = now - self._last
        self._last = now


def open_index(
    folder: str | Path | None = None,
    *,
    model: str | None = None,
    runtime: Runtime = "auto",
    device: str = "auto",
    quantize: Quantize = "none",
) -> SearchIndex:
    """Open an index for asking.

    Args:
        folder: the index folder; by default the nearest ``.llm2clip`` from the current folder upward.
        model: by default the one that made the index.
        runtime, device, quantize: as for `load_encoder`.

    Raises:
        StoreError: no index there, or ``model`` did not make it.
    """
    snapshot = Snapshot(Path(folder) if folder is not None else find_index())
    name = model or snapshot.manifest.model.name
    encoder = load_encoder(name, runtime=runtime, device=device, quantize=quantize)
    check_model(snapshot, encoder.identity)
    return SearchIndex(snapshot, encoder)
