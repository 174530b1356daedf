"""Rows of tables in common formats: CSV, TSV, JSON lines, Parquet, Arrow, and ``.json`` members of webdataset shards.

All formats except Parquet and Arrow may be gzipped.
"""

import csv
import gzip
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.corpora.files import files_of
from llm2clip_search.corpora.shards import shard_members
from llm2clip_search.corpora.table_files import ARROW_SUFFIXES, PARQUET_SUFFIXES
from llm2clip_search.corpora.table_formats import open_table
from llm2clip_search.corpora.table_texts import CSV_SUFFIXES, JSON_SUFFIXES
from llm2clip_search.errors import CorpusError


def table_rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read the rows of a table; the format is decided by the file's suffix.

    Args:
        wanted: columns that every row must have; other columns are returned too.

    Yields:
        A description of the row's position, for errors, and the row by column.

    Raises:
        CorpusError: the format is unknown, the file is missing or damaged, or a row lacks a column.
    """
    whole = path.name.casefold()
    name = whole.removesuffix(".gz")
    reader = next((read for suffix, read in _READERS.items() if name.endswith(suffix)), None)
    if reader is None or (reader in (_parquet_rows, _arrow_rows) and name != whole):
        raise CorpusError(
            f"{path} is not a caption file; known suffixes are {', '.join(_READERS)}, each with .gz except Parquet and"
            " Arrow."
        )
    try:
        for number, row in enumerate(reader(path), 1):
            where = f"{path}, row {number},"
            if missing := [column for column in wanted if column not in row]:
                raise CorpusError(f"{where} has no column {missing[0]!r}; {columns_of(row)}.")
            yield where, row
    except (OSError, EOFError, ValueError, zlib.error, csv.Error, tarfile.TarError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0].rstrip(".:")
        if isinstance(error, UnicodeDecodeError) and reader in (_csv_rows, _json_rows):
            why = f"{_where_not_utf8(path)}; spreadsheets often save Latin-1 or Windows-1252, and UTF-8 as 'CSV UTF-8'"
        raise CorpusError(f"{path} cannot be read as captions: {why}.") from error


def columns_of(row: Mapping[str, Any]) -> str:
    """Part of a sentence: the columns of a row, or by what a table is separated that has been read as one column."""
    names = [str(name) for name in row]
    found = next((word for sign, word in _SEPARATORS.items() if len(names) == 1 and sign in names[0]), "")
    if found:
        return (
            f"its only column is {names[0]!r}, so it is separated by {found}, but a .csv is by commas, a .tsv by tabs"
        )
    return f"it has {', '.join(names)}"


def _open_text(path: Path) -> Any:
    """Open a text file, gzipped or not; a byte-order mark, which spreadsheets write, is skipped."""
    opener: Any = gzip.open if path.suffix.casefold() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _where_not_utf8(path: Path) -> str:
    """The first line of a text file that is not UTF-8, and its byte."""
    opener: Any = gzip.open if path.suffix.casefold() == ".gz" else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number} is not UTF-8, it has the byte {line[error.start]:#04x}"
    return "it is not UTF-8"


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    tabs = path.name.casefold().removesuffix(".gz").endswith(".tsv")
    with _open_text(path) as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t" if tabs else ",", strict=True), 1):
            if any(row.pop(None, ())):
                mark = "tab" if tabs else "comma"
                raise ValueError(
                    f"row {number} has more values than there are columns; a text with a {mark} needs quotes"
                )
            yield row


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with _open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _json_object(line, f"line {number}")


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for batch in pq.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _arrow_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    table = open_table(files_of(str(path)), str(path))
    for rows in table.rows(table.schema().names):
        yield from rows.batch.to_pylist()


def _tar_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The ``.json`` members of a webdataset shard; ``image_id`` defaults to the member's name."""
    with tarfile.open(path) as tar:
        for member in shard_members(tar):
            if member.name.endswith(".json") and (file := tar.extractfile(member)) is not None:
                key = member.name.removeprefix("./").removesuffix(".json")
                yield {"image_id": key, **_json_object(file.read(), member.name), "__key__": key}


def _json_object(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a JSON object")
    return row


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
_READERS = {
    **dict.fromkeys(CSV_SUFFIXES, _csv_rows),
    **dict.fromkeys(JSON_SUFFIXES, _json_rows),
    **dict.fromkeys(PARQUET_SUFFIXES, _parquet_rows),
    **dict.fromkeys(ARROW_SUFFIXES, _arrow_rows),
    ".tar": _tar_rows,
}
