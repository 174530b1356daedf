"""Errors as RFC 9457 ``application/problem+json``: what is wrong, with which parameter, and what helps."""

from functools import partial

import msgspec
from starlette.responses import Response

from llm2clip_search.errors import ConditionError, EngineError, ImageError, InputError, Llm2ClipError, QueryError

MEDIA_TYPE = "application/problem+json"
TITLES = {
    "bad-request": (400, "The request is wrong"),
    "bad-condition": (400, "The condition is wrong"),
    "unauthorized": (401, "A token is needed"),
    "forbidden": (403, "This is not allowed"),
    "not-found": (404, "There is no such thing"),
    "method-not-allowed": (405, "The method does not fit"),
    "too-slow": (408, "The request took too long"),
    "index-changed": (409, "The index has changed"),
    "gone": (410, "The file is gone"),
    "too-large": (413, "The request is too large"),
    "unsupported-media": (415, "The format is not supported"),
    "range": (416, "The range is not in the file"),
    "misdirected": (421, "The request is for another host"),
    "not-an-image": (422, "The picture cannot be read"),
    "busy": (429, "The server is busy"),
    "headers-too-large": (431, "The headers are too large"),
    "internal": (500, "The server failed"),
    "engine": (503, "The serving engine does not answer"),
    "no-index": (503, "There is no index"),
    "loading": (503, "The server is not ready yet"),
}
"""Status and title of each kind of problem; ``/problems/KIND`` is its type."""


class ProblemDocument(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What went wrong, as RFC 9457 describes it."""

    type: str
    """``/problems/KIND``."""
    title: str
    status: int
    detail: str
    """One sentence for people."""
    parameter: str = ""
    """The parameter or field that is wrong."""
    hint: str = ""
    """What helps."""


class Problem(Exception):  # noqa: N818 - the name of RFC 9457
    """An error that is answered as it is; any layer below a route may raise it."""

    def __init__(
        self, kind: str, detail: str, *, parameter: str = "", hint: str = "", retry_after: int | None = None
    ) -> None:
        """``kind`` is a key of `TITLES`, ``retry_after`` seconds; ``detail`` may quote names that are not UTF-8."""
        from llm2clip_search.store.names import json_path

        detail = json_path(detail)["path"]
        super().__init__(detail)
        status, title = TITLES[kind]
        self.document = ProblemDocument(
            type=f"/problems/{kind}", title=title, status=status, detail=detail, parameter=parameter, hint=hint
        )
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        """As it is in another process; exceptions otherwise lose what is given by keyword."""
        document = self.document
        kind = document.type.removeprefix("/problems/")
        make = partial(type(self), parameter=document.parameter, hint=document.hint, retry_after=self.retry_after)
        return make, (kind, document.detail)

    @property
    def response(self) -> Response:
        """The answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        body = msgspec.json.encode(self.document)
        return Response(body, status_code=self.document.status, media_type=MEDIA_TYPE, headers=headers)


class BusyError(Llm2ClipError):
    """Too many requests wait for the same thing already."""


BUSY_S = 1
"""Seconds after which a refused request may try again."""


def problem_of(error: Exception) -> Problem:
    """An error of any layer as a problem; one that is not expected says nothing of the machine's insides."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, BusyError):
        return Problem("busy", str(error), retry_after=BUSY_S)
    if isinstance(error, ConditionError):
        return Problem("bad-condition", str(error), parameter="where")
    for kind, expected in _KINDS.items():
        if isinstance(error, expected):
            return Problem(kind, str(error))
    return Problem("internal", "The request failed for a reason that the server's log names.")


_KINDS: dict[str, tuple[type[Exception], ...]] = {
    "not-an-image": (ImageError,),
    "bad-request": (QueryError, InputError),
    "engine": (EngineError,),
    "internal": (Llm2ClipError,),
}
