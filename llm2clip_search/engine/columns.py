"""The columns that conditions may name, as forms and counts see them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from llm2clip_search.engine.kinds import Kind, kind_of_column
from llm2clip_search.store import METADATA_SCHEMA

ColumnKind = Literal["text", "number", "time", "list", "flag", "other"]
"""What can be done with a column: ``flag`` is true or false, and ``other`` can only be missing or not."""
FIXED = tuple(name for name in METADATA_SCHEMA.names if name not in ("mtime_ns", "version", "described"))
"""Fixed columns besides ``mtime``, a timestamp; ``path`` is an absolute path or a URI."""
_KINDS: Mapping[Kind, ColumnKind] = {
    "text": "text",
    "number": "number",
    "time": "time",
    "day": "time",
    "truth": "flag",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of an index."""

    name: str
    kind: ColumnKind
    items: ColumnKind | None = None
    """What a list holds."""
    is_fixed: bool = True
    """False for one that a corpus brought along."""

    def to_dict(self) -> dict[str, str]:
        return {"name": self.name, "kind": self.kind}


def columns_of(schema: pa.Schema) -> dict[str, Column]:
    """The columns of an index's metadata by name, the fixed ones first."""
    return {name: _column(name, each) for name, each in column_types(schema).items()}


def column_types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Arrow types of the columns that conditions may name: the fixed ones, ``mtime``, and those of corpora."""
    own = [field.name for field in schema if field.name not in METADATA_SCHEMA.names]
    fixed = {name: schema.field(name).type for name in FIXED} | {"mtime": pa.timestamp("us")}
    return fixed | {name: schema.field(name).type for name in own}


def _column(name: str, arrow: pa.DataType) -> Column:
    is_fixed = name in FIXED or name == "mtime"
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        items = _KINDS.get(kind_of_column(arrow.value_type), "other")
        return Column(name=name, kind="list", items=items, is_fixed=is_fixed)
    return Column(name=name, kind=_KINDS.get(kind_of_column(arrow), "other"), is_fixed=is_fixed)
