"""Which columns say where pictures were taken."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from llm2clip_search.engine import Searcher

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


def location_columns(searcher: "Searcher") -> frozenset[str]:
    """Columns of the indices that say where pictures were taken, in lower case.

    Columns of sources are judged by the words of their names, as in ``GPSLatitude`` and ``photo_lat``, and by those of
    the fields within them.
    """
    fields = (field for part in searcher.parts for field in part.snapshot.schema)
    return frozenset(field.name.casefold() for field in fields if _tells_location(field))


def _tells_location(field: "pa.Field") -> bool:
    words, kind = {word.casefold() for word in _WORD.findall(field.name)}, field.type
    if words & _WORDS or field.name.casefold() in _NAMES:
        return True
    return any(_tells_location(kind.field(number)) for number in range(kind.num_fields))
