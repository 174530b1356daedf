"""A query: terms with weights, captions as alternatives, and which part of the ranking to return."""

import io
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, get_args

import numpy as np

from llm2clip_search.encoders.inputs import (
    ImageInput,
    as_array,
    captions_of,
    image_bytes,
    images_of,
    is_array,
    is_image,
)
from llm2clip_search.engine.captions import clean_caption
from llm2clip_search.engine.chosen import Chosen, ChosenRows, as_chosen
from llm2clip_search.engine.numbers import is_number, whole_number
from llm2clip_search.errors import QueryError
from llm2clip_search.store.names import is_unicode

Fuse = Literal["mean", "max", "rank"]
"""How several captions make one ranking: by the mean of their vectors, by the cosine with the best matching caption,
or by reciprocal rank fusion of their rankings."""
Find = Literal["images", "texts"]
"""What a query looks for."""
ImageRef: TypeAlias = int | np.integer[Any] | ImageInput
"""The id of an indexed image, as an integer or a string of digits, or an image; a string may end in a weight."""

_ASK = "Give a caption, --image FILE or --like ID."
_WEIGHT = re.compile(r"(?P<value>.*)\^(?P<weight>\d+(\.\d+)?)", re.DOTALL)
_ID = re.compile(r"\d+(@\d+)?")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of a query; its unit vector is multiplied by ``weight``. A caption is made plain by `clean_caption`."""

    kind: Literal["text", "image", "like"]
    value: str | bytes
    """A caption; an image as `named_image` reads it, or the content of an image file; or the id of an indexed image,
    where ``ID@N`` is the image of the N-th index, from 1."""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind == "text" and isinstance(self.value, str):
            object.__setattr__(self, "value", clean_caption(self.value))

    @property
    def name(self) -> str:
        """The value as a message shows it: the content of a file by its size."""
        return f"an image of {len(self.value):,} bytes" if isinstance(self.value, bytes) else repr(self.value)

    def __repr__(self) -> str:
        return f"Term(kind={self.kind!r}, value={self.name}, weight={self.weight!r})"


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
    find: Find | None = None
    """What to look for; None is what the indices hold, and images if they hold both."""
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
    per_file: int | None = None
    """At most this many results are parts of one file, such as pages of a document: the first ones in the ranking."""
    sort: str | None = None
    """Column by which the results of the page are ordered in the end, see `results.in_order_of`."""
    among: Chosen | None = None
    """Rows that may be found; None are all. `compose_query` accepts the ids of each index, too."""

    def __post_init__(self) -> None:
        for name in ("terms", "alternatives"):  # a list could change, and has no hash
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.terms and not self.alternatives:
            raise QueryError("The query is empty.", hint=_ASK)
        for term in (*self.terms, *self.alternatives):
            _check_term(term)
            if term.kind == "text" and not term.value:
                raise QueryError("The query is empty.", hint=_ASK)
            if term.kind == "text" and not is_unicode(str(term.value)):
                raise QueryError(f"The caption {term.value!a} is not valid UTF-8.", hint="Set the terminal to UTF-8.")
            if not is_number(term.weight) or not math.isfinite(term.weight) or term.weight == 0.0:
                raise QueryError(
                    f"The weight of {term.name} is {term.weight}; it must be a finite number other than 0."
                )
        if all(term.weight < 0 for term in (*self.terms, *self.alternatives)):
            raise QueryError("The query only subtracts; it needs a caption or an image to search for.", hint=_ASK)
        _check_fuse(self.fuse)
        if self.find is not None and self.find not in get_args(Find):
            raise QueryError(f"A query finds {' or '.join(get_args(Find))}, not {self.find!r}.")
        for name, value in (("condition", self.where), ("column to sort by", self.sort)):
            if value is not None and not isinstance(value, str):
                raise QueryError(f"The {name} is text, not {type(value).__name__}.")
        if not isinstance(self.among, Chosen | None):
            raise QueryError("Rows to search among are chosen by ids of each index.")
        self._check_numbers()

    def _check_numbers(self) -> None:
        object.__setattr__(self, "k", whole_number(self.k, "k", least=1))
        object.__setattr__(self, "offset", whole_number(self.offset, "The offset", least=0))
        if self.per_file is not None:
            object.__setattr__(self, "per_file", whole_number(self.per_file, "The results of one file", least=1))
        for name in ("diverse", "unique"):
            if not isinstance(value := getattr(self, name), bool | np.bool_):
                raise QueryError(f"{name} is {value!r}; it must be True or False.")
        above_0 = "it must be above 0 and at most 1"
        self._check_share("threshold", "The threshold", "cosines are between -1 and 1", least=-1.0)
        self._check_share("recall", "The recall", above_0)
        self._check_share("group_duplicates", "The cosine of duplicates", above_0)

    def _check_share(self, field: str, name: str, rule: str, *, least: float = math.ulp(0.0)) -> None:
        value = getattr(self, field)
        if value is None:
            return
        if not is_number(value) or not least <= value <= 1.0:
            raise QueryError(f"{name} is {value!r}; {rule}.")
        object.__setattr__(self, field, float(value))

    @property
    def compositions(self) -> tuple[tuple[Term, ...], ...]:
        """The terms of each query vector."""
        return tuple((caption, *self.terms) for caption in self.alternatives) or (self.terms,)


def compose_terms(
    *,
    text: str | None = None,
    image: ImageInput | Iterable[ImageInput] | None = None,
    like: ImageRef | Iterable[ImageRef] | None = None,
    unlike: ImageRef | Iterable[ImageRef] | None = None,
    add: str | Iterable[str] = (),
    sub: str | Iterable[str] = (),
) -> tuple[Term, ...]:
    """Terms of a caption, of images, of images to be like or unlike, and of captions to add or subtract.

    Each may be one value or several. Strings other than ``text`` may end in ``^WEIGHT``, as in ``"at night^0.5"``; 1 is
    the default. In ``like`` and ``unlike``, an integer or a string of digits is an id, ``ID@N`` is an image of the N-th
    index, and anything else is an image.

    Raises:
        QueryError: an empty caption, a weight of zero, or only terms that change others.
        InputError: something that is neither a caption nor an image.
        ImageError: an image in memory that is none.
    """
    terms: list[Term] = []
    if text is not None:
        terms.append(Term(kind="text", value=text))
    terms += [_image_term(each, 1.0, may_be_id=False) for each in _images(image)]
    terms += [_image_term(each, 1.0) for each in _images(like)]
    added, subtracted, unwanted = captions_of(add), captions_of(sub), list(_images(unlike))
    if not terms:
        if added or subtracted:
            raise QueryError("There are captions to add or subtract, but nothing to change.", hint=_ASK)
        if unwanted:
            raise QueryError("There are images to be unlike, but nothing to search for.", hint=_ASK)
    terms += [_image_term(each, -1.0) for each in unwanted]
    for sign, captions in ((1.0, added), (-1.0, subtracted)):
        for caption in captions:
            value, weight = _weighted(clean_caption(caption))
            terms.append(Term(kind="text", value=value, weight=sign * weight))
    return tuple(terms)


def _images(given: ImageRef | Iterable[ImageRef] | None) -> Iterable[ImageRef]:
    if given is None:
        return ()
    if isinstance(given, int | float | np.number):  # an id, or to be refused as one
        return (given,)
    if is_array(given) and not is_image(given) and (ids := as_array(given)).ndim < 2 and ids.dtype.kind in "iu":
        return [int(each) for each in ids.reshape(-1)]
    return images_of(given)


def _image_term(given: Any, sign: float, *, may_be_id: bool = True) -> Term:
    """A term of an id or an image. A `Path`, or the name of a file that exists, is that file, whatever it ends in."""
    if isinstance(given, os.PathLike):
        return Term(kind="image", value=os.fspath(given), weight=sign)
    if isinstance(given, str):
        exists = os.path.exists(given)  # noqa: PTH110 - any text is a question
        value, weight = (given, 1.0) if exists else _weighted(given)
        kind: Literal["like", "image"] = "like" if may_be_id and _ID.fullmatch(value) else "image"
        return Term(kind=kind, value=value, weight=sign * weight)
    if may_be_id and not is_image(given) and np.ndim(given) == 0:
        return Term(kind="like", value=str(whole_number(given, "The id of an image", least=0)), weight=sign)
    return Term(kind="image", value=_content(given), weight=sign)


def _content(image: Any) -> bytes:
    """An image in memory as the content of a file, which does not change, and is compared and copied as it is.

    A PIL image or an array becomes the simplest format that keeps its pixels.
    """
    if (data := image_bytes(image)) is not None:
        return data
    from llm2clip_search.encoders.images import read_rgb

    out = io.BytesIO()
    read_rgb(image).save(out, "PPM")
    return out.getvalue()


def _weighted(given: str) -> tuple[str, float]:
    match = _WEIGHT.fullmatch(given)
    return (match["value"], float(match["weight"])) if match else (given, 1.0)


class QueryOptions(TypedDict, total=False):
    """What a query may say besides its captions; `Searcher.query` explains each."""

    image: ImageInput | Iterable[ImageInput] | None
    like: ImageRef | Iterable[ImageRef] | None
    unlike: ImageRef | Iterable[ImageRef] | None
    add: str | Iterable[str]
    sub: str | Iterable[str]
    fuse: Fuse | None
    k: int
    offset: int
    threshold: float | None
    find: Find | None
    where: str | None
    recall: float | None
    diverse: bool
    group_duplicates: float | None
    unique: bool
    per_file: int | None
    sort: str | None
    among: ChosenRows | None


def compose_query(texts: str | Iterable[str], **options: Unpack[QueryOptions]) -> Query:
    """A query of no caption, one, or several as alternatives.

    Raises:
        QueryError: as `compose_terms` and `Query`, or several captions without ``fuse``.
        InputError, ImageError: as `compose_terms`.
    """
    captions = captions_of(texts)
    rest = {name: value for name, value in options.items() if name != "among"}
    names = ("image", "like", "unlike", "add", "sub")
    parts = {name: rest.pop(name) for name in names if name in rest}
    fuse = rest.pop("fuse", None)
    among = as_chosen(options.get("among"))
    # Checked with a caption in its place: terms that change others need one.
    terms = compose_terms(text=captions[0] if captions else None, **parts)  # type: ignore[arg-type]
    if fuse is not None:
        _check_fuse(fuse)
    if len(captions) < 2:
        return Query(terms=terms, among=among, **rest)  # type: ignore[arg-type]
    if fuse is None:
        raise QueryError(
            f"There are {len(captions)} captions, but nothing says how to combine them: fuse is mean, max or rank.",
            hint="Put a caption of several words in quotes, give --fuse mean, max or rank to combine them, or --batch"
            " to answer each by itself.",
        )
    alternatives = tuple(Term(kind="text", value=caption) for caption in captions)
    return Query(terms=terms[1:], alternatives=alternatives, fuse=fuse, among=among, **rest)  # type: ignore[arg-type]


def _check_fuse(fuse: object) -> None:
    if fuse not in get_args(Fuse):
        raise QueryError(f"Captions are fused by {', '.join(get_args(Fuse))}, not by {fuse!r}.")


def _check_term(term: object) -> None:
    """Refuse terms that were made by hand and cannot be searched for."""
    if not isinstance(term, Term) or term.kind not in ("text", "image", "like"):
        raise QueryError("A query consists of terms of the kinds text, image and like.")
    if not isinstance(term.value, str | bytes if term.kind == "image" else str):
        raise QueryError(f"The value of a term of kind {term.kind} is text, not {type(term.value).__name__}.")
    if term.kind == "like" and not _ID.fullmatch(str(term.value)):
        raise QueryError(f"{term.value!r} is not the id of an image, which is a whole number.")
