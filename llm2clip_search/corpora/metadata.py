"""A table of metadata, looked up by the paths, file names or stems that it gives: for tens of millions of rows."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.corpora.columns import digest
from llm2clip_search.corpora.corpus import Modality
from llm2clip_search.corpora.files import files_of, unreadable
from llm2clip_search.corpora.table_columns import check_column, key_column
from llm2clip_search.corpora.table_formats import open_table
from llm2clip_search.corpora.table_values import CarriedColumn, carried_columns, carried_schema, row_columns
from llm2clip_search.errors import CorpusError

_BLOCK = 1 << 16
"""Rows that are read, and held, as one block."""
KeyRule = Literal["path", "name", "stem"]
"""How a table names items: by path or URI, by file name, or by file name without its extension."""


class MetadataTable:
    """The rows of a table by one of its columns. It holds the values as Arrow does, and 16 bytes a row besides.

    Keys are paths if any has a slash, or a ``#`` before a part; else file names, if most end as such (``.jpg``); else
    stems.
    """

    def __init__(
        self, uri: str, on: str = "", *, columns: Sequence[str] | None = None, modality: Modality = "image"
    ) -> None:
        """Read a table.

        Args:
            on: its column that names the items; empty if that is told from the names of the columns.
            columns: further columns that are wanted, if they are there; None for all.
            modality: of the items.

        Raises:
            CorpusError: it cannot be read, has no such column, or gives several rows for a key that differ.
        """
        files = files_of(uri)
        try:
            self.version = files.status(uri).version
            table = open_table(files, uri, self.version)
            on = on or key_column(table)
            check_column(uri, table.schema(), on)
            names = table.schema().names
            wanted = None if columns is None else [name for name in columns if name in names]
            self._carried: list[CarriedColumn] = carried_columns(table, used=(on,), wanted=wanted, modality=modality)
            blocks = list[pa.RecordBatch]()
            self.unreadable = 0
            for rows in table.rows([on, *(each.name for each in self._carried)], size=_BLOCK):
                keys = pa.array([_key(key) for key in rows.batch.column(on).to_pylist()], pa.string())
                values = {each.name: rows.batch.column(each.name) for each in self._carried}
                blocks.append(pa.RecordBatch.from_pydict({_KEY: keys, **values}))
                self.unreadable += len(rows.faults)
        except OSError as error:
            raise unreadable(uri, error) from error
        self.uri, self.on, self._schema = uri, on, table.schema()
        self._blocks, self._ends = blocks, np.cumsum([block.num_rows for block in blocks], dtype=np.int64)
        keys = pa.chunked_array([block.column(_KEY) for block in blocks], pa.string())
        self.rule: KeyRule = _rule(keys)
        self._hashes, self._numbers = _sorted(keys)
        self.without_key = keys.null_count - self.unreadable
        self.repeated = self._check_repeated()

    @property
    def schema(self) -> pa.Schema:
        """Types of the columns that `find` gives."""
        return carried_schema(self._carried)

    def check_column(self, name: str) -> None:
        """Raise unless the table has a column.

        Raises:
            CorpusError: the message names those that it has.
        """
        check_column(self.uri, self._schema, name)

    def find(self, candidates: Sequence[Sequence[str]]) -> list[dict[str, Any] | None]:
        """The columns of some items; None for one that no row is for.

        Args:
            candidates: what may name each item, in the order in which it is looked for.
        """
        found = np.full(len(candidates), -1, dtype=np.int64)
        for rank in range(max(map(len, candidates), default=0)):
            asked = [number for number, keys in enumerate(candidates) if found[number] < 0 and rank < len(keys)]
            found[asked] = self._find([_key(candidates[number][rank]) or "" for number in asked])
        numbers = np.flatnonzero(found >= 0)
        result: list[dict[str, Any] | None] = [None] * len(candidates)
        for number, values in zip(numbers, self._values(found[numbers]), strict=True):
            result[number] = values
        return result

    def _find(self, keys: list[str]) -> np.ndarray:
        """Row of each key; -1 for one that is not there."""
        hashes = np.fromiter(map(hash, keys), dtype=np.int64, count=len(keys))
        found = np.full(len(keys), -1, dtype=np.int64)
        places = np.searchsorted(self._hashes, hashes)
        asked = np.arange(len(keys))
        while len(asked):  # once, and again for keys that share their hash with another one
            asked = asked[places[asked] < len(self._hashes)]
            asked = asked[self._hashes[places[asked]] == hashes[asked]]
            rows = self._numbers[places[asked]]
            theirs = self._keys(rows)
            same = np.fromiter((theirs[n] == keys[key] for n, key in enumerate(asked)), dtype=bool, count=len(asked))
            found[asked[same]] = rows[same]
            asked = asked[~same]
            places[asked] += 1
        return found

    def _keys(self, numbers: np.ndarray) -> list[str]:
        found = [""] * len(numbers)
        for places, rows in self._taken(numbers, [_KEY]):
            for place, key in zip(places, rows.column(0).to_pylist(), strict=True):
                found[place] = key
        return found

    def _values(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{}] * len(numbers)
        for places, rows in self._taken(numbers, [_KEY, *(each.name for each in self._carried)]):
            for place, columns in zip(places, row_columns(self._carried, rows), strict=True):
                found[place] = columns
        return found

    def _taken(self, numbers: np.ndarray, columns: list[str]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Some rows, block by block, each with their positions among ``numbers``.

        Arrow joins all blocks of a column of texts whenever rows of several are taken at once.
        """
        blocks = np.searchsorted(self._ends, numbers, side="right")
        order = np.argsort(blocks, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1) if len(order) else ():
            block = self._blocks[blocks[places[0]]]
            start = self._ends[blocks[places[0]]] - block.num_rows
            yield places, block.select(columns).take(pa.array(numbers[places] - start))

    def _check_repeated(self) -> int:
        """Rows whose key an earlier row has, with the same values.

        Raises:
            CorpusError: the values differ.
        """
        same = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        count = 0
        for start in range(0, len(same), _BLOCK):
            places = same[start : start + _BLOCK]
            pairs = self._numbers[np.stack([places, places + 1], axis=1)]
            rows = pairs.reshape(-1)
            keys = self._keys(rows)
            values = self._values(rows)
            for number, (before, after) in enumerate(pairs):
                if keys[2 * number] != keys[2 * number + 1]:
                    continue
                first, second = values[2 * number : 2 * number + 2]
                count += 1
                if digest(first) != digest(second):
                    differ = min(name for name in first | second if repr(first.get(name)) != repr(second.get(name)))
                    raise CorpusError(
                        f"{self.uri} has several rows for {self.on} = {keys[2 * number]!r}: rows {before} and {after},"
                        f" counted from 0, differ in {differ}."
                    )
        return count


_KEY = "\0key"
"""Column of the rows' keys; no table has such a name."""


def _key(value: Any) -> str | None:
    """A value of the column that names items, as it is compared; None if there is none.

    File systems write accented letters in two ways.
    """
    text = "" if value is None else str(value).strip().removeprefix("./")
    return (text if text.isascii() else unicodedata.normalize("NFC", text)) or None


def _sorted(keys: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of keys in order, and the row of each: int64 ``[keys]``, without those that are null."""
    hashes, start = np.empty(len(keys), dtype=np.int64), 0
    for chunk in keys.chunks:
        hashes[start : start + len(chunk)] = list(map(hash, chunk.to_pylist()))
        start += len(chunk)
    present = np.flatnonzero(pc.is_valid(keys).to_numpy())
    order = present[np.argsort(hashes[present], kind="stable")]
    return hashes[order], order


def _rule(keys: pa.ChunkedArray) -> KeyRule:
    if pc.any(pc.match_substring_regex(keys, "[/#]")).as_py():
        return "path"
    names = pc.sum(pc.match_substring_regex(keys, r"\.[A-Za-z][A-Za-z0-9]{1,5}$")).as_py() or 0
    return "name" if 2 * names > len(keys) - keys.null_count else "stem"
