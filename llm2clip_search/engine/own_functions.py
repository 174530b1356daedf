"""Functions of places and folders that conditions may use beside DuckDB's.

They are macros, which DuckDB writes out where they are used. Some arguments occur in them several times, so that a
condition may give them columns and constants only: within each other they would double at each level.
"""

from collections.abc import Mapping

_EARTH_KM = 6371.0088
"""Mean radius of the earth."""
EXAMPLES: Mapping[str, str] = {
    "is_under": "is_under(path, '/photos/2024')",
    "km_between": "km_between(latitude, longitude, 48.14, 11.58) <= 10",
    "is_within": "is_within(latitude, longitude, 47.2, 5.8, 55.1, 15.1), south, west, north and east",
}
"""How each function is used, by name."""
DEFINITIONS = (
    # A file has parts, such as pages, which are named after #. See `store.paths.beginnings`.
    r"CREATE MACRO is_under(name, folder) AS name = rtrim(folder, '/') OR starts_with(name, rtrim(folder, '/') || '/')"
    r" OR (regexp_matches(folder, '[^/]\.\w{2,8}/*$') AND starts_with(name, rtrim(folder, '/') || '#'))",
    # Haversine; the sum is rounded to more than 1 for opposite places.
    f"CREATE MACRO km_between(latitude, longitude, north, east) AS {2 * _EARTH_KM} * asin(least(1.0, sqrt("
    "pow(sin(radians(latitude - north) / 2), 2)"
    " + cos(radians(north)) * cos(radians(latitude)) * pow(sin(radians(longitude - east) / 2), 2))))",
    # A box whose west is east of its east goes over the date line.
    "CREATE MACRO is_within(latitude, longitude, south, west, north, east) AS latitude BETWEEN south AND north"
    " AND ((longitude BETWEEN west AND east) OR (west > east AND (longitude >= west OR longitude <= east)))",
)
"""SQL that makes them."""
