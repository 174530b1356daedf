"""The served indices at one state."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llm2clip_search.server.problems import Problem
from llm2clip_search.server.rankings import Rankings

if TYPE_CHECKING:
    from llm2clip_search.engine import Searcher


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The served indices at one state; a request uses one from its beginning to its end."""

    searcher: "Searcher"
    generation: str
    """Names the state: equal if and only if no index has changed."""
    hidden: frozenset[str] = frozenset()
    """Columns that nobody sees or asks for, in lower case."""
    rankings: Rankings = field(default_factory=Rankings, repr=False)
    """Of this state, so that they are let go with it."""

    def id_of(self, identifier: int, folder: str | None) -> str:
        """A row's id in the API; ``folder`` is that of its index if several are served."""
        if folder is None:
            return str(identifier)
        folders = [str(part.snapshot.folder) for part in self.searcher.parts]
        return f"{identifier}@{folders.index(folder) + 1}"

    def hides(self, column: str) -> bool:
        """True for a column that nobody sees or asks for."""
        return column.casefold() in self.hidden

    def check(self, generation: str | None) -> None:
        """Refuse a request that continues one on another state.

        Raises:
            Problem: ``index-changed``.
        """
        if generation is not None and generation != self.generation:
            raise Problem("index-changed", "The index has changed since the first page; search again.")
