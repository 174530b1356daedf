"""Rows of indices with their metadata, as hits."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.engine.candidates import Part
from llm2clip_search.engine.ranking import distinct, parts_and_ids
from llm2clip_search.engine.results import NOT_METADATA, Duplicate, Hit, Listed


class _Row(NamedTuple):
    uri: str
    folder: str | None
    columns: dict[str, Any]
    options: SourceOptions


_USUAL = SourceOptions()


class Joined:
    """The metadata of some rows; each index is read once for all of them."""

    def __init__(self, parts: Sequence[Part], keys: Iterable[int]) -> None:
        """``keys`` name the rows, see `ranking.keys_of`."""
        wanted = np.array(sorted({*keys}), dtype=np.int64)
        numbers, ids = parts_and_ids(wanted)
        self._rows: dict[int, _Row] = {}
        for number in distinct(numbers):
            snapshot, of_it = parts[number].snapshot, numbers == number
            folder = str(snapshot.folder) if len(parts) > 1 else None
            options = {
                (each.uri, each.modality): SourceOptions.from_dict(each.options)
                for each in snapshot.manifest.sources
                if each.options
            }
            for key, row in zip(wanted[of_it].tolist(), snapshot.rows(ids[of_it].tolist()), strict=True):
                read_as = options.get((row["corpus"], row["modality"] or "image"), _USUAL)
                self._rows[key] = _Row(snapshot.located(row["path"]), folder, row, read_as)

    def hit(
        self, key: int, *, rank: int, score: float, probability: float | None, duplicates: Sequence[int] | None
    ) -> Hit:
        """A row as a hit; ``duplicates`` are rows that are grouped under it, None if none are looked for."""
        same = None if duplicates is None else tuple(map(self._duplicate, duplicates))
        shown = max(-1.0, min(1.0, score))
        return Hit(**self._fields(key), rank=rank, score=shown, probability=probability, duplicates=same)

    def listed(self, key: int, *, rank: int) -> Listed:
        """A row that was not searched for."""
        return Listed(**self._fields(key), rank=rank)

    def _fields(self, key: int) -> dict[str, Any]:
        uri, folder, columns, options = self._rows[key]
        return {
            "id": columns["id"],
            "uri": uri,
            "options": options,
            "metadata": {name: value for name, value in columns.items() if name not in NOT_METADATA},
            "version": columns.get("version") or "",
            "index": folder,
        }

    def _duplicate(self, key: int) -> Duplicate:
        uri, folder, columns, _ = self._rows[key]
        return Duplicate(id=columns["id"], uri=uri, index=folder)
