"""Formats of tables, told by the names of their files."""

from collections.abc import Callable
from functools import lru_cache

from llm2clip_search.corpora.files import Files, files_of
from llm2clip_search.corpora.table_files import ARROW_SUFFIXES, PARQUET_SUFFIXES, ArrowFile, ParquetFile, TableFile
from llm2clip_search.corpora.table_texts import CSV_SUFFIXES, JSON_SUFFIXES, CsvFile, JsonFile
from llm2clip_search.errors import CorpusError

_TEXTS: dict[Callable[[Files, str, str], TableFile], tuple[str, ...]] = {CsvFile: CSV_SUFFIXES, JsonFile: JSON_SUFFIXES}
_FORMATS: dict[Callable[[Files, str, str], TableFile], tuple[str, ...]] = {
    ParquetFile: PARQUET_SUFFIXES,
    ArrowFile: ARROW_SUFFIXES,
    **{reader: (*suffixes, *(f"{suffix}.gz" for suffix in suffixes)) for reader, suffixes in _TEXTS.items()},
}
TABLE_SUFFIXES = frozenset(suffix for suffixes in _FORMATS.values() for suffix in suffixes)
"""Lower-case ends of the names of tables."""


def open_table(files: Files, uri: str, version: str = "") -> TableFile:
    """A table by the end of its name; nothing is read yet.

    Args:
        version: of the file, as `FileStatus.version`; with it, what was learned of a CSV file's types is remembered.

    Raises:
        CorpusError: no such format.
    """
    name = uri.casefold()
    for reader, suffixes in _FORMATS.items():
        if name.endswith(suffixes):
            return reader(files, uri, version)
    known = ", ".join(sorted(suffix for suffix in TABLE_SUFFIXES if not suffix.endswith(".gz")))
    raise CorpusError(f"{uri} is not a table; known are {known}, and .gz of those that are text.")


def column_names(uri: str) -> frozenset[str]:
    """The names of a table's columns.

    Raises:
        OSError, CorpusError: it cannot be read.
    """
    return _column_names(uri, files_of(uri).status(uri).version)


@lru_cache(maxsize=8)
def _column_names(uri: str, version: str) -> frozenset[str]:
    return frozenset(open_table(files_of(uri), uri, version).schema().names)
