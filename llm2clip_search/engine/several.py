"""Several indices of one model, searched as one."""

from collections.abc import Sequence
from typing import Any

from llm2clip_search.encoders import Encoder
from llm2clip_search.engine.candidates import Part
from llm2clip_search.engine.searcher import Searcher
from llm2clip_search.store.schema import column_field
from llm2clip_search.store.snapshot import check_same_model


class SearchIndices(Searcher):
    """Indices whose images make one ranking: equal scores by the order of the indices, then by lower id.

    Hits carry the folder of their index. A column that an index lacks is null in its rows. `open_index` makes it from
    several folders.
    """

    def __init__(self, parts: Sequence[Part], encoder: Encoder | None = None) -> None:
        """Without an encoder the indices are searched by ids only.

        Raises:
            StoreError: as `check_same_model`.
        """
        check_same_model([part.indexed for part in parts])
        super().__init__(encoder)
        columns = [column_field(column) for part in parts for column in part.snapshot.manifest.columns]
        self._parts = tuple(part.beside(columns) for part in parts)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy opens the indices again, as that of a `SearchIndex`."""
        return type(self), (self._parts, self._encoder)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The indices, in the order in which they were named."""
        return self._parts
