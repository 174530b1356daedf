"""Columns that a source brings along: their names in the index, and a mark of their values."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

DESCRIBED = ("caption", "rating", "keywords")
"""Columns of the index that sources, sidecars and packets within files fill."""
WELCOME = (*DESCRIBED, "taken", "camera", "latitude", "longitude")
"""Columns of the index that a source may fill in place of the file itself."""
_OWN = frozenset(
    (
        *("id", "path", "content_hash", "size", "mtime_ns", "width", "height", "format", "corpus", "version", "damage"),
        *("modality", "text", "described", "part", "rank", "score", "exists", "index", "duplicates", "path_bytes"),
        *("mtime", "probability", "query", "query_line", "place"),
    )
)
"""Names that the index, its hits and conditions on them have for something else."""


def source_columns(values: Mapping[str, Any], wanted: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Values of a source by column of the index; those that are None are left out.

    A name that the index has for something else gets ``source_`` in front: ``source_width``. As in SQL, case does not
    matter, so ``Caption`` is ``caption``.

    Args:
        values: by the source's own names.
        wanted: those of them that are kept; None keeps all.

    >>> source_columns({"caption": "a dog", "width": 640, "license": None})
    {'caption': 'a dog', 'source_width': 640}
    """
    return {
        column_name(name): value
        for name, value in values.items()
        if value is not None and (wanted is None or name in wanted)
    }


@lru_cache(maxsize=4096)
def column_name(name: str) -> str:
    """The column of the index for a name of a source."""
    folded = name.casefold()
    if folded in WELCOME:
        return folded
    # Names that JSON can hold and UTF-8 cannot are escaped.
    return ("source_" if folded in _OWN else "") + name.encode("utf-8", "backslashreplace").decode()


def digest(columns: Mapping[str, Any]) -> str:
    """A mark of some columns for `Item.described`: 16 hex digits, equal for equal values in any order.

    That of no columns is a mark too, so that a row loses those that its source does not have any more.
    """
    text = json.dumps(columns, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
