"""``/facets`` and ``/places``: what the rows that meet a filter are like, in counts."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from llm2clip_search.server.endpoint import Call, Endpoint
from llm2clip_search.server.filtering import Filtered, selected
from llm2clip_search.server.problems import Problem

if TYPE_CHECKING:
    from llm2clip_search.engine import Facet

LONGEST = 500
"""Characters of a value; longer ones are cut, and cannot be told from a path or a caption that begins like them."""


class FacetsRequest(Filtered, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which values to count."""

    columns: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=32)] | None = None
    """By default those that are there and worth counting."""
    limit: Annotated[int, Meta(ge=1, le=200)] = 20
    """Values of each column, the most frequent ones."""


class ValueCount(Struct, kw_only=True, frozen=True):
    """A value and how often it occurs."""

    value: str | float | bool
    count: int


class BinCount(Struct, kw_only=True, frozen=True, rename={"start": "from", "end": "to"}):
    """A range, its end excluded; times are periods such as ``2026`` or ``2026-11``."""

    start: float | str
    end: float | str
    count: int


class FacetValue(Struct, kw_only=True, frozen=True):
    """The values of one column."""

    column: str
    kind: Literal["text", "number", "time", "list", "flag", "other"]
    missing: int
    """Rows without a value."""
    distinct: int
    """Different values; about so many of numbers and times."""
    values: list[ValueCount]
    """Of text, lists and flags."""
    bins: list[BinCount]
    """Of numbers and times, ascending and without gaps."""


class FacetsAnswer(Struct, kw_only=True, frozen=True):
    """The values of the rows that meet the filter."""

    matches: int
    facets: list[FacetValue]
    partial: bool
    """True if columns are left out because counting them took too long."""
    generation: str


class PlacesRequest(Filtered, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which places to count."""

    bounds: Annotated[list[float], Meta(min_length=4, max_length=4)] | None = None
    """South, west, north and east, degrees; by default what holds all places."""
    cells: Annotated[int, Meta(ge=1, le=256)] = 64
    """Of the longer side of the grid."""


class PlaceCell(Struct, kw_only=True, frozen=True):
    """Rows that were made close to each other."""

    latitude: float
    """The mean, degrees."""
    longitude: float
    count: int
    id: str
    """One of the rows."""


class PlacesAnswer(Struct, kw_only=True, frozen=True):
    """Where the rows that meet the filter were made."""

    bounds: list[float]
    matches: int
    """Rows with a place within the bounds."""
    cells: list[PlaceCell]
    generation: str


def post_facets(call: Call, body: FacetsRequest) -> FacetsAnswer:
    """Count the values of columns."""
    opened = call.opened
    if any(map(opened.hides, body.columns or ())):
        raise Problem("forbidden", "This server does not say where pictures were taken.", parameter="columns")
    selection = selected(body, call, opened)
    found = opened.searcher.facets(
        selection.where, find=selection.find, among=selection.among, columns=body.columns, limit=body.limit
    )
    return FacetsAnswer(
        matches=found.matches,
        facets=[_facet(each) for each in found.facets if not opened.hides(each.column)],
        partial=found.partial,
        generation=opened.generation,
    )


def _facet(facet: "Facet") -> FacetValue:
    return FacetValue(
        column=facet.column,
        kind=facet.kind,
        missing=facet.missing,
        distinct=facet.distinct,
        values=[ValueCount(value=_shown(value), count=count) for value, count in facet.values],
        bins=[BinCount(start=each.start, end=each.end, count=each.count) for each in facet.bins],
    )


def _shown(value: Any) -> str | float | bool:
    if isinstance(value, bool | int | float):
        return value
    return str(value)[:LONGEST]


def post_places(call: Call, body: PlacesRequest) -> PlacesAnswer:
    """Count where rows were made."""
    if call.service.config.hide_location:
        raise Problem("forbidden", "This server does not say where pictures were taken.")
    opened = call.opened
    selection = selected(body, call, opened)
    searcher = opened.searcher
    found = searcher.places(
        selection.where, find=selection.find, among=selection.among, bounds=body.bounds, cells=body.cells
    )
    folders = [str(part.snapshot.folder) for part in searcher.parts]
    cells = [
        PlaceCell(
            latitude=cell.latitude,
            longitude=cell.longitude,
            count=cell.count,
            id=opened.id_of(cell.id, folders[cell.index] if len(folders) > 1 else None),
        )
        for cell in found.cells
    ]
    return PlacesAnswer(bounds=list(found.bounds), matches=found.matches, cells=cells, generation=opened.generation)


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/facets",
        handle=post_facets,
        summary="What values the rows that meet a filter have, and how often.",
        body=FacetsRequest,
        answer=FacetsAnswer,
        pool="search",
    ),
    Endpoint(
        method="POST",
        path="/places",
        handle=post_places,
        summary="Where the rows that meet a filter were made, in the cells of a grid.",
        body=PlacesRequest,
        answer=PlacesAnswer,
        pool="search",
    ),
)
