"""Queries over one or several indices: compose vectors, search, select a page, and join it with metadata."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Unpack

import numpy as np

from llm2clip_search.base.vectors import unit
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.calibration import POOL, Calibration, ScoreProbability
from llm2clip_search.encoders.inputs import ImageInput
from llm2clip_search.engine.browser import Browser
from llm2clip_search.engine.candidates import Candidates, Rows
from llm2clip_search.engine.chosen import ChosenRows
from llm2clip_search.engine.joining import Joined
from llm2clip_search.engine.query import Find, Fuse, ImageRef, Query, QueryOptions, Term, compose_query
from llm2clip_search.engine.results import NOT_METADATA, Hit, Result, in_order_of, sortable
from llm2clip_search.engine.selection import Ranked, first_depth, select
from llm2clip_search.errors import QueryError

BATCH = 64
"""Captions that are encoded and searched together."""
_BATCH_CANDIDATES = 4_000_000
"""Results of all captions of a batch together: the bound on its memory."""


class Searcher(Browser):
    """What can be queried: one index, or several as one (`SearchIndex`, `SearchIndices`).

    A text query never loads the vision tower, an image query never loads the LLM, and a query by id loads neither.
    Several threads may query one object.
    """

    def __init__(self, encoder: Encoder | None) -> None:
        super().__init__()
        self._encoder = encoder
        # An encoder of another package need not inherit from ours.
        self._calibration: Calibration | None = getattr(encoder, "calibration", None)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns in the metadata of hits, of all indices."""
        names = [name for part in self.parts for name in part.snapshot.schema.names]
        return tuple(name for name in dict.fromkeys(names) if name not in NOT_METADATA)

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the index.

        Raises:
            QueryError: the index was opened without one.
        """
        if self._encoder is None:
            folder = self.parts[0].snapshot.folder
            raise QueryError(f"{folder} was opened without an encoder; it is searched by vectors and ids.")
        return self._encoder

    def query(
        self,
        text: str | Iterable[str] | None = None,
        *,
        image: ImageInput | Iterable[ImageInput] | None = None,
        like: ImageRef | Iterable[ImageRef] | None = None,
        unlike: ImageRef | Iterable[ImageRef] | None = None,
        add: str | Iterable[str] = (),
        sub: str | Iterable[str] = (),
        fuse: Fuse | None = None,
        k: int = 10,
        offset: int = 0,
        threshold: float | None = None,
        find: Find | None = None,
        where: str | None = None,
        recall: float | None = None,
        diverse: bool = False,
        group_duplicates: float | None = None,
        unique: bool = False,
        per_file: int | None = None,
        sort: str | None = None,
        among: ChosenRows | None = None,
    ) -> Result:
        """Find the images or texts nearest to a caption, an image, an indexed image, or their sum.

        Args:
            text: a caption; several need ``fuse``, and the other terms join each of them.
            image: an image as `ImageInput` describes it, for example a path, a PIL image or an array; the address of
                one; or a part of a file, such as ``scan.pdf#page=3``; or several of these.
            like, unlike: ids of indexed images, or images, to add or subtract. Each string may have a weight, as in
                ``"beach.jpg^0.5"``. ``"4711@2"`` is the image 4711 of the second index.
            add, sub: captions to add or subtract, each optionally with a weight as in ``"rain^0.5"``.
            fuse: how several captions make one ranking: ``mean`` of their vectors; ``max``, the cosine with the best
                matching caption; ``rank``, reciprocal rank fusion of their rankings.
            k: results to return.
            offset: results to skip, for paging.
            threshold: lowest cosine to return.
            find: ``images`` or ``texts``; by default what the indices hold, and images if they hold both.
            where: SQL condition over the metadata, applied before the search.
            recall: as in `Query`.
            diverse: order the best 100 results by maximal marginal relevance.
            group_duplicates: least cosine at which an image counts as a duplicate of a better result.
            unique: files with the same content are one result.
            per_file: results of one file at most, such as pages of a document or frames of a video.
            sort: column to order the results by, as ``"taken"``, or ``"-taken"`` for descending order. The results are
                still the ``k`` best, and their ranks say how good.
            among: for each index, the ids of the rows that may be found, as `Chosen` takes them.

        Raises:
            QueryError: an empty query, several captions without ``fuse``, an id or column that does not exist, wrong
                SQL, or texts of indices that hold none.
            InputError: something that is neither a caption nor an image.
            ImageError: an image that cannot be read.
        """
        return self.run(
            compose_query(
                () if text is None else text,
                image=image,
                like=like,
                unlike=unlike,
                add=add,
                sub=sub,
                fuse=fuse,
                k=k,
                offset=offset,
                threshold=threshold,
                find=find,
                where=where,
                recall=recall,
                diverse=diverse,
                group_duplicates=group_duplicates,
                unique=unique,
                per_file=per_file,
                sort=sort,
                among=among,
            )
        )

    def run(self, query: Query) -> Result:
        """Run one query; errors as for `query`."""
        return self.page(self.rank(query))

    def rank(self, query: Query) -> Ranked:
        """The rows that a query finds, without their metadata; errors as for `query`.

        Pages of the ranking are read by `page`, so that a program which shows one page after the other ranks once.
        """
        started = time.perf_counter()
        self._check_sort(query)
        rows = Rows(self.parts, query.where, query.find, query.among)
        return self._rank([query], rows, time.perf_counter() - started)[0]

    def page(self, ranked: Ranked, *, offset: int = 0, k: int | None = None) -> Result:
        """Results of a ranking with their metadata; ``k`` of them, by default all, after the first ``offset``."""
        return self._pages([ranked.cut(offset, k)])[0]

    def query_batch(self, captions: str | Iterable[str], **options: Unpack[QueryOptions]) -> Iterator[Result]:
        """Answer many captions, each as `query` does, `BATCH` of them encoded and searched together.

        Args:
            captions: read as results are asked for.
            options: as for `query`; they apply to each caption, so ``fuse`` has nothing to combine. The condition is
                evaluated once.

        Yields:
            One result per caption, in their order.

        Raises:
            QueryError, ImageError: as `query`.
        """
        any_query = compose_query(["any"], **options)  # options are checked before a caption is read
        size = max(1, min(BATCH, _BATCH_CANDIDATES // first_depth(any_query)))
        started = time.perf_counter()
        self._check_sort(any_query)
        rows = Rows(self.parts, any_query.where, any_query.find, any_query.among)
        filtered = time.perf_counter() - started
        pending = iter([captions] if isinstance(captions, str) else captions)
        while batch := list(islice(pending, size)):
            queries = [compose_query([caption], **options) for caption in batch]
            yield from self._pages(self._rank(queries, rows, filtered))
            filtered = 0.0

    def _rank(self, queries: Sequence[Query], rows: Rows, filtered: float) -> list[Ranked]:
        """Answer queries that differ in their terms only; ``filtered`` is the time that the condition took."""
        clock = _Clock()
        # The pool is searched for however short the page is, so that a probability does not depend on it.
        depth = max(first_depth(queries[0]), POOL if self._is_calibrated(queries[0], rows) else 1)
        plans = rows.plans(queries[0], depth)
        clock.lap("plan")
        clock.seconds["plan"] += filtered
        vectors = self._compose(queries)
        # An encoder that keeps embeddings keeps the lengths of captions as well, so they are asked for afterwards.
        warnings = [self._warnings(query) for query in queries]
        clock.lap("encode")
        lists = iter(rows.search(np.concatenate(vectors), depth, plans))
        pages, used, probabilities = [], [], []
        for query, own in zip(queries, vectors, strict=True):
            found = Candidates(rows, query, own, plans, list(islice(lists, len(own))), depth)
            pages.append(select(found))
            used.append(found.plans)
            probabilities.append(self._probability(found))
        clock.lap("search")
        seconds = {stage: spent / len(queries) for stage, spent in clock.seconds.items()}
        return [
            Ranked(
                query=query,
                groups=groups,
                matches=rows.total,
                plans=plan,
                find=rows.find,
                warnings=said,
                probability=probability,
                seconds=seconds,
            )
            for query, groups, plan, said, probability in zip(
                queries, pages, used, warnings, probabilities, strict=True
            )
        ]

    def _is_calibrated(self, query: Query, rows: Rows) -> bool:
        """Whether the model says what the scores of a query mean: those of images that one caption asks for."""
        if self._calibration is None or rows.find != "images":
            return False
        (terms, *more) = query.compositions
        return not more and len(terms) == 1 and terms[0].kind == "text" and terms[0].weight > 0

    def _probability(self, found: Candidates) -> ScoreProbability | None:
        if not self._is_calibrated(found.query, found.rows):
            return None
        assert self._calibration is not None, "it is calibrated"
        (ranking,) = found.lists(POOL)
        return self._calibration.for_query(ranking.scores, found.rows.total)

    def _pages(self, rankings: Sequence[Ranked]) -> list[Result]:
        """The results of rankings whose queries differ in their terms only; each index is read once for all."""
        clock = _Clock()
        joined = self._join(rankings)
        clock.lap("join")
        spent = {stage: seconds / len(rankings) for stage, seconds in clock.seconds.items()}
        return [
            Result(
                hits=in_order_of(hits, ranked.query.sort),
                plans=ranked.plans,
                find=ranked.find,
                warnings=ranked.warnings,
                seconds={**ranked.seconds, **spent},
            )
            for hits, ranked in zip(joined, rankings, strict=True)
        ]

    def _check_sort(self, query: Query) -> None:
        if query.sort is None:
            return
        name, columns = query.sort.removeprefix("-"), sortable(self.columns)
        if name not in columns:
            raise QueryError(
                f"The results cannot be ordered by {name!r}; the columns are {', '.join(columns)}.",
                hint="A minus sign before the column, as in --sort -taken, means descending order.",
            )

    def _warnings(self, query: Query) -> list[str]:
        captions = [str(term.value) for term in (*query.alternatives, *query.terms) if term.kind == "text"]
        if not captions:
            return []
        limit, counts = self.encoder.max_tokens, self.encoder.count_tokens(captions)
        return [
            f"{_name(caption, captions)} is {count} tokens long, but {self.encoder.name} reads {limit}; the last"
            f" {count - limit} are not read."
            for caption, count in zip(captions, counts, strict=True)
            if count > limit
        ]

    def _compose(self, queries: Sequence[Query]) -> list[np.ndarray]:
        """The vectors of each query, float32 ``[n, dim]``; what several have in common is embedded once."""
        terms = [term for query in queries for composition in query.compositions for term in composition]
        captions = list(dict.fromkeys(str(term.value) for term in terms if term.kind == "text"))
        embedded: dict[tuple[str, str | bytes], np.ndarray] = {}
        if captions:
            encoded = self.encoder.encode_texts(captions)
            embedded = {("text", caption): vector for caption, vector in zip(captions, encoded, strict=True)}
        for term in terms:
            if (term.kind, term.value) not in embedded:
                embedded[term.kind, term.value] = self._embedded(term)
        vectors = []
        for query in queries:
            sums = [
                _normalised(np.sum([term.weight * embedded[term.kind, term.value] for term in composition], axis=0))
                for composition in query.compositions
            ]
            vectors.append(np.stack([_normalised(np.mean(sums, axis=0))] if query.fuse == "mean" else sums))
        return vectors

    def _embedded(self, term: Term) -> np.ndarray:
        """The vector of an image, or of an indexed one."""
        if term.kind == "like":
            return self._stored(str(term.value))
        from llm2clip_search.engine.named_images import named_image

        image = term.value if isinstance(term.value, bytes) else named_image(term.value)
        vector: np.ndarray = self.encoder.encode_images([image])[0]
        return vector

    def _stored(self, name: str) -> np.ndarray:
        """The stored vector of ``ID`` or ``ID@N``, scaled to unit length."""
        identifier, _, number = name.partition("@")
        numbers = range(1, len(self.parts) + 1)
        if number and int(number) not in numbers:
            raise QueryError(f"{name} is an image of index {number}, but {len(self.parts)} are searched.")
        asked = [int(number)] if number else numbers
        holders = [each for each in asked if int(identifier) in self.parts[each - 1].snapshot]
        if not holders:
            where = f"Index {number}" if number else "The index" if len(self.parts) == 1 else "None of the indices"
            hint = f"Use an id that results show, or write ./{identifier} for a file of that name."
            has = "has an" if where.startswith("None") else "has no"
            raise QueryError(f"{where} {has} image with id {identifier}.", hint=hint)
        if len(holders) > 1:
            folders = " and ".join(f"{self.parts[each - 1].snapshot.folder} ({identifier}@{each})" for each in holders)
            raise QueryError(
                f"The id {identifier} occurs in {folders}.",
                hint=f"Write {identifier}@{holders[0]} for the image of index {holders[0]}.",
            )
        vector: np.ndarray = unit(self.parts[holders[0] - 1].snapshot.vectors([int(identifier)]))[0]
        return vector

    def _join(self, rankings: Sequence[Ranked]) -> list[list[Hit]]:
        """The hits of some rankings; each index is read once for all of them."""
        groups = [group for ranked in rankings for group in ranked.groups]
        joined = Joined(self.parts, (key for each in groups for key in (each.key, *each.duplicates)))
        return [
            [
                joined.hit(
                    group.key,
                    rank=rank,
                    score=group.score,
                    probability=None if ranked.probability is None else ranked.probability(group.score),
                    duplicates=None if ranked.query.group_duplicates is None else group.duplicates,
                )
                for rank, group in enumerate(ranked.groups, start=ranked.query.offset + 1)
            ]
            for ranked in rankings
        ]


def _name(caption: str, captions: Sequence[str]) -> str:
    """How a sentence names one of a query's captions."""
    return "The caption" if len(captions) == 1 else f"The caption {caption[:40]!r}..."


def _normalised(total: np.ndarray) -> np.ndarray:
    """A sum of vectors, float32 ``[dim]``, scaled to unit length."""
    norm = float(np.linalg.norm(total))
    if not math.isfinite(norm):
        raise QueryError("The model gave a vector that is not finite for this query.")
    if norm < 1e-6:
        raise QueryError(
            "The terms of the query cancel each other out.",
            hint="Change a weight, or drop one of the terms that are subtracted.",
        )
    scaled: np.ndarray = (total / norm).astype(np.float32)
    return scaled


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
