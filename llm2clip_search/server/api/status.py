"""``/index``, ``/health`` and ``/ready``: what is served, and whether it can be asked."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from starlette.responses import Response

from llm2clip_search.server.endpoint import Call, Endpoint
from llm2clip_search.server.hits import as_text
from llm2clip_search.server.service import State, TowerState


class SourceValue(Struct, kw_only=True, frozen=True):
    """What an index was made from."""

    path: str
    exists: bool | None
    """False if it cannot be found now, such as a drive that is not mounted; null if it is not on this machine."""


class IndexValue(Struct, kw_only=True, frozen=True):
    """One index."""

    number: int
    """From 1."""
    folder: str
    rows: int
    failures: int
    sources: list[SourceValue]


class ColumnValue(Struct, kw_only=True, frozen=True):
    """A column that conditions may use."""

    name: str
    kind: Literal["text", "number", "time", "list", "flag", "other"]


class IndexAnswer(Struct, kw_only=True, frozen=True):
    """What is served."""

    indices: list[IndexValue]
    rows: int
    holds: list[Literal["images", "texts"]]
    model: str
    dim: int
    max_tokens: int
    columns: list[ColumnValue]
    can_open_folder: bool
    hides_location: bool
    generation: str
    version: str


class HealthAnswer(Struct, kw_only=True, frozen=True):
    """The server runs."""

    status: Literal["ok"]


class ReadyAnswer(Struct, kw_only=True, frozen=True):
    """How far the server is."""

    state: State
    detail: str
    """What is wrong, in a sentence; else empty."""
    generation: str | None
    text: TowerState
    vision: TowerState


def index(call: Call) -> IndexAnswer:
    """Describe the served indices."""
    opened, config = call.opened, call.service.config
    parts = [part.snapshot for part in opened.searcher.parts]
    held = sorted(frozenset[str]().union(*(part.modalities for part in parts)))
    return IndexAnswer(
        indices=[_index(number, part) for number, part in enumerate(parts, start=1)],
        rows=len(opened.searcher),
        holds=[f"{modality}s" for modality in held],  # type: ignore[misc]
        model=opened.searcher.encoder.name,
        dim=opened.searcher.encoder.dim,
        max_tokens=opened.searcher.encoder.max_tokens,
        columns=[
            ColumnValue(name=column.name, kind=column.kind)
            for column in opened.searcher.filter_columns.values()
            if not opened.hides(column.name)
        ],
        can_open_folder=config.can_open_folder,
        hides_location=config.hide_location,
        generation=opened.generation,
        version=version("llm2clip-search"),
    )


def _index(number: int, snapshot: Any) -> IndexValue:
    from llm2clip_search.store.snapshot import is_uri

    sources = []
    for source in snapshot.manifest.sources:
        uri = snapshot.located(source.uri)
        exists = None if is_uri(uri) else Path(uri).exists()
        sources.append(SourceValue(path=as_text(uri), exists=exists))
    manifest = snapshot.manifest
    return IndexValue(
        number=number,
        folder=as_text(str(snapshot.folder)),
        rows=manifest.live,
        failures=manifest.failures,
        sources=sources,
    )


async def health(_: Call) -> HealthAnswer:
    """Say that the server runs."""
    return HealthAnswer(status="ok")


async def ready(call: Call) -> Response:
    """Say whether searches are answered without waiting for the model."""
    service = call.service
    answer = ReadyAnswer(
        state=service.state,
        detail=as_text(service.detail),
        generation=service.generation,
        text=service.towers["text"],
        vision=service.towers["vision"],
    )
    status = 200 if answer.state == "ready" else 503
    headers = {} if status == 200 else {"Retry-After": "1"}
    return Response(msgspec.json.encode(answer), status, headers, "application/json")


ENDPOINTS = (
    Endpoint(method="GET", path="/index", handle=index, summary="What is served.", answer=IndexAnswer),
    Endpoint(
        method="GET", path="/health", handle=health, summary="The server runs.", answer=HealthAnswer, is_async=True
    ),
    Endpoint(
        method="GET",
        path="/ready",
        handle=ready,
        summary="How far the server is; 503 until captions are answered without waiting.",
        answer=ReadyAnswer,
        is_async=True,
    ),
)
