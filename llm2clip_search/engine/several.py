"""Several indices of one model, searched as one."""

from collections.abc import Sequence

from llm2clip_search.encoders import Encoder
from llm2clip_search.engine.candidates import Part
from llm2clip_search.engine.searcher import Searcher
from llm2clip_search.errors import StoreError
from llm2clip_search.store import Snapshot


class SearchIndices(Searcher):
    """Indices whose images make one ranking: equal scores by the order of the indices, then by lower id.

    Hits carry the folder of their index. `open_index` makes it from several folders.
    """

    def __init__(self, parts: Sequence[Part], encoder: Encoder | None = None) -> None:
        """Without an encoder the indices are searched by ids only.

        Raises:
            StoreError: as `check_same_model`.
        """
        check_same_model([part.snapshot for part in parts])
        super().__init__(parts, encoder)


def check_same_model(snapshots: Sequence[Snapshot]) -> None:
    """Refuse indices whose scores cannot be compared.

    Raises:
        StoreError: no index at all, one that is there twice, or two that different models made.
    """
    if not snapshots:
        raise StoreError("No index is named.")
    first = snapshots[0]
    named = {first.folder.resolve()}
    for other in snapshots[1:]:
        if (folder := other.folder.resolve()) in named:
            raise StoreError(f"The index {other.folder} is named twice.")
        named.add(folder)
        made, by = first.manifest.model, other.manifest.model
        if made.fingerprint != by.fingerprint:
            raise StoreError(
                f"{first.folder} was made by {made.name} ({made.fingerprint}), but {other.folder} by {by.name}"
                f" ({by.fingerprint}); their vectors cannot be compared.",
                hint="Query them one after the other, or index one of them again with the other's model.",
            )
