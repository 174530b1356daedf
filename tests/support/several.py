"""Several indices of known vectors, and what queries over them should find."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm2clip_search.encoders import Encoder, ModelIdentity
from llm2clip_search.engine import Searcher, SearchIndex, SearchIndices
from llm2clip_search.store import Snapshot, Writer
from tests.support.encoders import ColourEncoder
from tests.support.vectors import add


def index_of(folder: Path, *shards: np.ndarray, encoder: Encoder | None = None) -> SearchIndex:
    """An index whose shards hold some unit vectors, opened; without any vector it is empty."""
    model: ModelIdentity = (encoder or ColourEncoder()).identity
    with Writer.open(folder, model=model, dim=shards[0].shape[1]) as writer:
        for vectors in shards:
            if len(vectors):
                add(writer, vectors)
    return SearchIndex(Snapshot(folder), encoder or ColourEncoder())


def together(indices: Sequence[SearchIndex]) -> Searcher:
    """One index as it is, several as one."""
    return indices[0] if len(indices) == 1 else SearchIndices(indices, indices[0].encoder)


def stored(searcher: Searcher) -> tuple[list[tuple[int, int]], np.ndarray]:
    """(index, id) of every row in the order that breaks ties, and its vector, float64 ``[n, dim]``."""
    names: list[tuple[int, int]] = []
    vectors = []
    for number, part in enumerate(searcher.parts):
        ids = part.indexed.live_ids.tolist()
        names += [(number, identifier) for identifier in ids]
        vectors.append(part.snapshot.vectors(ids))
    return names, np.concatenate(vectors).astype(np.float64)
