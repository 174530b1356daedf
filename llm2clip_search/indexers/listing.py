"""Listing what a run reads: items that are new or changed, and those of containers that have to be opened."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from llm2clip_search.corpora import Corpus, Item
from llm2clip_search.corpora.corpus import Modality
from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.corpora.passages import Passages, cut_item
from llm2clip_search.errors import ImageError, first_line
from llm2clip_search.indexers.known import Completed, KnownRows


@dataclass
class Judge:
    """Tells what need not be read, by what an index knows, and marks the rows of what is there."""

    stored: Callable[[str], str]
    """Paths and URIs as the index writes them, see `Snapshot.stored`."""
    known: KnownRows
    completed: Completed
    modality: Modality
    sees_sidecars: bool = False
    """As of the corpus."""
    sees_tables: bool = False
    """A table was joined to the corpus, and is not any more."""
    rehash: bool = False
    """Everything is read, whatever its version says."""
    manner: str = ""
    """Mark of the options that say how containers are read; empty for the usual way."""
    _names: dict[str, list[str]] = field(default_factory=dict)
    """Names with a ``#`` by their folder, of folders in which a container has changed."""

    def version(self, container: Item) -> str:
        """The version of a container as it is read: with other options, it is another one."""
        return container.version and container.version + self.manner

    def unchanged(self, item: Item) -> np.ndarray | None:
        """Positions of the rows of an item or container that need not be read; None if it has to be."""
        path, known, completed = self.stored(item.uri), self.known, self.completed
        if item.is_container:
            position = completed.find(path, self.modality)
            rows = self._rows_of_parts(path, item, position)
            if self.rehash or not self._is_complete(position, item, rows):
                known.awaited[rows] = True  # which parts there are is known when they have been listed
                return None
            completed.mark(position)
            known.present[rows] = True
            return rows
        row = known.find(path)
        if row < 0:
            return None
        known.present[row] = True
        is_same = not self.rehash and known.is_unchanged(row, item) and self.is_described(row, item)
        return np.array([row]) if is_same else None

    def _is_complete(self, position: int, item: Item, rows: np.ndarray) -> bool:
        return position >= 0 and self.completed.is_unchanged(position, self.version(item), len(rows))

    def _rows_of_parts(self, path: str, item: Item, position: int) -> np.ndarray:
        """Positions of the rows of a container's parts, without files whose names look like parts of it."""
        rows = self.known.parts_of(path, self.modality)
        if not len(rows) or "://" in item.uri or self._is_complete(position, item, rows):
            return rows
        for file in self._like_parts(item.uri):
            if (row := self.known.find(self.stored(file))) >= 0:
                self.known.are_files[row] = True
        return self.known.parts_of(path, self.modality)

    def _like_parts(self, uri: str) -> Iterator[str]:
        """Files of this machine whose paths begin with that of a container and a ``#``."""
        folder, name = os.path.split(uri)
        if folder not in self._names:  # which may hold thousands of documents
            try:
                self._names[folder] = [each for each in os.listdir(folder or os.curdir) if "#" in each]  # noqa: PTH208
            except OSError:
                self._names[folder] = []
        for each in self._names[folder]:
            if each.startswith(f"{name}#"):
                path = os.path.join(folder, each)  # noqa: PTH118
                yield path
                for root, _, files in os.walk(path):
                    yield from (os.path.join(root, file) for file in files)  # noqa: PTH118

    def redescribed(self, item: Item) -> int | None:
        """Position of the row of an item of which only the columns have changed; None for any other item."""
        row = self.known.find(self.stored(item.uri))
        is_same = row >= 0 and not self.rehash and self.known.is_unchanged(row, item)
        return row if is_same and not self.is_described(row, item) else None

    def is_described(self, row: int, item: Item) -> bool:
        """True if a row has the columns that the corpus has for its item, or the corpus has none."""
        return self.known.is_described(row, item, sees_sidecars=self.sees_sidecars, sees_tables=self.sees_tables)


def items_to_read(
    corpus: Corpus,
    items: Iterable[Item],
    judge: Judge,
    *,
    learn: Callable[[pa.Schema | None], None],
    passages: Passages | None = None,
) -> Iterator[Item | Decoded]:
    """Items to read, those of containers in place of these.

    Args:
        passages: cuts the texts of containers; None for images.
        learn: called with the types of the columns that the parts of a container bring along, before the first.

    Yields:
        Items; and as results, because nothing of them is read: those of which only columns have changed, and each
        container behind its last item, with the error if it could not be listed to its end.
    """
    for item in items:
        if not item.is_container:
            yield _judged(item, judge, corpus)
            continue
        end = Decoded(item=item)
        try:
            learn(corpus.schema(item))
            for part in _passages_of(corpus.parts(item), corpus, passages):
                end.parts += 1
                if judge.unchanged(part) is not None:
                    end.unchanged += 1
                else:
                    yield _judged(part, judge, corpus)
        except ImageError as error:
            end.error = error
        except MemoryError:
            end.error = ImageError("reading it takes more memory than there is", stage="read")
        except Exception as error:  # no file may end a run
            reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
            end.error = ImageError(f"{reason}".removeprefix(f"{item.uri} "), stage="read")  # failures have their path
        yield end


def _passages_of(parts: Iterable[Item], corpus: Corpus, passages: Passages | None) -> Iterator[Item]:
    """The parts of a container, texts that are too long in passages."""
    for part in parts:
        if passages is None or part.fault:
            yield part
            continue
        try:
            data = corpus.open(part) if part.data is None else part.data
        except (OSError, ImageError) as error:
            yield replace(part, fault=getattr(error, "strerror", None) or str(error))
        else:
            yield from cut_item(replace(part, data=data), passages)


def _judged(item: Item, judge: Judge, corpus: Corpus) -> Item | Decoded:
    row = judge.redescribed(item)
    if row is None:
        return item
    # A row without columns of its source has those of its file.
    own = corpus.own_columns(item) if judge.known.has_columns(row) else {}
    return Decoded(item=item, redescribed=row, own=own)
