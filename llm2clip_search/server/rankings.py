"""Rankings that pages are cut from, so that the next page costs no search."""

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm2clip_search.engine import Query, Ranked, Searcher

REACH = 100_000
"""Results that paging can reach."""
DEPTHS = (300, 3_000, 30_000, REACH)
"""How many results are ranked: the first of these that the page lies within."""
HELD = 400_000
"""Results of all rankings that are kept: some 60 MB."""


class Rankings:
    """The rankings of one searcher that were asked for last; any number of threads may use it."""

    def __init__(self) -> None:
        self._held: OrderedDict[Query, Ranked] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def reaching(self, query: "Query", searcher: "Searcher", *, end: int) -> "Ranked":
        """A ranking of a query in which the first ``end`` results can be found, if there are as many.

        Args:
            query: its ``k`` and ``offset`` do not count.
        """
        from dataclasses import replace

        depth = next((each for each in DEPTHS if each >= end), REACH)
        key = replace(query, k=REACH, offset=0)
        with self._lock:
            if (held := self._held.get(key)) is not None:
                self._held.move_to_end(key)
                if is_whole(held) or len(held) >= end:
                    return held
        ranked = searcher.rank(replace(query, k=depth, offset=0))
        with self._lock:
            if (replaced := self._held.pop(key, None)) is not None:
                self._size -= _size(replaced)
            self._held[key] = ranked
            self._size += _size(ranked)
            while self._size > HELD and len(self._held) > 1:
                _, oldest = self._held.popitem(last=False)
                self._size -= _size(oldest)
        return ranked


def _size(ranked: "Ranked") -> int:
    """What a ranking takes, in results; ids of chosen rows are part of its query."""
    chosen = ranked.query.among
    return len(ranked) + (sum(map(len, chosen)) // 16 if chosen is not None else 0)


def is_whole(ranked: "Ranked") -> bool:
    """True if nothing comes after a ranking."""
    return len(ranked) < ranked.query.k or ranked.query.k >= REACH
