"""Which columns say where pictures were taken."""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from llm2clip_search.engine import Searcher
    from llm2clip_search.store import Snapshot
    from llm2clip_search.store.shard import Shard

BLOCK_ROWS = 256
"""Rows that are looked at together; they lie in one batch of a shard."""
BLOCKS = 64
"""How many of them are read of an index, or one of each shard if it has more. A block takes a few milliseconds."""
LONGEST = 1 << 16
"""Characters of a text that are searched for fields."""

_WORDS = frozenset(
    {
        *("latitude", "latitudes", "lat", "longitude", "longitudes", "lon", "lng", "latlon", "latlng", "latlong"),
        *("lonlat", "gps", "geo", "geohash", "geojson", "geolocation", "geotag", "location", "locations"),
        *("coordinate", "coordinates", "coords", "exif"),
    }
)
"""Any of them in a name; ``exif`` is img2dataset's column of all that a picture's header says."""
_NAMES = frozenset({"long"})
"""Whole names, which are common words elsewhere."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_FIELD = re.compile(r"""["']([^"']{1,200})["']\s*:""")
"""The name of a field, as JSON and as Python writes it."""


def location_columns(searcher: "Searcher") -> frozenset[str]:
    """Columns of the indices that say where pictures were taken, in lower case.

    Columns of sources are judged by the words of their names, as in ``GPSLatitude`` and ``photo_lat``, and by those of
    the fields within them. Objects of sources are stored as text, whose fields are known only by reading it: those of
    some thousand rows count, which are spread over each index.

    Raises:
        DamagedError: rows that have to be read are damaged.
    """
    schemas = [part.snapshot.schema for part in searcher.parts]
    told = {field.name for schema in schemas for field in schema if _tells_location(field)}
    for part in searcher.parts:
        told |= _told_by_objects(part.indexed, known=told)
    return frozenset(name.casefold() for name in told)


def _tells_location(field: "pa.Field") -> bool:
    kind = field.type
    return _is_of_place(field.name) or any(_tells_location(kind.field(number)) for number in range(kind.num_fields))


@lru_cache(maxsize=4096)
def _is_of_place(name: str) -> bool:
    return name.casefold() in _NAMES or any(word.casefold() in _WORDS for word in _WORD.findall(name))


def _told_by_objects(snapshot: "Snapshot", known: Collection[str]) -> set[str]:
    """Text columns of sources whose values are objects with such fields, besides those that are known."""
    import pyarrow as pa

    from llm2clip_search.store import METADATA_SCHEMA

    texts = {each.name for each in snapshot.schema if pa.types.is_string(each.type)}
    left = texts.difference(METADATA_SCHEMA.names, known)
    found = set[str]()
    for shard in snapshot.shards:
        if not left:
            break
        rows = _sample(shard, max(1, BLOCKS // len(snapshot.shards)))
        values = {name: rows.column(name).unique().to_pylist() for name in left.intersection(rows.column_names)}
        told = {name for name, texts in values.items() if any(map(_holds_place, texts))}
        found, left = found | told, left - told
    return found


def _sample(shard: "Shard", blocks: int) -> "pa.Table":
    """Rows of a shard, in blocks that are spread over it; dead ones are as good."""
    import numpy as np

    last = (shard.entry.rows - 1) // BLOCK_ROWS
    starts = np.unique(np.linspace(0, last, min(blocks, last + 1), dtype=np.int64)) * BLOCK_ROWS
    rows = (starts[:, None] + np.arange(BLOCK_ROWS)).ravel()
    return shard.rows(rows[rows < shard.entry.rows])


def _holds_place(text: str | None) -> bool:
    if text is None or text.lstrip()[:1] not in ("{", "["):
        return False
    # Without backslashes, the fields of objects that are texts within objects are as plain as the others.
    return any(map(_is_of_place, _FIELD.findall(text[:LONGEST].replace("\\", ""))))
