"""Columns of a table as columns of an index: which types an index stores, and how a value becomes one of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from llm2clip_search.corpora.columns import column_name
from llm2clip_search.corpora.corpus import Modality
from llm2clip_search.corpora.table_columns import caption_column, check_column, is_binary, is_list, is_string
from llm2clip_search.corpora.table_files import TableFile
from llm2clip_search.corpora.table_formats import column_names


@dataclass(frozen=True, kw_only=True)
class CarriedColumn:
    """A column of a table that the items carry."""

    name: str
    """In the table."""
    as_name: str
    """In the index."""
    type: pa.DataType
    """In the index."""
    convert: Callable[[pa.Array], list[Any]]
    """Values of the table as Python values of `type`."""


def carried_columns(
    table: TableFile,
    *,
    used: Sequence[str],
    wanted: Sequence[str] | None,
    modality: Modality,
    joined: str | None = None,
) -> list[CarriedColumn]:
    """The columns that become columns of the index: all that are wanted and hold no bytes.

    Args:
        used: columns that hold the items themselves.
        wanted: None for all.
        joined: URI of a table that is joined to this one, and may have what is wanted instead.
        modality: of the items; a column that describes images, such as LAION's TEXT, becomes their caption.

    Raises:
        CorpusError: a wanted column is not there.
    """
    schema = table.schema()
    elsewhere = column_names(joined) if joined and wanted else frozenset[str]()
    for name in wanted or ():
        if name not in elsewhere:
            check_column(table.uri, schema, name)
    labels = _labels(schema)
    caption = caption_column([name for name in schema.names if name not in used]) if modality == "image" else None
    found = list[CarriedColumn]()
    taken = set[str]()
    for each in schema:
        stored = stored_type(each.type)
        if each.name in used or stored is None or (wanted is not None and each.name not in wanted):
            continue
        convert = _converter(each.type, stored)
        if each.name in labels and pa.types.is_integer(each.type):
            stored, convert = pa.string(), _labeller(labels[each.name])
        name = "caption" if each.name == caption else column_name(each.name)
        while name.casefold() in taken:  # as in SQL, case does not matter
            name += "_2"
        taken.add(name.casefold())
        found.append(CarriedColumn(name=each.name, as_name=name, type=stored, convert=convert))
    return found


def carried_schema(carried: Sequence[CarriedColumn]) -> pa.Schema:
    """The columns of an index that some columns of a table become."""
    return pa.schema([(each.as_name, each.type) for each in carried])


def stored_type(kind: pa.DataType) -> pa.DataType | None:
    """The type in an index of a table's column; None for bytes and for what has only nulls.

    Scalars keep their type, except that texts of all kinds are ``string``, half floats are single, and times are at
    most as fine as Python's (microseconds). Lists of scalars stay lists, and what else is nested becomes JSON text.
    """
    types = pa.types
    if is_list(kind):
        inner = stored_type(kind.value_type)
        is_nested = inner is not None and (
            is_list(inner) or (types.is_string(inner) and not is_string(kind.value_type))
        )
        return pa.string() if is_nested else pa.list_(inner) if inner is not None else None
    for test, stored in _STORED_AS:
        if test(kind):
            return stored(kind)
    return None


_STORED_AS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], pa.DataType]], ...] = (
    (is_string, lambda kind: pa.string()),
    (lambda kind: pa.types.is_nested(kind) and not _holds_bytes(kind), lambda kind: pa.string()),
    (pa.types.is_decimal256, lambda kind: pa.string()),
    (pa.types.is_interval, lambda kind: pa.string()),
    (pa.types.is_float16, lambda kind: pa.float32()),
    (pa.types.is_timestamp, lambda kind: pa.timestamp("us" if kind.unit == "ns" else kind.unit, kind.tz)),
    (pa.types.is_time64, lambda kind: pa.time64("us")),
    (pa.types.is_duration, lambda kind: pa.duration("us" if kind.unit == "ns" else kind.unit)),
    (lambda kind: pa.types.is_primitive(kind) or pa.types.is_decimal(kind), lambda kind: kind),
)
"""Types of scalars, and of what becomes text, with the type in the index; the first that fits."""


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a type is bytes, or has some within it."""
    if is_binary(kind) or not pa.types.is_nested(kind):
        return is_binary(kind)
    return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))


def _converter(kind: pa.DataType, stored: pa.DataType) -> Callable[[pa.Array], list[Any]]:
    if pa.types.is_string(stored) and not is_string(kind):
        return _as_text
    return _as_values if kind == stored else lambda array: _as_values(array.cast(stored, safe=False))


def _as_values(array: pa.Array) -> list[Any]:
    return list(array.to_pylist())


def _as_text(array: pa.Array) -> list[Any]:
    return [None if value is None else _text(value) for value in array.to_pylist()]


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else str(value)


def _labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of classes by column, as the library `datasets` notes them in a schema; whole numbers stand for them."""
    features = dataset_features(schema)
    found = {name: each.get("names") for name, each in features.items() if isinstance(each, dict)}
    return {name: names for name, names in found.items() if isinstance(names, list)}


def dataset_features(schema: pa.Schema) -> dict[str, Any]:
    """What the library `datasets` notes of each column; empty if it did not write the table."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _labeller(names: list[str]) -> Callable[[pa.Array], list[Any]]:
    def labels(array: pa.Array) -> list[Any]:
        return [
            None if number is None or not 0 <= number < len(names) else str(names[number])
            for number in array.to_pylist()
        ]

    return labels


def row_columns(carried: Sequence[CarriedColumn], rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """The columns of each of some rows, by their names in the index, without what is null."""
    values = [(each.as_name, each.convert(rows.column(each.name))) for each in carried]
    return [
        {name: cells[number] for name, cells in values if cells[number] is not None} for number in range(rows.num_rows)
    ]
