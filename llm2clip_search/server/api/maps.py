"""``/map``: the corpus in the plane, where alike rows lie close to each other."""

from typing import TYPE_CHECKING

from msgspec import Struct
from starlette.responses import Response

from llm2clip_search.server.corpus_map import MapState, State
from llm2clip_search.server.endpoint import Call, Endpoint

if TYPE_CHECKING:
    from llm2clip_search.engine.layout import Layout

MOST_POINTS = 1_000_000
"""Rows that are sent; of more, every n-th."""


class MapAnswer(Struct, kw_only=True, frozen=True):
    """How far the map of the corpus is."""

    state: State
    progress: float
    """0 to 1."""
    points: int
    """Points that `/map/points` gives now. While a map is computed again, they are those of the one before."""
    detail: str
    """A sentence about it, or empty."""
    generation: str


def get_map(call: Call) -> MapAnswer:
    """How far the map is; one that was made before the index changed is brought up to date."""
    opened = call.opened
    return _answer(call.service.map.state(opened), opened.generation)


def post_map(call: Call) -> MapAnswer:
    """Make the map in the background, unless it is there."""
    opened = call.opened
    return _answer(call.service.map.start(opened), opened.generation)


def points(call: Call) -> Response:
    """Where the rows lie, in little-endian binary: see `packed`."""
    opened = call.opened
    layout = call.service.map.layout(opened)
    etag = f'"{layout.state}-{len(opened.searcher.parts)}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if call.request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(packed(layout), headers=headers, media_type="application/octet-stream")


def packed(layout: "Layout") -> bytes:
    """uint32 n; float32 x[n], y[n], 0 to 1; uint8 group[n]; float64 id[n]; uint8 index[n], from 0."""
    import numpy as np

    from llm2clip_search.engine.ranking import parts_and_ids

    chosen = slice(None, None, max(1, -(-len(layout) // MOST_POINTS)))
    numbers, ids = parts_and_ids(layout.keys[chosen])
    arrays = [
        np.array([len(ids)], dtype="<u4"),
        *layout.places[chosen].T.astype("<f4"),
        layout.groups[chosen],
        ids.astype("<f8"),
        numbers.astype(np.uint8),
    ]
    return b"".join(array.tobytes() for array in arrays)


def _answer(state: MapState, generation: str) -> MapAnswer:
    return MapAnswer(
        state=state.state,
        progress=state.progress,
        points=state.points,
        detail=state.detail,
        generation=generation,
    )


ENDPOINTS = (
    Endpoint(method="GET", path="/map", handle=get_map, summary="How far the map is.", answer=MapAnswer),
    Endpoint(method="POST", path="/map", handle=post_map, summary="Make the map in the background.", answer=MapAnswer),
    Endpoint(
        method="GET",
        path="/map/points",
        handle=points,
        summary="Where the rows lie: uint32 n, float32 x[n] and y[n], uint8 group[n], float64 id[n], uint8 index[n].",
        media="application/octet-stream",
    ),
)
