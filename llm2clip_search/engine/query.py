"""A query: terms with weights, and which part of the ranking to return."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm2clip_search.errors import QueryError

_ASK = "Give a caption, --image FILE or --like ID."
_WEIGHT = re.compile(r"(?P<text>.*)\^(?P<weight>\d+(\.\d+)?)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of a query; its unit vector is multiplied by ``weight``."""

    kind: Literal["text", "image", "like"]
    value: str
    """A caption, a file's path, or the id of an indexed image."""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Query:
    """Terms, whose weighted sum is normalised again so that scores stay cosines."""

    terms: tuple[Term, ...]
    k: int = 10
    offset: int = 0
    """Skip this many top results (paging)."""
    threshold: float | None = None
    """Lowest cosine to return."""
    where: str | None = None
    """SQL condition over the metadata columns."""
    recall: float | None = None
    """Share of the exact results that approximate search has to find; None is what the index was built for, 1 is exact
    search."""

    def __post_init__(self) -> None:
        if not self.terms:
            raise QueryError("The query is empty.", hint=_ASK)
        for term in self.terms:
            if term.kind == "text" and not term.value.strip():
                raise QueryError("The query is empty.", hint=_ASK)
            if term.kind == "text" and not _is_unicode(term.value):
                raise QueryError(f"The caption {term.value!a} is not valid UTF-8.", hint="Set the terminal to UTF-8.")
            if not math.isfinite(term.weight) or term.weight == 0.0:
                raise QueryError(
                    f"The weight of {term.value!r} is {term.weight}; it must be a finite number other than 0."
                )
        if self.where is not None and not _is_unicode(self.where):
            raise QueryError(f"The condition {self.where!a} is not valid UTF-8.")
        if self.k < 1:
            raise QueryError(f"k is {self.k}; it must be at least 1.")
        if self.offset < 0:
            raise QueryError(f"The offset is {self.offset}; it must be at least 0.")
        if self.threshold is not None and not -1.0 <= self.threshold <= 1.0:
            raise QueryError(f"The threshold is {self.threshold}; cosines are between -1 and 1.")
        if self.recall is not None and not 0.0 < self.recall <= 1.0:
            raise QueryError(f"The recall is {self.recall}; it must be above 0 and at most 1.")


def _is_unicode(text: str) -> bool:
    """False for the surrogates that Python makes of command-line bytes that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def compose_terms(
    *,
    text: str | None = None,
    image: str | Path | None = None,
    like: int | None = None,
    add: Sequence[str] = (),
    sub: Sequence[str] = (),
) -> tuple[Term, ...]:
    """Terms of a caption, an image, an indexed image, and captions to add or subtract.

    ``add`` and ``sub`` may end in ``^WEIGHT``, as in ``"at night^0.5"``; 1 is the default.

    Raises:
        QueryError: an empty caption, or a weight of zero.
    """
    terms: list[Term] = []
    if text is not None:
        terms.append(Term(kind="text", value=text))
    if image is not None:
        terms.append(Term(kind="image", value=str(image)))
    if like is not None:
        terms.append(Term(kind="like", value=str(like)))
    if (add or sub) and not terms:
        raise QueryError("There are captions to add or subtract, but nothing to change.", hint=_ASK)
    for sign, captions in ((1.0, add), (-1.0, sub)):
        for caption in captions:
            match = _WEIGHT.fullmatch(caption)
            value, weight = (match["text"], float(match["weight"])) if match else (caption, 1.0)
            terms.append(Term(kind="text", value=value, weight=sign * weight))
    return tuple(terms)
