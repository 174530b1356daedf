"""Indices of clustered vectors, without images."""

from dataclasses import replace

import numpy as np

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.store import Row, Writer

MODEL = ModelIdentity(name="m", revision="r", weights_sha256="w", preprocess_sha256="p")


DIM = 16


def clustered(seed: int, count: int) -> np.ndarray:
    """Unit vectors around forty centres, as embeddings lie."""
    centres = np.random.default_rng(0).normal(size=(40, DIM))
    generator = np.random.default_rng(seed)
    points = centres[generator.integers(0, 40, count)] + 0.6 * generator.normal(size=(count, DIM))
    unit: np.ndarray = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return unit


def prefer_approximate(writer: Writer) -> None:
    """Say that exact search is slow: in an index this small it is faster than any other."""
    entry, config = writer.manifest.ann, writer.manifest.ann_config
    assert entry is not None
    assert config is not None
    writer.set_ann(replace(entry, exact_ms=1e9, filtered_ms=1e9), config)


def add(writer: Writer, vectors: np.ndarray, removed: tuple[int, ...] = ()) -> range:
    ids = writer.allocate(len(vectors))
    rows = [
        Row(id=i, path=f"{i}.jpg", content_hash=str(i), size=i, mtime_ns=0, width=i % 100, height=1, format="PNG")
        for i in ids
    ]
    writer.commit(rows, vectors, removed=removed)
    return ids
