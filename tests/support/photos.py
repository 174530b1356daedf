"""An index of rows with all kinds of metadata, which are known."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from llm2clip_search.encoders import Encoder
from llm2clip_search.engine import SearchIndex
from llm2clip_search.store import Row, Snapshot, Writer
from tests.support.encoders import ColourEncoder

CAMERAS = (None, "Fuji X-T5", "Canon 50%_\\", "it's a Nikon")


def rows_of(count: int, *, seed: int = 0, first: int = 0) -> list[Row]:
    """Rows whose columns are drawn at random; each is missing in some rows."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(first, first + count):
        place = None if random.random() < 0.3 else (float(random.uniform(-60, 70)), float(random.uniform(-180, 180)))
        row = Row(
            id=number,
            path=f"photos/{2020 + int(random.integers(5))}/{number}.jpg",
            content_hash=f"{number * 7919 % 2**32:032x}"[::-1],
            size=int(np.exp(random.normal(12, 2))) + 1,
            mtime_ns=1_700_000_000_000_000_000 + int(random.integers(10**15)),
            width=int(random.integers(1, 9000)),
            height=int(random.integers(1, 9000)),
            format=("JPEG", "PNG", "HEIF")[int(random.integers(3))],
            taken=None
            if random.random() < 0.3
            else datetime(2019, 1, 1) + timedelta(seconds=int(random.integers(2 * 10**8))),
            camera=CAMERAS[int(random.integers(len(CAMERAS)))],
            latitude=place[0] if place else None,
            longitude=place[1] if place else None,
            rating=None if random.random() < 0.5 else int(random.integers(-1, 6)),
            keywords=None
            if random.random() < 0.4
            else [f"word {each}" for each in sorted(set(random.integers(0, 9, int(random.integers(0, 4))).tolist()))],
        )
        rows.append(row)
    return rows


def photos(folder: Path, rows: Sequence[Row], *, encoder: Encoder | None = None) -> SearchIndex:
    """An index of these rows in two shards, with random vectors."""
    encoder = encoder or ColourEncoder()
    vectors = np.random.default_rng(len(rows)).normal(size=(len(rows), encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    half = len(rows) // 2
    with Writer.open(folder, model=encoder.identity, dim=encoder.dim) as writer:
        writer.commit(list(rows[:half]), vectors[:half])
        writer.commit(list(rows[half:]), vectors[half:])
    return SearchIndex(Snapshot(folder), encoder)
