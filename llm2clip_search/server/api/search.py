"""``/search``: captions, pictures and rows to hits, a page at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response

from llm2clip_search.server.cursors import cursor, read_cursor
from llm2clip_search.server.endpoint import Call, Endpoint
from llm2clip_search.server.exports import MEDIA, Format, exported, format_of
from llm2clip_search.server.filtering import Filtered, Selection, Without, selected
from llm2clip_search.server.hits import as_text, found_of
from llm2clip_search.server.opened import Opened
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.rankings import REACH, is_whole
from llm2clip_search.server.service import CONDITION_SECONDS
from llm2clip_search.server.terms import TermValue, term_of, weighted_id
from llm2clip_search.server.values import Cosine, Found, Share

if TYPE_CHECKING:
    from llm2clip_search.engine import Listing, Query, Ranked, SearchPlan

MOST_PICTURES = 8
"""Terms of one query whose picture has to be read; each may take 300 MB, however small its file is."""
MOST = 1_000
"""Hits of one page in JSON; the other formats are streams, which have no such bound."""

K = Annotated[int, Meta(ge=1, le=REACH)]
Offset = Annotated[int, Meta(ge=0, le=REACH)]


class SearchRequest(Filtered, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to search for, and which part of the ranking to return."""

    terms: Annotated[list[TermValue], Meta(max_length=64)] = msgspec.field(default_factory=list)
    """Without any, the rows that meet the filter come in the order of ``sort``, by default the newest first, and have
    no score."""
    min_score: Cosine | None = None
    recall: Share | None = None
    """Share of the exact results that approximate search aims at; 1 is exact search."""
    per_file: Annotated[int, Meta(ge=1)] | None = None
    """Most results that are parts of one file."""
    group_duplicates: Share | None = None
    """Least cosine of near-duplicates, which are grouped under one result."""
    unique: bool = False
    """Files with the same content are one result."""
    diverse: bool = False
    sort: str | None = None
    k: K = 50
    offset: Offset = 0
    cursor: str | None = None
    """``next`` of the page before, with the same other fields."""
    generation: str | None = None
    """State of the index that ``offset`` counts in."""
    explain: bool = False


class SearchQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A search as parameters of a URL; ids of ``like`` and ``unlike`` may end in a weight, as in ``4711^0.5``."""

    text: list[str] = []
    like: list[str] = []
    unlike: list[str] = []
    find: Literal["images", "texts"] | None = None
    where: str | None = None
    min_score: Cosine | None = None
    recall: Share | None = None
    per_file: Annotated[int, Meta(ge=1)] | None = None
    group_duplicates: Share | None = None
    unique: bool = False
    diverse: bool = False
    sort: str | None = None
    k: K = 50
    offset: Offset = 0
    cursor: str | None = None
    generation: str | None = None
    explain: bool = False
    format: Format | None = None
    """By default what the request accepts, or else JSON."""


class CutTerm(Struct, kw_only=True, frozen=True):
    """A caption that is longer than the model reads."""

    term: int
    """Its place among the terms, from 0."""
    count: int
    """Tokens."""
    limit: int
    at: int
    """The first character that is not read."""


class PlanValue(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """How one index was searched."""

    index: str
    strategy: str
    device: str
    reason: str
    effort: int = 0
    candidates: int = 0
    recall: float | None = None
    """As measured when the approximate index was built."""


class Explained(Struct, kw_only=True, frozen=True):
    """How the search was done."""

    model: str
    plans: list[PlanValue]


class Nothing(Struct, kw_only=True, frozen=True):
    """Why nothing was found."""

    rows: int
    """Of all indices."""
    without: list[Without]
    best_score: float | None
    """The best cosine, if ``min_score`` removed all."""


class SearchAnswer(Struct, kw_only=True, frozen=True):
    """A page of hits, best first."""

    hits: list[Found]
    total: int
    """Results that paging can reach; more may come if it is not ``complete``."""
    complete: bool
    matches: int
    """Rows that meet the condition."""
    next: str | None
    """Cursor of the next page; null at the end."""
    generation: str
    find: Literal["images", "texts"]
    warnings: list[str]
    seconds: dict[str, float]
    """By stage: plan (with the condition), encode, search, join."""
    cut: list[CutTerm]
    explain: Explained | None = None
    nothing: Nothing | None = None
    """There only if nothing at all was found."""


class FormatQuery(Struct, kw_only=True, frozen=True):
    """In which form results are wanted."""

    format: Format | None = None
    """By default what the request accepts, or else JSON."""


def post_search(call: Call, query: FormatQuery, body: SearchRequest) -> SearchAnswer | Response:
    """Answer a search that is described in JSON."""
    return _answered(call, body, query.format)


def get_search(call: Call, query: SearchQuery) -> SearchAnswer | Response:
    """Answer a search that is described in a URL."""
    terms = [TermValue(text=text) for text in query.text]
    terms += [weighted_id(each, "like") for each in query.like]
    terms += [weighted_id(each, "unlike") for each in query.unlike]
    own = ("text", "like", "unlike", "format")
    rest = {name: getattr(query, name) for name in query.__struct_fields__ if name not in own}
    return _answered(call, SearchRequest(terms=terms, **rest), query.format)


def _answered(call: Call, asked: SearchRequest, form: Format | None) -> SearchAnswer | Response:
    opened, form = call.opened, format_of(call.request, form)
    if form == "json":
        if asked.k > MOST:
            raise Problem("bad-request", f"A page has at most {MOST:,} hits.", parameter="k")
        return answer(call, asked, opened)
    names = {column.name for part in opened.searcher.parts for column in part.snapshot.manifest.columns}
    shown = sorted(name for name in names if not opened.hides(name))
    return exported(form, _pages(call, asked, opened), columns=shown)


def _pages(call: Call, asked: SearchRequest, opened: Opened) -> Iterator[list[Found]]:
    """Hits a page at a time, as many as a request asks for."""
    # The best results are ordered by a column within their page, so that an order needs all of them in one.
    size = asked.k if asked.terms and asked.sort is not None else MOST
    page, left = asked, asked.k
    while left > 0:
        found = answer(call, msgspec.structs.replace(page, k=min(left, size)), opened)
        yield found.hits
        left -= len(found.hits)
        if found.next is None:
            return
        page = msgspec.structs.replace(asked, cursor=found.next)


def answer(call: Call, asked: SearchRequest, opened: Opened) -> SearchAnswer:
    """The page that a request asks for."""
    offset = _offset(asked, opened)
    selection = selected(asked, call, opened)
    if opened.hides((asked.sort or "").lstrip("-")):
        raise Problem("forbidden", "This server does not say where pictures were taken.", parameter="sort")
    if not asked.terms:
        return _browsed(asked, call, opened, selection, offset)
    query = _query(asked, call, opened, selection)
    ranked = opened.rankings.reaching(query, opened.searcher, end=offset + asked.k)
    result = opened.searcher.page(ranked, offset=offset, k=asked.k)
    end = offset + len(result.hits)
    total = min(ranked.matches, REACH) if _is_plain(asked) else len(ranked)
    is_complete = _is_plain(asked) or is_whole(ranked)
    return SearchAnswer(
        hits=[found_of(hit, opened) for hit in result.hits],
        total=total,
        complete=is_complete,
        matches=ranked.matches,
        next=cursor(_plain(asked), opened, end) if result.hits and (end < total or not is_complete) else None,
        generation=opened.generation,
        find=ranked.find,
        warnings=result.warnings,
        seconds=result.seconds,
        cut=_cut(asked, opened) if result.warnings else [],
        explain=_explained(ranked.plans, opened) if asked.explain else None,
        nothing=_nothing(query, opened, selection, ranked) if not len(ranked) else None,
    )


def _browsed(asked: SearchRequest, call: Call, opened: Opened, selection: Selection, offset: int) -> SearchAnswer:
    """Rows in the order of a column, for a request without terms."""
    found = opened.searcher.browse(
        selection.where, find=selection.find, among=selection.among, sort=asked.sort, offset=offset, k=asked.k
    )
    end, total = offset + len(found.hits), min(found.matches, REACH)
    return SearchAnswer(
        hits=[found_of(hit, opened) for hit in found.hits],
        total=total,
        complete=True,
        matches=found.matches,
        next=cursor(_plain(asked), opened, end) if found.hits and end < total else None,
        generation=opened.generation,
        find=found.find,
        warnings=[],
        seconds=found.seconds,
        cut=[],
        explain=_explained((), opened) if asked.explain else None,
        nothing=_nothing(None, opened, selection, found) if not found.matches else None,
    )


def _nothing(query: "Query | None", opened: Opened, selection: Selection, found: "Ranked | Listing") -> Nothing:
    """Which condition left nothing; ``query`` is None if nothing was searched for."""
    searcher = opened.searcher
    best = None
    if query is not None and found.matches and query.threshold is not None:
        nearest = searcher.rank(replace(query, threshold=None, k=1, offset=0)).groups
        best = nearest[0].score if nearest else None
    left = CONDITION_SECONDS - found.seconds["plan"]
    without = [] if found.matches else selection.without(searcher, seconds=left)
    return Nothing(rows=len(searcher), without=without, best_score=best)


def _is_plain(asked: SearchRequest) -> bool:
    """True if every row that meets the condition is a result of its own."""
    return asked.min_score is None and asked.per_file is None and asked.group_duplicates is None and not asked.unique


def _query(asked: SearchRequest, call: Call, opened: Opened, selection: Selection) -> "Query":
    from llm2clip_search.engine import Query

    if sum(each.upload is not None or each.crop is not None for each in asked.terms) > MOST_PICTURES:
        raise Problem("bad-request", f"A query has at most {MOST_PICTURES} uploads and crops.", parameter="terms")
    return Query(
        terms=tuple(term_of(each, number, call.service, opened) for number, each in enumerate(asked.terms)),
        threshold=asked.min_score,
        find=selection.find,
        where=selection.where,
        among=selection.among,
        recall=asked.recall,
        diverse=asked.diverse,
        group_duplicates=asked.group_duplicates,
        unique=asked.unique,
        per_file=asked.per_file,
        sort=asked.sort,
    )


def _cut(asked: SearchRequest, opened: Opened) -> list[CutTerm]:
    """Where the model stops reading captions that are too long."""
    from llm2clip_search.engine.captions import cut_at

    encoder = opened.searcher.encoder
    found = []
    for number, term in enumerate(asked.terms):
        if term.text is not None:
            count, at = cut_at(encoder, term.text)
            if at is not None:
                found.append(CutTerm(term=number, count=count, limit=encoder.max_tokens, at=at))
    return found


def _explained(plans: "Sequence[SearchPlan]", opened: Opened) -> Explained:
    shown = [
        PlanValue(
            index=as_text(str(part.snapshot.folder)),
            strategy=plan.strategy,
            device=plan.device,
            reason=plan.reason,
            effort=plan.effort,
            candidates=plan.candidates,
            recall=plan.point.recall if plan.point is not None else None,
        )
        for part, plan in zip(opened.searcher.parts, plans, strict=False)
    ]
    return Explained(model=opened.searcher.encoder.name, plans=shown)


def _plain(asked: SearchRequest) -> SearchRequest:
    """A request without its page: what its cursors belong to."""
    return msgspec.structs.replace(asked, k=1, offset=0, cursor=None, generation=None, explain=False)


def _offset(asked: SearchRequest, opened: Opened) -> int:
    """Results before the page; errors as of `read_cursor` and `Opened.check`."""
    if asked.cursor is None:
        opened.check(asked.generation)
        return asked.offset
    return read_cursor(asked.cursor, _plain(asked), opened)


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/search",
        handle=post_search,
        summary="Search by captions, pictures and rows.",
        query=FormatQuery,
        body=SearchRequest,
        answer=SearchAnswer,
        other_media=tuple(media for form, media in MEDIA.items() if form != "json"),
        pool="search",
    ),
    Endpoint(
        method="GET",
        path="/search",
        handle=get_search,
        summary="Search by captions and rows.",
        query=SearchQuery,
        answer=SearchAnswer,
        other_media=tuple(media for form, media in MEDIA.items() if form != "json"),
        pool="search",
    ),
)
