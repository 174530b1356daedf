"""``/saved``: searches under names."""

from pathlib import Path

from msgspec import Struct

from llm2clip_search.server.endpoint import Call, Endpoint
from llm2clip_search.server.saved_searches import Name, SavedSearch, State


class SaveRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A search to save."""

    name: Name
    state: State
    """The query of the page's URL."""


class SavedChange(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What to change of a saved search."""

    name: Name | None = None
    state: State | None = None


class SavedId(Struct, kw_only=True, frozen=True):
    """Which saved search."""

    id: str


class SavedAnswer(Struct, kw_only=True, frozen=True):
    """All saved searches of the served indices, the first one saved first."""

    saved: list[SavedSearch]


def get_saved(call: Call) -> SavedAnswer:
    """All saved searches."""
    return SavedAnswer(saved=call.service.saved.all(_folders(call)))


def post_saved(call: Call, body: SaveRequest) -> SavedSearch:
    """Save a search."""
    return call.service.saved.add(_folders(call), body.name, body.state)


def put_saved(call: Call, query: SavedId, body: SavedChange) -> SavedSearch:
    """Rename a saved search, or save another one in its place."""
    return call.service.saved.replace(_folders(call), query.id, name=body.name, state=body.state)


def delete_saved(call: Call, query: SavedId) -> None:
    """Delete a saved search."""
    call.service.saved.remove(_folders(call), query.id)


def _folders(call: Call) -> list[Path]:
    return [part.indexed.folder for part in call.opened.searcher.parts]


ENDPOINTS = (
    Endpoint(method="GET", path="/saved", handle=get_saved, summary="All saved searches.", answer=SavedAnswer),
    Endpoint(
        method="POST",
        path="/saved",
        handle=post_saved,
        summary="Save a search.",
        body=SaveRequest,
        answer=SavedSearch,
        status=201,
    ),
    Endpoint(
        method="PUT",
        path="/saved/{id}",
        handle=put_saved,
        summary="Change a saved search.",
        query=SavedId,
        body=SavedChange,
        answer=SavedSearch,
    ),
    Endpoint(
        method="DELETE",
        path="/saved/{id}",
        handle=delete_saved,
        summary="Delete a saved search.",
        query=SavedId,
        status=204,
    ),
)
