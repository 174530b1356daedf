"""A query: terms with weights, captions as alternatives, and which part of the ranking to return."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, Unpack, get_args

from llm2clip_search.engine.captions import clean_caption
from llm2clip_search.errors import QueryError
from llm2clip_search.store.names import is_unicode

Fuse = Literal["mean", "max", "rank"]
"""How several captions make one ranking: by the mean of their vectors, by the cosine with the best matching caption,
or by reciprocal rank fusion of their rankings."""
ImageRef = int | str | Path
"""The id of an indexed image, or the path of an image file; a string may end in a weight."""

_ASK = "Give a caption, --image FILE or --like ID."
_WEIGHT = re.compile(r"(?P<value>.*)\^(?P<weight>\d+(\.\d+)?)", re.DOTALL)
_ID = re.compile(r"\d+(@\d+)?")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of a query; its unit vector is multiplied by ``weight``. A caption is made plain by `clean_caption`."""

    kind: Literal["text", "image", "like"]
    value: str
    """A caption, a file's path, or the id of an indexed image; ``ID@N`` is the image of the N-th index, from 1."""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind == "text":
            object.__setattr__(self, "value", clean_caption(self.value))


@dataclass(frozen=True, kw_only=True)
class Query:
    """Terms, whose weighted sum is normalised again so that scores stay cosines; and what to do with the ranking."""

    terms: tuple[Term, ...] = ()
    alternatives: tuple[Term, ...] = ()
    """Captions of which each is a query vector of its own, together with ``terms``; ``fuse`` makes them one ranking.
    Empty if ``terms`` alone are the query."""
    fuse: Fuse = "mean"
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
    diverse: bool = False
    """Order the best results by maximal marginal relevance (`diversity.diversify`)."""
    group_duplicates: float | None = None
    """Images whose cosine with a better result is at least this much are grouped under that result."""
    unique: bool = False
    """Files with the same content are one result, the first of them in the ranking."""
    sort: str | None = None
    """Column by which the results of the page are ordered in the end, see `results.in_order_of`."""

    def __post_init__(self) -> None:
        if not self.terms and not self.alternatives:
            raise QueryError("The query is empty.", hint=_ASK)
        for term in (*self.terms, *self.alternatives):
            if term.kind == "text" and not term.value:
                raise QueryError("The query is empty.", hint=_ASK)
            if term.kind == "text" and not is_unicode(term.value):
                raise QueryError(f"The caption {term.value!a} is not valid UTF-8.", hint="Set the terminal to UTF-8.")
            if not math.isfinite(term.weight) or term.weight == 0.0:
                raise QueryError(
                    f"The weight of {term.value!r} is {term.weight}; it must be a finite number other than 0."
                )
        if all(term.weight < 0 for term in (*self.terms, *self.alternatives)):
            raise QueryError("The query only subtracts; it needs a caption or an image to search for.", hint=_ASK)
        if self.fuse not in get_args(Fuse):
            raise QueryError(f"Captions are fused by {', '.join(get_args(Fuse))}, not by {self.fuse!r}.")
        self._check_numbers()

    def _check_numbers(self) -> None:
        if self.k < 1:
            raise QueryError(f"k is {self.k}; it must be at least 1.")
        if self.offset < 0:
            raise QueryError(f"The offset is {self.offset}; it must be at least 0.")
        if self.threshold is not None and not -1.0 <= self.threshold <= 1.0:
            raise QueryError(f"The threshold is {self.threshold}; cosines are between -1 and 1.")
        if self.recall is not None and not 0.0 < self.recall <= 1.0:
            raise QueryError(f"The recall is {self.recall}; it must be above 0 and at most 1.")
        if self.group_duplicates is not None and not 0.0 < self.group_duplicates <= 1.0:
            raise QueryError(f"The cosine of duplicates is {self.group_duplicates}; it must be above 0 and at most 1.")

    @property
    def compositions(self) -> tuple[tuple[Term, ...], ...]:
        """The terms of each query vector."""
        return tuple((caption, *self.terms) for caption in self.alternatives) or (self.terms,)


def compose_terms(
    *,
    text: str | None = None,
    image: str | Path | Sequence[str | Path] | None = None,
    like: ImageRef | Sequence[ImageRef] | None = None,
    unlike: ImageRef | Sequence[ImageRef] | None = None,
    add: Sequence[str] = (),
    sub: Sequence[str] = (),
) -> tuple[Term, ...]:
    """Terms of a caption, of image files, of images to be like or unlike, and of captions to add or subtract.

    Strings other than ``text`` may end in ``^WEIGHT``, as in ``"at night^0.5"``; 1 is the default. In ``like`` and
    ``unlike``, a string of digits is an id, ``ID@N`` is an image of the N-th index, and any other string is a path.

    Raises:
        QueryError: an empty caption, a weight of zero, or only terms that change others.
    """
    terms: list[Term] = []
    if text is not None:
        terms.append(Term(kind="text", value=text))
    terms += [_image_term(each, 1.0, may_be_id=False) for each in _list(image)]
    terms += [_image_term(each, 1.0) for each in _list(like)]
    if not terms:
        if add or sub:
            raise QueryError("There are captions to add or subtract, but nothing to change.", hint=_ASK)
        if _list(unlike):
            raise QueryError("There are images to be unlike, but nothing to search for.", hint=_ASK)
    terms += [_image_term(each, -1.0) for each in _list(unlike)]
    for sign, captions in ((1.0, add), (-1.0, sub)):
        for caption in captions:
            value, weight = _weighted(clean_caption(caption))
            terms.append(Term(kind="text", value=value, weight=sign * weight))
    return tuple(terms)


def _list(given: ImageRef | Sequence[ImageRef] | None) -> Sequence[ImageRef]:
    if given is None:
        return ()
    return given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)


def _image_term(given: ImageRef, sign: float, *, may_be_id: bool = True) -> Term:
    """A term of an id or a file. A `Path`, or the name of a file that exists, is that file, whatever it ends in."""
    if isinstance(given, Path):
        return Term(kind="image", value=str(given), weight=sign)
    if not isinstance(given, str):
        return Term(kind="like", value=str(given), weight=sign)
    value, weight = (given, 1.0) if os.path.exists(given) else _weighted(given)  # noqa: PTH110 - any text is a question
    if may_be_id and _ID.fullmatch(value):
        return Term(kind="like", value=value, weight=sign * weight)
    if not os.path.exists(value):  # noqa: PTH110
        value = os.path.expanduser(value)  # noqa: PTH111 - shells leave the ~ in --image=~/a.jpg
    return Term(kind="image", value=value, weight=sign * weight)


def _weighted(given: str) -> tuple[str, float]:
    match = _WEIGHT.fullmatch(given)
    return (match["value"], float(match["weight"])) if match else (given, 1.0)


class QueryOptions(TypedDict, total=False):
    """What a query may say besides its captions; `Searcher.query` explains each."""

    image: str | Path | Sequence[str | Path] | None
    like: ImageRef | Sequence[ImageRef] | None
    unlike: ImageRef | Sequence[ImageRef] | None
    add: Sequence[str]
    sub: Sequence[str]
    fuse: Fuse | None
    k: int
    offset: int
    threshold: float | None
    where: str | None
    recall: float | None
    diverse: bool
    group_duplicates: float | None
    unique: bool
    sort: str | None


def compose_query(captions: Sequence[str], **options: Unpack[QueryOptions]) -> Query:
    """A query of no caption, one, or several as alternatives.

    Raises:
        QueryError: as `compose_terms` and `Query`, or several captions without ``fuse``.
    """
    rest = dict(options)
    names = ("image", "like", "unlike", "add", "sub")
    parts = {name: rest.pop(name) for name in names if name in rest}
    fuse = rest.pop("fuse", None)
    # Checked with a caption in its place: terms that change others need one.
    terms = compose_terms(text=captions[0] if captions else None, **parts)  # type: ignore[arg-type]
    if len(captions) < 2:
        return Query(terms=terms, **rest)  # type: ignore[arg-type]
    if fuse is None:
        raise QueryError(
            f"There are {len(captions)} captions, but nothing says how to combine them.",
            hint="Put a caption of several words in quotes, give --fuse mean, max or rank to combine them, or --batch"
            " to answer each by itself.",
        )
    alternatives = tuple(Term(kind="text", value=caption) for caption in captions)
    return Query(terms=terms[1:], alternatives=alternatives, fuse=fuse, **rest)  # type: ignore[arg-type]
