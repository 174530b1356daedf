"""Reads tables as an index run does."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.corpora import Item
from llm2clip_search.corpora.files import Files, LocalFiles
from llm2clip_search.corpora.named import item_of
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.table import TableContainer
from tests.support.corpus import jpeg


class ElsewhereFiles:
    """This machine's files, opened as those of another place; counts the bytes that are read."""

    is_remote = True

    def __init__(self) -> None:
        self.count = 0
        local = LocalFiles()
        self.status, self.walk, self.read, self.read_range = local.status, local.walk, local.read, local.read_range

    def open(self, uri: str) -> BinaryIO:
        files = self

        class Counted(io.FileIO):
            def readinto(self, buffer: Any) -> int:
                count = super().readinto(buffer)
                files.count += count
                return count

        return io.BufferedReader(Counted(uri))


def container(path: Path) -> Item:
    """A file of this machine as the container that a corpus lists."""
    return item_of(LocalFiles().status(str(path)), is_container=True)


def parts(path: Path, files: Files | None = None, **options: Any) -> list[Item]:
    """The items of a table."""
    return list(TableContainer().parts(files or LocalFiles(), container(path), SourceOptions(**options)))


def content(item: Item) -> bytes:
    """The bytes of an item, by its URI and version alone."""
    return TableContainer().open(LocalFiles(), Item(uri=item.uri, version=item.version))


def schema(path: Path, **options: Any) -> dict[str, pa.DataType]:
    """The types of the columns that the items of a table carry."""
    found = TableContainer().schema(LocalFiles(), container(path), SourceOptions(**options))
    assert found is not None
    return dict(zip(found.names, found.types, strict=True))


def images(count: int) -> list[bytes]:
    """The bytes of different images."""
    return [jpeg(seed) for seed in range(count)]


def write_parquet(path: Path, columns: Mapping[str, Any] | pa.Table, **options: Any) -> Path:
    """Write a Parquet file."""
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), path, **options)
    return path


def write_arrow(path: Path, table: pa.Table, *, stream: bool, rows: int = 3) -> Path:
    """Write an Arrow file or stream in batches of a few rows."""
    with pa.OSFile(str(path), "wb") as sink:
        make = pa.ipc.new_stream if stream else pa.ipc.new_file
        with make(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    return path
