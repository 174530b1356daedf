"""Rows and results of the engine as values of the API, and ids of the API as rows."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llm2clip_search.server.opened import Opened
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.values import HASH_DIGITS, Found, Same

if TYPE_CHECKING:
    from llm2clip_search.engine import Duplicate, Listed

_FIELDS = frozenset(Found.__struct_fields__)


def found_of(hit: "Listed", opened: Opened, *, is_ranked: bool = True) -> Found:
    """A hit as the API gives it; ``is_ranked`` adds its rank and score."""
    from llm2clip_search.store import METADATA_SCHEMA

    row = hit.metadata
    if opened.hidden:
        row = {name: value for name, value in row.items() if not opened.hides(name)}
    shown = {name: value for name, value in row.items() if name in _FIELDS and value is not None}
    given = frozenset(row).difference(METADATA_SCHEMA.names)
    return Found(
        **shown
        | {
            "id": opened.id_of(hit.id, hit.index),
            "modality": hit.modality,
            "name": name_of(hit.uri),
            "path": as_text(hit.uri),
            "hash": row["content_hash"][:HASH_DIGITS],
            "part": hit.part,
            "mtime": _moment(row),
            "rank": hit.rank if is_ranked else None,
            "score": getattr(hit, "score", None) if is_ranked else None,
            "probability": getattr(hit, "probability", None) if is_ranked else None,
            "columns": {name: row[name] for name in sorted(given) if row[name] is not None},
            "duplicates": None if hit.duplicates is None else [_same(each, opened) for each in hit.duplicates],
        }
    )


def name_of(uri: str) -> str:
    """The name of a file, with the part of it if there is one."""
    return as_text(uri[uri.rfind("/") + 1 :] or uri)


def as_text(name: str) -> str:
    """A name for JSON; bytes that are not UTF-8 become U+FFFD."""
    from llm2clip_search.store.names import json_path

    return json_path(name)["path"]


def _moment(row: Mapping[str, Any]) -> datetime | None:
    nanoseconds = row.get("mtime_ns")
    return None if not nanoseconds else datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)


def _same(other: "Duplicate", opened: Opened) -> Same:
    return Same(id=opened.id_of(other.id, other.index), name=name_of(other.uri))


def row_of(identifier: str, opened: Opened) -> tuple[int, int]:
    """The index, counted from 0, and the id that an id of the API names.

    Raises:
        Problem: ``not-found``.
    """
    part, number = _place(identifier, opened, parameter="id")
    if number not in opened.searcher.parts[part].snapshot:
        raise _not_found(identifier, parameter="id")
    return part, number


def rows_of(identifiers: Sequence[str], opened: Opened, *, parameter: str) -> list[list[int]]:
    """The ids that ids of the API name, for each index; such rows need not exist.

    Raises:
        Problem: ``not-found``: an id of no index that is served.
    """
    found: list[list[int]] = [[] for _ in opened.searcher.parts]
    for identifier in identifiers:
        part, number = _place(identifier, opened, parameter=parameter)
        found[part].append(number)
    return found


def _place(identifier: str, opened: Opened, *, parameter: str) -> tuple[int, int]:
    """The index, counted from 0, and the id; of several indices, it has to name one."""
    number, _, index = identifier.partition("@")
    part = int(index) - 1 if index else 0
    parts = opened.searcher.parts
    if not 0 <= part < len(parts) or (len(parts) > 1 and not index):
        raise _not_found(identifier, parameter=parameter)
    return part, int(number)


def _not_found(identifier: str, *, parameter: str) -> Problem:
    return Problem("not-found", f"There is no row with id {identifier}.", parameter=parameter)
