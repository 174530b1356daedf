"""The terms of a search: captions, rows, and pictures that were uploaded or cut out."""

import re
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from llm2clip_search.encoders.isolation import isolated
from llm2clip_search.server.opened import Opened
from llm2clip_search.server.pictures.crops import crop
from llm2clip_search.server.pictures.originals import original_of
from llm2clip_search.server.pictures.uploads import MAX_PIXELS, plain
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.service import Service
from llm2clip_search.server.values import Id

if TYPE_CHECKING:
    from llm2clip_search.engine import Term

LONGEST = 20_000
"""Characters of a caption."""
MOST_WEIGHT = 100


class TermValue(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One part of a query: exactly one of ``text``, ``like`` and ``upload``."""

    text: Annotated[str, Meta(max_length=LONGEST)] | None = None
    """A caption."""
    like: Id | None = None
    """The id of a row."""
    upload: str | None = None
    """The id of a picture that was uploaded."""
    crop: Annotated[list[Annotated[float, Meta(ge=0, le=1)]], Meta(min_length=4, max_length=4)] | None = None
    """Left, top, right and bottom of the part of the picture that counts, as fractions of the upright picture."""
    weight: Annotated[float, Meta(ge=-MOST_WEIGHT, le=MOST_WEIGHT)] = 1.0


def term_of(given: TermValue, number: int, service: Service, opened: Opened) -> "Term":
    """A part of a query for the engine; ``number`` is its place among the terms.

    Raises:
        Problem: as `image_of_term`, or a term that says too much or too little.
        ImageError: as `image_of_term`.
    """
    from llm2clip_search.engine import Term

    named = [name for name in ("text", "like", "upload") if getattr(given, name) is not None]
    if len(named) != 1:
        raise Problem("bad-request", "A term has exactly one of text, like and upload.", parameter=f"terms[{number}]")
    if given.text is not None and given.crop is not None:
        raise Problem("bad-request", "A caption has no crop.", parameter=f"terms[{number}]")
    if given.text is not None:
        return Term(kind="text", value=given.text, weight=given.weight)
    if given.upload is None and given.crop is None:
        return Term(kind="like", value=str(given.like), weight=given.weight)
    return Term(kind="image", value=image_of_term(given, service, opened), weight=given.weight)


def image_of_term(given: TermValue, service: Service, opened: Opened) -> bytes:
    """The content of an image file for a term with an upload or a crop.

    Raises:
        Problem: no such row or upload, a row whose file is gone, a crop that is empty.
        ImageError: the picture cannot be decoded.
    """
    if given.upload is not None:
        data = service.uploads.get(given.upload).data
        if given.crop is None:
            return isolated(plain, data, opened.searcher.encoder.preprocess.shortest, max_pixels=MAX_PIXELS)
    else:
        original = original_of(str(given.like), opened)
        if original.is_text:
            raise Problem("not-an-image", f"Row {given.like} is a text.", parameter="like")
        data = original.content()
    return data if given.crop is None else isolated(crop, data, given.crop)


_WEIGHTED = re.compile(r"(?P<id>\d{1,15}(@\d{1,3})?)(\^(?P<weight>\d{1,9}(\.\d{1,9})?))?", re.ASCII)


def weighted_id(given: str, name: Literal["like", "unlike"]) -> TermValue:
    """A term of an id that may end in a weight, as in ``4711^0.5``; ``unlike`` subtracts it.

    Raises:
        Problem: it is not an id, or the weight is too large.
    """
    match = _WEIGHTED.fullmatch(given)
    if match is None or (weight := float(match["weight"] or 1)) > MOST_WEIGHT:
        raise Problem("bad-request", f"{given!r} is not the id of a row, with or without a weight.", parameter=name)
    return TermValue(like=match["id"], weight=weight if name == "like" else -weight)
