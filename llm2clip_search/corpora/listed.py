"""Lists of paths and URLs: a table, or lines of text, that names the images to index."""

import io
import os
import shutil
import stat
import tempfile
from array import array
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pyarrow as pa

from llm2clip_search.corpora.addresses import public_uri, withhold
from llm2clip_search.corpora.columns import digest
from llm2clip_search.corpora.container import Container
from llm2clip_search.corpora.containers import container_for, open_item
from llm2clip_search.corpora.corpus import Corpus, Item
from llm2clip_search.corpora.files import beside, file_status, files_of, unreadable
from llm2clip_search.corpora.named import item_of
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.skipped import Skipped
from llm2clip_search.corpora.table_columns import place_column
from llm2clip_search.corpora.table_files import TableFile
from llm2clip_search.corpora.table_formats import TABLE_SUFFIXES, open_table
from llm2clip_search.corpora.table_values import CarriedColumn, carried_columns, carried_schema, row_columns
from llm2clip_search.errors import CorpusError

URL_VERSION = "url"
"""The version of what has an address: it is not fetched again while the list names it."""
_HELD = 16 << 20
"""Bytes of standard input that are held in memory; what is more goes to a temporary file."""
_READ = 1 << 20
_LONGEST = 1 << 20
"""Bytes of a path or URL of a list that is text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A row of a list."""

    place: str | None
    """Path or URL; None if it names nothing."""
    fault: str = ""
    columns: dict[str, Any] = field(default_factory=dict)


class ListCorpus(Corpus):
    """Images that a list names; the further columns of a table go along.

    Paths are relative to the folder of the list. What is named twice is one item, with the columns of its first row.
    Lines are UTF-8, or UTF-16 with a byte-order mark; space around a line counts only if a file has that name.
    """

    def __init__(
        self,
        source: str,
        *,
        options: SourceOptions = SourceOptions(kind="list"),
        stream: BinaryIO | None = None,
    ) -> None:
        """A list that is read when `items` is called.

        Args:
            source: path or URL of a table, or of a file of lines; for a stream, the folder that its paths are relative
                to.
            stream: lines to read instead of a file. They may be some of what was indexed before, so what they do not
                name stays in the index.
        """
        self._source, self._options = source, options
        self._separator = b"\0" if options.null_separated else b"\n"
        self._stream, self._spooled = stream, None if stream is None else tempfile.SpooledTemporaryFile(_HELD)  # noqa: SIM115
        self.is_partial = stream is not None
        self.modality, self.options = options.modality, options.to_dict()
        self._repeated = 0

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process reads items, but lists none: a stream cannot be read twice."""
        return {**vars(self), "_stream": None if self._stream is None else io.BytesIO(), "_spooled": None}

    @property
    def uri(self) -> str:
        return self._source if self._stream is None else f"stdin://{self._source}"

    def items(self) -> Iterator[Item]:
        first = self._first_of_each()
        self._repeated = int((~first).sum())
        for number, row in enumerate(self._rows()):
            if first[number]:
                yield self._item(number, row)

    def parts(self, container: Item) -> Iterator[Item]:
        reader = self._reader(container.uri)
        assert reader is not None, "only containers have parts"
        withhold(container.address or container.uri)
        for part in reader.parts(files_of(container.uri, self._options), container, self._options):
            columns = {**container.columns, **part.columns}
            yield replace(part, columns=columns, described=digest(columns))

    def lists(self, container: str) -> bool:
        return self._reader(container) is not None

    def schema(self, container: Item | None = None) -> pa.Schema | None:
        if container is not None:
            reader = self._reader(container.uri)
            return (
                None
                if reader is None
                else reader.schema(files_of(container.uri, self._options), container, self._options)
            )
        if self._stream is not None or not _is_table(self._source):
            return None
        return carried_schema(self._table()[2])

    def open(self, item: Item) -> bytes:
        withhold(item.address or item.uri)
        return open_item(item, files_of(item.uri, self._options), options=self._options)

    def skipped(self) -> Skipped:
        found = Skipped()
        if self._repeated:
            found.notes["rows that name an image again"] = self._repeated
        return found

    def looked_for(self) -> str:
        return "paths and URLs"

    def _first_of_each(self) -> np.ndarray:
        """Which rows name something that no earlier row names: bool ``[rows]``. Holds 8 bytes for each row."""
        keys = array(
            "q",
            (hash(public_uri(self._place(row.place))) if row.place else -number for number, row in self._numbered()),
        )
        hashes = np.frombuffer(keys, dtype=np.int64)
        first = np.zeros(len(hashes), dtype=bool)
        first[np.unique(hashes, return_index=True)[1]] = True
        return first

    def _numbered(self) -> Iterator[tuple[int, _Row]]:
        return enumerate(self._rows(with_columns=False), 1)

    def _rows(self, *, with_columns: bool = True) -> Iterator[_Row]:
        if self._stream is None and _is_table(self._source):
            yield from self._table_rows(with_columns=with_columns)
        else:
            yield from self._lines()

    def _table(self) -> tuple[TableFile, str, list[CarriedColumn]]:
        """The table, its column with paths or URLs, and the columns that go along."""
        files = files_of(self._source, self._options)
        try:
            table = open_table(files, self._source, files.status(self._source).version)
            column, names = place_column(table, self._options.image), table.schema().names
        except OSError as error:
            raise unreadable(self._source, error) from error
        if column is None:
            has = f"it has {', '.join(names)}" if names else "it has no columns"
            raise CorpusError(
                f"No column of {self._source} holds paths or URLs of images; {has}.",
                hint="Name it with --image.",
            )
        wanted, joined = self._options.columns, self._options.metadata
        carried = carried_columns(table, used=(column,), wanted=wanted, modality=self.modality, joined=joined)
        return table, column, carried

    def _table_rows(self, *, with_columns: bool) -> Iterator[_Row]:
        table, column, carried = self._table()
        carried = carried if with_columns else []
        for rows in table.rows([column, *(each.name for each in carried)]):
            places = rows.batch.column(column).to_pylist()
            for number, (place, columns) in enumerate(zip(places, row_columns(carried, rows.batch), strict=True)):
                fault = rows.faults.get(rows.first + number, "")
                yield _Row(place=None if place is None else str(place).strip(), fault=fault, columns=columns)

    def _lines(self) -> Iterator[_Row]:
        rest = b""
        with self._opened() as file:
            for block in self._blocks(file):
                *lines, rest = (rest + block).split(self._separator)
                yield from self._of_lines(lines)
                if len(rest) > _LONGEST:
                    raise CorpusError(f"{self._source} is not a list: it has a line of more than {_LONGEST:,} bytes.")
        yield from self._of_lines([rest])

    def _blocks(self, file: Any) -> Iterator[bytes]:
        """What a file of lines holds; UTF-16, which ``>`` of Windows PowerShell writes, as UTF-8."""
        block = file.read(_READ)
        is_utf16 = self._separator == b"\n" and block.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
        decoder = getincrementaldecoder("utf-16")("replace") if is_utf16 else None
        while block:
            yield block if decoder is None else decoder.decode(block).encode()
            block = file.read(_READ)

    def _of_lines(self, lines: list[bytes]) -> Iterator[_Row]:
        for line in lines:
            name = line.rstrip(b"\r") if self._separator == b"\n" else line
            if name.strip():
                place = os.fsdecode(name.removeprefix(b"\xef\xbb\xbf"))
                yield _Row(place=self._trimmed(place) if self._separator == b"\n" else place)

    def _trimmed(self, name: str) -> str:
        """A line without the space around it, unless a path of exactly that name is there."""
        stripped = name.strip()
        is_literal = name != stripped and "://" not in name and os.path.lexists(self._place(name))
        return name if is_literal else stripped

    def _opened(self) -> Any:
        if self._spooled is None or self._stream is None:
            try:
                return files_of(self._source, self._options).open(self._source)
            except OSError as error:
                raise unreadable(self._source, error) from error
        shutil.copyfileobj(self._stream, self._spooled)  # at its end already when the list is read again
        self._spooled.seek(0)
        return _Kept(self._spooled)

    def _place(self, name: str) -> str:
        """Path or URL that a row names."""
        if name.startswith("file://"):
            return url2pathname(urlsplit(name).path)
        if self._stream is not None:
            return os.path.normpath(Path(self._source, name)) if "://" not in name else name
        return beside(self._source, name)

    def _item(self, number: int, row: _Row) -> Item:
        # A list without columns says nothing of its images, and takes nothing away that another source has said.
        described = digest(row.columns) if row.columns else ""
        if not row.place:
            fault = f"the row {row.fault}" if row.fault else "the row names no image"
            return Item(uri=f"{self._source}#row={number}", fault=fault, columns=row.columns, described=described)
        place = self._place(row.place)
        uri = public_uri(place)
        item = _item_at(uri, row.columns, described, is_container=self._reader(uri) is not None)
        return item if place == uri else replace(item, address=place)

    def _reader(self, uri: str) -> Container | None:
        reader = container_for(uri)
        return reader if reader is not None and self.modality in reader.modalities and not reader.extra else None


def _item_at(uri: str, columns: dict[str, Any], described: str, *, is_container: bool) -> Item:
    if "://" in uri:
        return Item(uri=uri, version=URL_VERSION, is_container=is_container, columns=columns, described=described)
    fault = ""
    try:
        status = os.stat(uri)  # noqa: PTH116 - a string in, a million times
        if not stat.S_ISDIR(status.st_mode):
            item = item_of(file_status(uri, status), is_container=is_container)
            return replace(item, columns=columns, described=described)
        fault = "a folder, not a file"
    except (OSError, ValueError) as error:
        # Of a folder that is not there, such as an unmounted disk, nothing is known: `open` fails, and a row stays.
        if os.path.isdir(os.path.dirname(uri) or os.curdir):  # noqa: PTH112, PTH120
            fault = str(getattr(error, "strerror", None) or error)
    return Item(uri=uri, fault=fault, columns=columns, described=described)


def _is_table(uri: str) -> bool:
    return uri.casefold().endswith(tuple(TABLE_SUFFIXES))


class _Kept:
    """A file that stays open behind a ``with``."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> Any:
        return self._file

    def __exit__(self, *error: object) -> None:
        return
