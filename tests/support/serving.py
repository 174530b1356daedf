"""An index whose rows have every kind of column, and engines to publish it to."""

import os
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm2clip_search.base.vectors import unit
from llm2clip_search.store import Row, Writer
from llm2clip_search.vectorindex.serving.engine import ServingEngine
from llm2clip_search.vectorindex.serving.lance import LanceEngine
from llm2clip_search.vectorindex.serving.qdrant import QdrantEngine
from llm2clip_search.vectorindex.serving.qdrant_edge import QdrantEdgeEngine
from tests.support.encoders import ColourEncoder

ENGINES = ("memory", "edge", "lance", "server")
MODEL = ColourEncoder().identity
DIM = ColourEncoder().dim


def engine_of(kind: str, folder: Path) -> ServingEngine:
    """An engine with nothing in it."""
    if kind == "edge":
        return QdrantEdgeEngine(folder / "edge")
    if kind == "lance":
        return LanceEngine(str(folder / "lance"))
    if kind == "server":
        if "QDRANT_URL" not in os.environ:
            pytest.skip("needs a Qdrant server, whose address is in QDRANT_URL")
        address, token = os.environ["QDRANT_URL"], os.environ.get("QDRANT_API_KEY")
        return QdrantEngine.connect(address, f"test-{uuid.uuid4().hex}", token)
    from qdrant_client import QdrantClient

    return QdrantEngine("qdrant::memory:/photos", "photos", QdrantClient(":memory:"))


def rows_of(ids: Sequence[int], **columns: Any) -> list[Row]:
    """Rows in folders by year, some texts among the images, with nulls; columns of all rows may be given."""
    return [
        Row(
            **{
                "id": number,
                "path": f"20{10 + number % 15}/{number:05d}.jpg",
                "content_hash": f"h{number // 2}",
                "size": 1000 + number,
                "mtime_ns": 1_700_000_000_123_456_789 + number * 86_400_000_000_000,
                "width": 640 + number % 100,
                "height": 480,
                "format": "JPEG" if number % 3 else "PNG",
                "taken": None if number % 5 == 0 else datetime(2020, 1, 1) + timedelta(hours=number),
                "camera": None if number % 7 == 0 else f"Camera {number % 4}",
                "latitude": None if number % 2 else 50 + number / 1000,
                "corpus": ".",
                "rating": number % 6,
                "keywords": ["dog", "beach"][: number % 3] or None,
                **columns,
            }
        )
        for number in ids
    ]


def vectors_of(ids: Sequence[int]) -> np.ndarray:
    """A unit vector for each id, which depends on nothing else."""
    drawn = [np.random.default_rng(number).normal(size=DIM) for number in ids]
    return unit(np.array(drawn).reshape(len(ids), DIM))


def commit(folder: Path, ids: Sequence[int], *, removed: Sequence[int] = (), **columns: Any) -> Path:
    """Commit rows to the index ``folder/.llm2clip``, and return its folder."""
    index = folder / ".llm2clip"
    folder.mkdir(parents=True, exist_ok=True)
    with Writer.open(index, model=MODEL, dim=DIM) as writer:
        rows = rows_of(ids, **columns)
        writer.commit(rows, vectors_of(ids), removed=removed)
    return index
