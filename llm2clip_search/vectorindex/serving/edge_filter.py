"""Filters of Qdrant as objects of its core, which does not read JSON."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from qdrant_edge import Filter


def edge_filter(json: dict[str, Any]) -> "Filter":
    """The core's object for a filter of `qdrant_filter`."""
    import qdrant_edge

    clauses: dict[str, Any] = {clause: [_part(part) for part in parts] for clause, parts in json.items()}
    return qdrant_edge.Filter(**clauses)


def _part(part: dict[str, Any]) -> Any:
    import qdrant_edge as edge

    if "has_id" in part:
        return edge.HasIdCondition(set(part["has_id"]))
    if "is_empty" in part:
        return edge.IsEmptyCondition(part["is_empty"]["key"])
    if "range" in part:
        limits = part["range"]
        is_time = any(isinstance(limit, str) for limit in limits.values())
        return edge.FieldCondition(part["key"], range=(edge.RangeDateTime if is_time else edge.RangeFloat)(**limits))
    if "match" not in part:
        return edge_filter(part)
    [(how, value)] = part["match"].items()
    matches = {
        "value": edge.MatchValue,
        "any": edge.MatchAny,
        "except": edge.MatchExcept,
        "prefix": edge.MatchPrefix,
        "substring": edge.MatchSubstring,
    }
    # The core takes Python's True for 1, but numpy's for true.
    exact = np.bool_(value) if isinstance(value, bool) else value
    return edge.FieldCondition(part["key"], match=matches[how](exact))
