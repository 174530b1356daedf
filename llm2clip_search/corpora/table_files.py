"""Rows of Parquet and Arrow files as Arrow batches, a few at a time, whatever is in the columns."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.base.files import open_regular
from llm2clip_search.corpora.files import Files, LocalFiles
from llm2clip_search.errors import CorpusError, first_line

PARQUET_SUFFIXES = (".parquet", ".pq")
ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
_PAGES = 1 << 20
"""Bytes of a column chunk that are read at a time. Without this, pyarrow reads whole chunks: a row group of images can
be several gigabytes."""
LONGEST_CELL = 1 << 28
"""Characters of a cell of a text file, and bytes from which a row group of a Parquet file may be a bomb: one cell can
be as large as its row group."""
_BOMB = 100
"""How many times as large as its file a row group of that size is, if it was made to fill memory. Images are compressed
already, and texts become five times smaller."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some consecutive rows of a table."""

    first: int
    """Number of the first one, from 0 over the whole file."""
    batch: pa.RecordBatch
    faults: Mapping[int, str] = field(default_factory=dict)
    """Why a row cannot be read, by its number; in `batch` it is null."""


@dataclass(frozen=True)
class TableFile(ABC):
    """A file of rows, opened anew whenever it is read. Two are equal if they are the same version of a file."""

    files: Files = field(compare=False, repr=False)
    uri: str
    version: str = ""

    def schema(self) -> pa.Schema:
        """Columns with distinct names and plain types: no dictionaries, no extension types. Read once.

        Raises:
            OSError: it cannot be read.
            CorpusError: it is damaged, encrypted, or not such a file.
        """
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        return self.read_schema()

    @abstractmethod
    def read_schema(self) -> pa.Schema:
        """As `schema`, from the file."""

    @abstractmethod
    def rows(self, columns: Sequence[str], *, first: int = 0, size: int = 1024) -> Iterator[Rows]:
        """Rows from number ``first``, at most ``size`` at a time, with some columns of `schema`, in its order.

        Raises:
            OSError, CorpusError: as of `schema`; the rows before the damage were yielded.
        """


class ParquetFile(TableFile):
    """A Parquet file. Its footer says which row group holds a row, so those before are not read."""

    def read_schema(self) -> pa.Schema:
        with readable(self.uri), opened(self) as source:
            return plain_schema(pq.ParquetFile(source).schema_arrow)

    def rows(self, columns: Sequence[str], *, first: int = 0, size: int = 1024) -> Iterator[Rows]:
        with readable(self.uri), opened(self) as source:
            file = pq.ParquetFile(source, buffer_size=_PAGES, pre_buffer=False, page_checksum_verification=True)
            groups, start = list[int](), 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if start + count <= first and not groups:
                    start += count
                else:
                    groups.append(group)
            wanted, leaves, leaf, asked = list[str](), list[int](), 0, frozenset(columns)
            schema = file.schema_arrow
            for name, each in zip(distinct(schema.names), schema, strict=True):
                count = _leaves(each.type)
                if name in asked:
                    wanted.append(name)
                    leaves += range(leaf, leaf + count)
                leaf += count
            self._check_sizes(file.metadata, groups, source.size())
            if wanted:  # by number, because names may be equal, and pyarrow takes one with a dot for two
                batches = file.reader.iter_batches(size, row_groups=groups, column_indices=leaves, use_threads=False)
                yield from _cut(batches, start, wanted, columns, first=first, size=size)
            else:  # pyarrow counts no rows of no columns
                for row in range(max(start, first), file.metadata.num_rows, size):
                    yield Rows(first=row, batch=batch_of({}, min(size, file.metadata.num_rows - row)))

    def _check_sizes(self, metadata: Any, groups: Sequence[int], packed: int) -> None:
        # Of row groups, because pyarrow ends the process when the sizes of an encrypted column are asked for.
        unpacked = max((metadata.row_group(group).total_byte_size for group in groups), default=0)
        if unpacked > max(LONGEST_CELL, _BOMB * packed):
            raise CorpusError(
                f"{self.uri} cannot be read as a table: its {packed:,} bytes unpack to {unpacked:,} and more.",
                hint="If these values are meant, write them in smaller row groups.",
            )


def _leaves(kind: pa.DataType) -> int:
    """Columns of a Parquet file that a column of some type is stored in."""
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type)
    return sum(_leaves(kind.field(number).type) for number in range(kind.num_fields)) if kind.num_fields else 1


class ArrowFile(TableFile):
    """An Arrow file with a footer (Feather 2 is the same), or a stream without one, as `datasets` writes them.

    A file of this machine is mapped, so that of a large record batch only what is used is read.
    """

    def read_schema(self) -> pa.Schema:
        with readable(self.uri), opened(self, mapped=True) as source:
            return plain_schema(self._reader(source).schema)

    def rows(self, columns: Sequence[str], *, first: int = 0, size: int = 1024) -> Iterator[Rows]:
        with readable(self.uri), opened(self, mapped=True) as source:
            reader = self._reader(source)
            names = distinct(reader.schema.names)
            if columns and not isinstance(source, pa.MemoryMappedFile):  # where nothing is copied, this would copy
                asked = frozenset(columns)
                wanted = [number for number, name in enumerate(names) if name in asked]
                names = [names[number] for number in wanted]
                reader = self._reader(source, pa.ipc.IpcReadOptions(included_fields=wanted))
            batches = reader if isinstance(reader, pa.RecordBatchReader) else _record_batches(reader)
            yield from _cut(batches, 0, names, columns, first=first, size=size)

    def _reader(self, source: Any, options: Any = None) -> Any:
        source.seek(0)
        magic = source.read(6)
        source.seek(0)
        if magic[:4] == b"FEA1":
            raise CorpusError(f"{self.uri} is a Feather file of version 1, which no longer is read; write it again.")
        if magic == b"ARROW1":
            return pa.ipc.open_file(source, options=options)
        return pa.ipc.open_stream(source, options=options)


def _record_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    return (reader.get_batch(number) for number in range(reader.num_record_batches))


def _cut(
    batches: Iterator[pa.RecordBatch],
    start: int,
    names: Sequence[str],
    columns: Sequence[str],
    *,
    first: int,
    size: int,
) -> Iterator[Rows]:
    """Batches from row ``start``, with columns of the given names, as `TableFile.rows` yields them."""
    wanted = frozenset(columns)
    for batch in batches:
        end = start + batch.num_rows
        arrays = {name: batch.column(number) for number, name in enumerate(names) if name in wanted}
        for row in range(max(start, first), end, size):
            some = {name: plain_array(array.slice(row - start, size)) for name, array in arrays.items()}
            yield Rows(first=row, batch=batch_of(some, min(size, end - row)))
        start = end


def batch_of(columns: Mapping[str, pa.Array], rows: int) -> pa.RecordBatch:
    """Columns as a batch, which has its number of rows without any column too."""
    if columns:
        return pa.RecordBatch.from_pydict(dict(columns))
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))


def distinct(names: Sequence[str]) -> list[str]:
    """Names of columns; one that is there already gets a number: ``a``, ``a_2``. pandas writes one without a name."""
    found: dict[str, None] = {}
    numbers: dict[str, int] = {}
    """The next number that a name may get: trying all from 2 on takes minutes for 20,000 equal ones."""
    for name in names:
        new = name or "unnamed"
        while new in found:
            number = numbers[name] = numbers.get(name, 1) + 1
            new = f"{name or 'unnamed'}_{number}"
        found[new] = None
    return list(found)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """A column's type without its dictionary or extension."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    return plain_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def plain_array(array: pa.Array) -> pa.Array:
    """A column without its dictionary or extension."""
    while True:
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        else:
            return array


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """A schema of distinct names and plain types; the metadata stays."""
    fields = [pa.field(name, plain_type(each.type)) for name, each in zip(distinct(schema.names), schema, strict=True)]
    return pa.schema(fields, metadata=schema.metadata)


@contextmanager
def opened(table: TableFile, *, mapped: bool = False) -> Iterator[Any]:
    """A table's file as Arrow reads it."""
    if not isinstance(table.files, LocalFiles):
        with table.files.open(table.uri) as stream, pa.PythonFile(stream, "r") as file:
            yield file
    else:
        open_regular(table.uri).close()  # Arrow would wait for the writer of a pipe
        with pa.memory_map(table.uri) if mapped else pa.OSFile(table.uri) as file:
            yield file


@contextmanager
def readable(uri: str) -> Iterator[None]:
    """Turn what readers raise about the content of a file into one sentence; errors of the system pass."""
    try:
        yield
    except CorpusError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise CorpusError(f"{uri} cannot be read as a table: {first_line(error)}.") from error
    except MemoryError as error:
        raise CorpusError(f"{uri} cannot be read as a table: it takes more memory than there is.") from error
    except (pa.ArrowException, ValueError, EOFError, NotImplementedError) as error:
        raise CorpusError(f"{uri} cannot be read as a table: {first_line(error)}.") from error
