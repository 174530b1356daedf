"""Rankings that pages are cut from, so that the next page costs no search."""

import hashlib
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm2clip_search.engine import Query, Ranked, Searcher, Term

REACH = 100_000
"""Results that paging can reach."""
DEPTHS = (300, 3_000, 30_000, REACH)
"""How many results are ranked: the first of these that the page lies within."""
HELD = 400_000
"""Results of all rankings that are kept: some 60 MB."""
_RESULT_BYTES = 150
_OWN = 10
"""What a ranking takes besides its results, its terms and its chosen rows, in results."""


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

        Returns:
            One whose query names the content of images by a digest, and has other ``k`` and ``offset``.
        """
        from dataclasses import replace

        depth = next((each for each in DEPTHS if each >= end), REACH)
        named = tuple(_named(term) for term in query.terms)
        key = replace(query, terms=named, k=REACH, offset=0)
        with self._lock:
            if (held := self._held.get(key)) is not None:
                self._held.move_to_end(key)
                if is_whole(held) or len(held) >= end:
                    return held
        ranked = searcher.rank(replace(query, k=depth, offset=0))
        ranked = replace(ranked, query=replace(ranked.query, terms=named))
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
    """What a ranking takes, in results; its query's terms and condition and the ids of chosen rows are part of it."""
    query = ranked.query
    texts = sum(len(term.value) for term in query.terms) + len(query.where or "")
    chosen = sum(map(len, query.among)) if query.among is not None else 0
    duplicates = sum(len(group.duplicates) for group in ranked.groups)
    return _OWN + len(ranked) + duplicates + texts // _RESULT_BYTES + chosen // 16


def _named(term: "Term") -> "Term":
    """A term that takes little memory: the content of an image, which may be 300 MB, is named by its digest."""
    from dataclasses import replace

    if isinstance(term.value, str):
        return term
    return replace(term, value=hashlib.blake2b(term.value, digest_size=16).digest())


def is_whole(ranked: "Ranked") -> bool:
    """True if nothing comes after a ranking."""
    return len(ranked) < ranked.query.k or ranked.query.k >= REACH
