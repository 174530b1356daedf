"""From what a query's vectors find to the results of a page: fuse, cut, drop copies, group, diversify.

Each step is defined on the whole ranking, so that pages continue each other. Steps that look at many rows at once
concern the first rows only, a pool that is the same for every page; after it the ranking goes on by cosine.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from llm2clip_search.encoders.calibration import ScoreProbability
from llm2clip_search.engine.candidates import Candidates
from llm2clip_search.engine.diversity import Group, diversify, group_duplicates, ungrouped
from llm2clip_search.engine.plan import SearchPlan
from llm2clip_search.engine.query import Find, Query
from llm2clip_search.engine.ranking import Ranking, continued, ranked, reciprocal_ranks


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a query found, best first, without metadata."""

    query: Query
    groups: list[Group] = field(repr=False)
    matches: int
    """Rows that meet the query's condition."""
    plans: tuple[SearchPlan, ...]
    """One per index, in their order."""
    find: Find
    """What the rows are."""
    warnings: list[str]
    """As of `results.Result`."""
    probability: ScoreProbability | None = None
    """What a score means, if the query is one caption and the model is calibrated."""
    seconds: dict[str, float]
    """By stage: plan (with the filter), encode, search; of a query in a batch, its share."""

    def __len__(self) -> int:
        return len(self.groups)

    def cut(self, offset: int, k: int | None) -> "Ranked":
        """The part after the first ``offset`` results, of ``k`` results at most."""
        groups = self.groups[offset:] if k is None else self.groups[offset : offset + k]
        return replace(self, groups=groups, query=replace(self.query, offset=self.query.offset + offset))


FUSED_POOL = 500
"""Rows of each caption's ranking that rank fusion takes into account, and the first look for duplicates."""
MOST_GROUPED = 100_000
"""Results that are looked at for duplicates and copies; a low cosine would group the whole index."""
DIVERSE_POOL = 100
"""Results that are ordered by maximal marginal relevance. Those of a larger pool are less and less relevant."""


def first_depth(query: Query) -> int:
    """How deep the first search of a query's vectors goes."""
    if _is_fused_by_rank(query):
        return FUSED_POOL
    is_thinned = query.unique or query.per_file is not None
    return max(_wanted(query) * (2 if is_thinned else 1), FUSED_POOL if query.group_duplicates is not None else 1)


def select(found: Candidates) -> list[Group]:
    """The results of a query's page, best first."""
    query = found.query
    wanted, total = _wanted(query), found.rows.total
    depth = max(first_depth(query), wanted)
    while True:
        ranking = _fused(found, depth)
        kept = ranking.above(query.threshold)
        if query.unique:
            kept = _first_of_each(kept, found.rows.contents(kept.keys), 1)
        if query.per_file is not None:
            kept = _first_of_each(kept, found.rows.files(kept.keys), query.per_file)
        if query.group_duplicates is None:
            groups = ungrouped(kept)
        else:
            groups = group_duplicates(kept, found.rows.vectors, query.group_duplicates)
        if (
            len(groups) >= wanted
            or depth >= min(total, max(wanted, MOST_GROUPED))
            or _ends_below_threshold(query, ranking, depth)
        ):
            break
        depth *= 2
    if query.diverse:
        pool, rest = groups[:DIVERSE_POOL], groups[DIVERSE_POOL:]
        vectors = found.rows.vectors(np.array([group.key for group in pool], dtype=np.int64))
        order = diversify(np.array([group.score for group in pool]), vectors)
        groups = [*(pool[place] for place in order.tolist()), *rest]
    return groups[query.offset : query.offset + query.k]


def _first_of_each(ranking: Ranking, names: Sequence[str], most: int) -> Ranking:
    """The rows of a ranking but for those that come after ``most`` of the same name; an empty name is none."""
    seen = Counter[str]()
    kept = list[int]()
    for place, name in enumerate(names):
        seen[name] += 1
        if seen[name] <= most or not name:
            kept.append(place)
    return Ranking(keys=ranking.keys[kept], scores=ranking.scores[kept])


def _wanted(query: Query) -> int:
    """Results that have to be known for the page."""
    end = query.offset + query.k
    return max(end, DIVERSE_POOL) if query.diverse else end


def _is_fused_by_rank(query: Query) -> bool:
    return query.fuse == "rank" and len(query.alternatives) > 1


def _fused(found: Candidates, depth: int) -> Ranking:
    """At least the ``depth`` best rows of a query, unless there are fewer."""
    if not _is_fused_by_rank(found.query):
        return _by_best_cosine(found, depth)
    lists = found.lists(FUSED_POOL)
    keys = np.unique(np.concatenate([ranking.keys for ranking in lists]))
    cosines = found.rows.scores(found.vectors, keys).max(axis=0)
    # Two rows at the same places of two rankings are equal; the cosine decides between them.
    order = np.lexsort((keys, -cosines, -reciprocal_ranks(lists, keys)))
    pool = Ranking(keys=keys[order], scores=cosines[order])
    return pool if len(pool) >= depth else continued(pool, _by_best_cosine(found, depth))


def _by_best_cosine(found: Candidates, depth: int) -> Ranking:
    """The ``depth`` best rows by the highest cosine with one of the query's vectors.

    The lists of all vectors hold them: a row that is not in the list of its own best vector is preceded by the
    ``depth`` rows of that list.
    """
    lists = found.lists(depth)
    if len(lists) == 1:
        return lists[0]
    keys = np.unique(np.concatenate([ranking.keys for ranking in lists]))
    return ranked(keys, found.rows.scores(found.vectors, keys).max(axis=0), depth)


def _ends_below_threshold(query: Query, ranking: Ranking, depth: int) -> bool:
    """True if no row after those of a ranking reaches the threshold."""
    if query.threshold is None or not len(ranking):
        return False
    if _is_fused_by_rank(query) and depth <= FUSED_POOL * len(query.alternatives):
        return False  # the pool is not ordered by cosine
    return bool(ranking.scores[-1] < query.threshold)
