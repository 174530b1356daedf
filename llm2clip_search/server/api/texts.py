"""``/tokens`` and ``/phrases``: what of a caption is read, and what of it mattered."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

from msgspec import Meta, Struct

from llm2clip_search.server.endpoint import Call, Endpoint
from llm2clip_search.server.hits import row_of
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.terms import LONGEST
from llm2clip_search.server.values import Id

MOST_TEXTS = 32
MOST_PHRASES = 24
"""Each phrase costs an embedding of the caption without it."""

Caption = Annotated[str, Meta(max_length=LONGEST)]


class TokensRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Captions to count."""

    texts: Annotated[list[Caption], Meta(max_length=MOST_TEXTS)]


class TokenCount(Struct, kw_only=True, frozen=True):
    """The length of one caption."""

    count: int
    """Tokens, special ones included."""
    cut: int | None
    """The first character that is not read; null if all are."""


class TokensAnswer(Struct, kw_only=True, frozen=True):
    """The lengths of captions, in their order."""

    limit: int
    """Tokens that the model reads."""
    texts: list[TokenCount]


class PhrasesRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A caption, and the row that it found."""

    text: Caption
    id: Id


class Phrase(Struct, kw_only=True, frozen=True):
    """A part of a caption."""

    start: int
    """Its first character."""
    end: int
    """The character after it."""
    effect: float
    """Cosine of the caption with the row, minus that of the caption without this part."""


class PhrasesAnswer(Struct, kw_only=True, frozen=True):
    """What each part of a caption contributes."""

    score: float
    """Cosine of the whole caption with the row."""
    phrases: list[Phrase]


def tokens(call: Call, body: TokensRequest) -> TokensAnswer:
    """Count the tokens of captions."""
    from llm2clip_search.engine.captions import cut_at

    encoder = call.opened.searcher.encoder
    counted = [cut_at(encoder, text) for text in body.texts]
    return TokensAnswer(limit=encoder.max_tokens, texts=[TokenCount(count=count, cut=at) for count, at in counted])


def phrases(call: Call, body: PhrasesRequest) -> PhrasesAnswer:
    """Leave out each phrase of a caption in turn, and see how the score changes."""
    from llm2clip_search.engine.captions import clean_caption

    opened = call.opened
    number, identifier = row_of(body.id, opened)
    if not clean_caption(body.text):
        raise Problem("bad-request", "The caption is empty.", parameter="text")
    parts = list(split(body.text))
    captions = [body.text, *(body.text[:start] + " " + body.text[end:] for start, end in parts)]
    vectors = opened.searcher.encoder.encode_texts([clean_caption(caption) for caption in captions])
    stored = opened.searcher.parts[number].snapshot.vectors([identifier])[0]
    score, *without = (vectors @ stored).tolist()
    found = zip(parts, without, strict=True) if len(parts) > 1 else ()
    return PhrasesAnswer(
        score=score, phrases=[Phrase(start=start, end=end, effect=score - other) for (start, end), other in found]
    )


_BORDER = re.compile(
    r"[,;:.!?()\u3001\u3002\uff0c]+\s*"
    r"|\s+(?=(?:and|or|with|without|in|on|at|under|over|behind|beside|near|next to|wearing|holding|of|while|that|which"
    r"|und|mit|auf|unter|neben|vor|hinter|et|avec|dans|sur|sous|y|con|en|sobre)\b)",
    re.IGNORECASE,
)
"""Where a phrase ends: at punctuation, and before words that begin another one. Other languages have punctuation."""


def split(text: str) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of the phrases of a caption: at most `MOST_PHRASES`, of about the same number of borders."""
    borders = [0, *(match.end() for match in _BORDER.finditer(text)), len(text)]
    spans = [(start, end) for start, end in pairwise(borders) if re.search(r"\w", text[start:end]) is not None]
    together = -(-len(spans) // MOST_PHRASES)
    for first in range(0, len(spans), max(together, 1)):
        group = spans[first : first + together]
        yield group[0][0], group[-1][0] + len(text[slice(*group[-1])].rstrip())


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/tokens",
        handle=tokens,
        summary="Count the tokens of captions, and where the model stops reading them.",
        body=TokensRequest,
        answer=TokensAnswer,
    ),
    Endpoint(
        method="POST",
        path="/phrases",
        handle=phrases,
        summary="Which phrases of a caption mattered for a row, by leaving each out.",
        body=PhrasesRequest,
        answer=PhrasesAnswer,
        pool="search",
    ),
)
