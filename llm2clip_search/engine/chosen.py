"""Rows that were chosen one by one, such as by drawing around points of a map, as a value of a query."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np

from llm2clip_search.errors import QueryError


class Chosen:
    """Ids of rows of each index. Equal, and with the same hash, if and only if the ids are the same."""

    def __init__(self, ids: Sequence[np.ndarray | Sequence[int]]) -> None:
        """``ids`` are those of each index, in any order; ids of no live row do not count.

        Raises:
            QueryError: something that is not a list of whole numbers for each index.
        """
        self._ids = tuple(_ascending(each) for each in ids)
        digest = blake2b(digest_size=16)
        for each in self._ids:
            digest.update(len(each).to_bytes(8, "little") + each.tobytes())
        self._digest = digest.digest()

    def __len__(self) -> int:
        """How many indices they are of."""
        return len(self._ids)

    def __getitem__(self, number: int) -> np.ndarray:
        """Ids in the index of this number, int64 ascending, each once; read-only."""
        return self._ids[number]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chosen) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Chosen({' + '.join(f'{len(each):,}' for each in self._ids)} rows)"


ChosenRows: TypeAlias = Chosen | Sequence[np.ndarray | Sequence[int]]
"""What ``among`` may be: ids of the rows that count, a list for each index."""


def as_chosen(given: ChosenRows | None) -> Chosen | None:
    """As a value; errors as of `Chosen`."""
    return given if given is None or isinstance(given, Chosen) else Chosen(given)


def _ascending(given: np.ndarray | Sequence[int]) -> np.ndarray:
    try:
        found = np.asarray(given)
    except ValueError:  # lists of different lengths
        found = np.empty((0, 0))
    if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
        raise QueryError("Chosen rows are a list of ids for each index; an id is a whole number.")
    if found.size and found.dtype == np.uint64 and int(found.max()) > np.iinfo(np.int64).max:
        raise QueryError(f"{found.max()} is not the id of a row.")
    ids = found.astype(np.int64)
    if not bool((ids[1:] > ids[:-1]).all()):
        ids = np.unique(ids)
    ids.flags.writeable = False
    return ids
