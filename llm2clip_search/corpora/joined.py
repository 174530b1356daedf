"""A corpus whose items get further columns from a table of metadata."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from llm2clip_search.corpora.columns import digest
from llm2clip_search.corpora.containers import container_for, container_uri
from llm2clip_search.corpora.corpus import Corpus, Item
from llm2clip_search.corpora.metadata import MetadataTable
from llm2clip_search.corpora.skipped import Skipped

if TYPE_CHECKING:
    pass

JOIN = "+"
"""In the description of an item that a table has been joined to; what describes items otherwise has no such sign."""
_ITEMS, _PARTS = 1024, 16
"""Items that are looked up together; parts may hold their bytes."""


class JoinedCorpus(Corpus):
    """A corpus with the columns of a table added to its items, in place of columns of the same name.

    A row is for the item that it names by path (relative to the corpus's folder, absolute, or as URI), by file name, or
    by stem: see `MetadataTable`. A row that names a container is for all parts that no row names.
    """

    def __init__(self, corpus: Corpus, table: str, on: str = "", *, columns: Sequence[str] | None = None) -> None:
        """Join a table, which is read at once.

        Args:
            columns: those that are wanted, of the table or of the corpus itself; None for all.

        Raises:
            CorpusError: as of `MetadataTable`.
        """
        self.corpus, self._columns = corpus, columns or ()
        self._table = MetadataTable(table, on, columns=columns, modality=corpus.modality)
        self._unmatched = 0
        folder = corpus.uri.removeprefix("stdin://")
        self._folder = str(Path(folder).parent) if "://" not in folder and Path(folder).is_file() else folder
        self.modality, self.is_partial, self.part_of = corpus.modality, corpus.is_partial, corpus.part_of
        self.exclude, self.everything, self.options = corpus.exclude, corpus.everything, corpus.options

    @property
    def uri(self) -> str:
        return self.corpus.uri

    def items(self) -> Iterator[Item]:
        self._unmatched = 0
        yield from self._joined(self._checked(), _ITEMS)

    def _checked(self) -> Iterator[Item]:
        """The items of the corpus; at their end, it is known whether anything else than the table has columns.

        Raises:
            CorpusError: a column that is wanted is not in the table, and nothing else has any.
        """
        may_have_columns = self.corpus.schema() is not None
        for item in self.corpus.items():
            if item.is_container and not may_have_columns:
                reader = container_for(item.uri)
                may_have_columns = reader is None or reader.has_columns
            yield item
        for name in () if may_have_columns else self._columns:
            self._table.check_column(name)

    def parts(self, container: Item) -> Iterator[Item]:
        own = container.version.removesuffix(self._suffix) if container.version else ""
        return self._joined(self.corpus.parts(replace(container, version=own)), _PARTS)

    def lists(self, container: str) -> bool:
        return self.corpus.lists(container)

    def schema(self, container: Item | None = None) -> pa.Schema | None:
        own = self.corpus.schema(container)
        added = self._table.schema
        return pa.schema([*(each for each in own or () if each.name not in added.names), *added])

    def own_columns(self, item: Item) -> Mapping[str, Any] | None:
        return self.corpus.own_columns(item)

    def open(self, item: Item) -> bytes:
        return self.corpus.open(item)

    def unreadable(self) -> dict[str, str]:
        return self.corpus.unreadable()

    def vacant(self) -> list[str]:
        return self.corpus.vacant()

    def mounts(self) -> list[str]:
        return self.corpus.mounts()

    def skipped(self) -> Skipped:
        table, found = self._table, self.corpus.skipped()
        notes = {
            f"items without a row in {table.uri}": self._unmatched,
            f"rows of {table.uri} without {table.on}": table.without_key,
            f"rows of {table.uri} that cannot be read": table.unreadable,
            f"rows of {table.uri} that repeat another one": table.repeated,
        }
        return replace(found, notes=found.notes + Counter(notes))

    def looked_for(self) -> str:
        return self.corpus.looked_for()

    @property
    def _suffix(self) -> str:
        """Added to the versions of containers, which have to be opened again when the table has changed."""
        return f"+{self._table.version}"

    def _joined(self, items: Iterable[Item], size: int) -> Iterator[Item]:
        block = list[Item]()
        try:
            for item in items:
                block.append(item)
                if len(block) == size:
                    yield from self._with_columns(block)
                    block = []
        except Exception:
            yield from self._with_columns(block)  # what was listed before an error counts
            raise
        yield from self._with_columns(block)

    def _with_columns(self, items: list[Item]) -> Iterator[Item]:
        found = self._table.find([self._names(item.uri) for item in items])
        for item, columns in zip(items, found, strict=True):
            if item.is_container:
                yield replace(item, version=item.version and f"{item.version}{self._suffix}")
                continue
            self._unmatched += columns is None
            merged = {**item.columns, **(columns or {})}
            yield replace(item, columns=merged, described=f"{item.described}{JOIN}{digest(columns or {})}")

    def _names(self, uri: str) -> list[str]:
        """What may name an item in the table."""
        file, part = container_uri(uri)
        if self._table.rule != "path":
            names = [PurePosixPath(each) for each in (part, file) if each]
            return [each.name if self._table.rule == "name" else each.stem for each in names]
        files = self._paths(file)
        return [*(f"{each}#{part}" for each in files), part, *files] if part else files

    def _paths(self, uri: str) -> list[str]:
        if "://" in uri:
            prefix = f"{self._folder.rstrip('/')}/"
            return [uri, uri.removeprefix(prefix)] if uri.startswith(prefix) else [uri]
        paths: Any = [os.path.relpath(uri, self._folder), os.path.abspath(uri), uri]  # noqa: PTH100
        return list(dict.fromkeys(paths))
