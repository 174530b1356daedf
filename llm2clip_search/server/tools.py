"""What an assistant can do with the served indices: search, find similar rows, look at pictures, describe the index."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from llm2clip_search.errors import CorpusError, Llm2ClipError, first_line
from llm2clip_search.server.endpoint import wrong_value
from llm2clip_search.server.filtering import refuse_hidden
from llm2clip_search.server.hits import as_text, found_of, row_of
from llm2clip_search.server.opened import Opened
from llm2clip_search.server.pictures.originals import Original, original_of
from llm2clip_search.server.pictures.rendering import PictureSize, render
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.service import Service
from llm2clip_search.server.values import ID_PATTERN, Cosine, Found

if TYPE_CHECKING:
    from llm2clip_search.engine import Result

MOST_PICTURES = 8
SHOWN = PictureSize(name="shown", width=512, height=512, media_type="image/jpeg")
LONGEST_TEXT = 300
"""Characters of a passage or caption in the lines that describe hits; the structured answer has all of it."""

Caption = Annotated[
    str,
    Meta(
        max_length=20_000,
        description="What the picture or text shows, as a sentence or a paragraph in any language: subjects, actions,"
        " colours, places, style. The more precise, the better.",
    ),
]
RowId = Annotated[str | int, Meta(description="The id of a row, as results give it.")]
Where = Annotated[
    str,
    Meta(
        max_length=10_000,
        description="SQL condition over the columns that describe_index lists, such as: width >= 1000 AND taken >="
        " '2024-06' AND path LIKE '%/holiday/%'.",
    ),
]
Count = Annotated[int, Meta(ge=1, le=50, description="Number of results.")]


class SearchArguments(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """At least one of ``caption`` and ``like``; both together find what has something of both."""

    caption: Caption | None = None
    like: Annotated[str | int | None, Meta(description="The id of a row that results should be like.")] = None
    unlike: Annotated[str | int | None, Meta(description="The id of a row that results should be less like.")] = None
    where: Where | None = None
    find: Annotated[
        Literal["images", "texts"] | None, Meta(description="What to look for, if the index holds both.")
    ] = None
    min_score: Annotated[Cosine | None, Meta(description="Lowest cosine of a result.")] = None
    k: Count = 10
    offset: Annotated[int, Meta(ge=0, le=100_000, description="Results to skip, for the next page.")] = 0


class SimilarArguments(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A row, and a condition for the results."""

    id: RowId
    where: Where | None = None
    k: Count = 10


class PicturesArguments(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The rows to look at."""

    ids: Annotated[
        list[RowId], Meta(min_length=1, max_length=MOST_PICTURES, description=f"Up to {MOST_PICTURES} ids of rows.")
    ]


class NoArguments(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """There is nothing to say."""


class SearchAnswer(Struct, kw_only=True, frozen=True):
    """Results, best first."""

    hits: list[Found]
    matches: int
    """Rows that meet the condition."""
    warnings: list[str]


class IndexDescription(Struct, kw_only=True, frozen=True):
    """What can be searched."""

    rows: int
    holds: list[Literal["images", "texts"]]
    sources: list[str]
    """Folders, files and URLs that the indices were made from."""
    model: str
    max_tokens: int
    """Longer captions are cut."""
    columns: dict[str, str]
    """Columns that conditions may use, with their Arrow types."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture to be shown to the assistant."""

    jpeg: bytes


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a tool gives: texts and pictures to read, and the same as a value for programs."""

    parts: list[str | Picture]
    value: Struct | None = None


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool; ``run`` may raise `Problem` and `Llm2ClipError`, whose messages the assistant reads."""

    name: str
    title: str
    description: str
    arguments: type[Struct]
    answer: type[Struct] | None
    run: Callable[[Service, Any], Reply]

    def __call__(self, service: Service, arguments: Mapping[str, Any]) -> Reply:
        """Run with arguments that are not checked yet, on the index as it is now.

        Raises:
            Problem, Llm2ClipError: arguments that are wrong, an index that cannot be opened, and errors of the engine.
        """
        try:
            given = msgspec.convert(_plain(arguments), self.arguments, strict=False)
        except msgspec.ValidationError as error:
            raise wrong_value(error) from error
        service.refresh()
        return self.run(service, given)


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with lists as lists: some assistants write them as JSON in a string."""
    plain = dict(arguments)
    for name, value in plain.items():
        if isinstance(value, str) and value.startswith("["):
            try:
                plain[name] = msgspec.json.decode(value)
            except (msgspec.DecodeError, RecursionError):
                continue
    return plain


def schema_of(kind: type[Struct]) -> dict[str, Any]:
    """The JSON schema of a value, an object at its root."""
    [_], parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    root: dict[str, Any] = parts.pop(kind.__name__)
    return root | ({"$defs": parts} if parts else {})


def search(service: Service, given: SearchArguments) -> Reply:
    """Answer a search."""
    if given.caption is None and given.like is None:
        raise Problem("bad-request", "A search needs a caption or the id of a row to be like.")
    opened = service.opened
    result, matches = _page(
        opened,
        text=given.caption,
        like=_named(given.like),
        unlike=_named(given.unlike),
        where=given.where,
        find=given.find,
        threshold=given.min_score,
        k=given.k,
        offset=given.offset,
    )
    return _reply(result, matches, opened)


def similar(service: Service, given: SimilarArguments) -> Reply:
    """Find rows that are like one, without that one."""
    opened, identifier = service.opened, _identifier(given.id)
    row_of(identifier, opened)
    result, matches = _page(opened, like=[identifier], where=given.where, k=given.k + 1)
    others = [hit for hit in result.hits if opened.id_of(hit.id, hit.index) != identifier]
    hits = [replace(hit, rank=rank) for rank, hit in enumerate(others[: given.k], start=1)]
    return _reply(replace(result, hits=hits), matches, opened)


def _named(given: str | int | None) -> list[str] | None:
    return None if given is None else [_identifier(given)]


def _identifier(given: str | int) -> str:
    """An id as text, which may not be a weight or the name of a file."""
    if not re.fullmatch(ID_PATTERN, text := str(given)):
        raise Problem("bad-request", f"{given!r} is not the id of a row, such as 4711.")
    return text


def _page(opened: Opened, *, text: str | None = None, where: str | None = None, **options: Any) -> tuple["Result", int]:
    from llm2clip_search.engine.query import compose_query

    searcher = opened.searcher
    if where is not None:
        refuse_hidden(opened, [where])
    ranked = searcher.rank(compose_query([] if text is None else text, where=where, **options))
    return searcher.page(ranked), ranked.matches


def _reply(result: "Result", matches: int, opened: Opened) -> Reply:
    hits = [found_of(hit, opened) for hit in result.hits]
    lines = [*map(_line, hits), *result.warnings]
    if not hits:
        lines.insert(0, f"Nothing was found; {matches:,} of {len(opened.searcher):,} rows meet the condition.")
    return Reply(parts=["\n".join(lines)], value=SearchAnswer(hits=hits, matches=matches, warnings=result.warnings))


def _line(hit: Found) -> str:
    """A hit in one line; names and captions have no line breaks."""
    score = "" if hit.score is None else f"{hit.score:.3f}  "
    score += "" if hit.probability is None else f"probability {hit.probability:.2f}  "
    words = [f"{hit.rank}.  id {hit.id}  {score}{hit.path}"]
    words += [f"{hit.width} x {hit.height}"] if hit.width else []
    words += [f"taken {hit.taken:%Y-%m-%d %H:%M}"] if hit.taken is not None else []
    words += [hit.camera] if hit.camera else []
    words += [f"rating {hit.rating}"] if hit.rating is not None else []
    words += [f"keywords {', '.join(hit.keywords)}"] if hit.keywords else []
    words += [_short(each) for each in (hit.caption, hit.text) if each]
    return " ".join("; ".join(words).split())


def _short(text: str) -> str:
    return f'"{text}"' if len(text) <= LONGEST_TEXT else f'"{text[:LONGEST_TEXT]}..."'


def show_images(service: Service, given: PicturesArguments) -> Reply:
    """Give small versions of pictures, each after a line that names it."""
    opened = service.opened
    parts: list[str | Picture] = []
    for identifier in map(_identifier, given.ids):
        original = original_of(identifier, opened)
        named = f"id {identifier}: {as_text(original.uri)}"
        if original.is_text:
            parts.append(f"{named}\n{original.row['text']}")
            continue
        try:
            picture = Picture(jpeg=_small(original))
        except (Problem, Llm2ClipError) as error:
            parts.append(f"{named} cannot be shown: {as_text(first_line(error))}.")
        else:
            parts += [named, picture]
    return Reply(parts=parts)


def _small(original: Original) -> bytes:
    """A row as a small JPEG, if its file is what was indexed.

    Raises:
        Problem: it is gone.
        CorpusError: it is something else than what was indexed.
        ImageError: it cannot be decoded.
    """
    data = original.content()
    if not original.is_as_indexed(data):
        raise CorpusError("it has changed since it was indexed")
    return render(data, SHOWN, tag="").data


def describe_index(service: Service, _: NoArguments) -> Reply:
    """Say what is indexed, and which columns conditions may use."""
    opened = service.opened
    snapshots = [part.snapshot for part in opened.searcher.parts]
    unusable = {"mtime_ns", "version", "described"} | opened.hidden
    columns = {
        field.name: str(field.type)
        for each in snapshots
        for field in each.schema
        if field.name.casefold() not in unusable
    }
    held = frozenset[str]().union(*(each.modalities for each in snapshots))
    sources = (as_text(each.located(source.uri)) for each in snapshots for source in each.manifest.sources)
    encoder = opened.searcher.encoder
    value = IndexDescription(
        rows=len(opened.searcher),
        holds=[name for name in ("images", "texts") if name[:-1] in held],
        sources=list(islice(sources, 100)),
        model=encoder.name,
        max_tokens=encoder.max_tokens,
        columns=columns | {"mtime": "timestamp[us]"},
    )
    lines = [
        f"{value.rows:,} {' and '.join(value.holds)} from {', '.join(value.sources) or 'no source'}.",
        f"Captions of up to {value.max_tokens} tokens are read by the model {value.model}.",
        "Columns for conditions: " + ", ".join(f"{name} ({kind})" for name, kind in value.columns.items()) + ".",
    ]
    return Reply(parts=["\n".join(lines)], value=value)


TOOLS = (
    Tool(
        name="search",
        title="Search images and texts",
        description="Find indexed images (or texts) by a caption that describes them, by an indexed row that they are"
        " like, or by both; a SQL condition over their metadata is applied first. Scores are cosines, best first.",
        arguments=SearchArguments,
        answer=SearchAnswer,
        run=search,
    ),
    Tool(
        name="similar",
        title="Find similar images",
        description="Find rows that look or read like an indexed one, by its id.",
        arguments=SimilarArguments,
        answer=SearchAnswer,
        run=similar,
    ),
    Tool(
        name="show_images",
        title="Look at images",
        description=f"See up to {MOST_PICTURES} indexed images as small pictures, by their ids: to check results,"
        " compare them, or describe them. Of texts, the passage is given.",
        arguments=PicturesArguments,
        answer=None,
        run=show_images,
    ),
    Tool(
        name="describe_index",
        title="Describe the index",
        description="What is indexed, from which folders, by which model, and the columns that conditions may use.",
        arguments=NoArguments,
        answer=IndexDescription,
        run=describe_index,
    ),
)
