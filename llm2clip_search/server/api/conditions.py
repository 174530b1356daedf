"""``/conditions``: a filter as a form and as SQL, each from the other."""

from msgspec import Struct

from llm2clip_search.server.endpoint import Call, Endpoint
from llm2clip_search.server.filtering import ConditionValue, Filtered, selected
from llm2clip_search.server.problems import Problem


class ConditionsAnswer(Struct, kw_only=True, frozen=True):
    """One filter in both ways."""

    where: str
    """SQL; empty if all rows count."""
    conditions: list[ConditionValue] | None
    """The same as a form; null if a form cannot show it."""
    matches: int
    """Rows that meet it."""


def post_conditions(call: Call, body: Filtered) -> ConditionsAnswer:
    """Show a filter as a form and as SQL, and count its rows."""
    if (body.where or "").strip() and body.conditions:
        raise Problem("bad-request", "Give where or conditions, of which the other follows.", parameter="where")
    opened = call.opened
    selection = selected(body, call, opened)
    matches = opened.searcher.count(selection.where, find=selection.find, among=selection.among)
    pieces = selection.pieces(opened.searcher)
    shown = [asked for asked, _ in pieces if not isinstance(asked, str)]
    return ConditionsAnswer(
        where=selection.where or "",
        conditions=shown if len(shown) == len(pieces) else None,
        matches=matches,
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/conditions",
        handle=post_conditions,
        summary="A filter as a form and as SQL, each from the other.",
        body=Filtered,
        answer=ConditionsAnswer,
        pool="search",
    ),
)
