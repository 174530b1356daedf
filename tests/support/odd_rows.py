"""An index whose columns hold what is hard to compare: every type, nulls, ends of ranges, odd text and names."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa

from llm2clip_search.engine.columns import column_types
from llm2clip_search.engine.filter import Filter
from llm2clip_search.store import Row, Snapshot, Writer
from tests.support.stores import MODEL, vectors

ODD_NAME = 'a.b[0] "c`d\\é'
"""A column's name with all that paths of engines give a meaning."""
BIG = 2**53
INTEGERS = (0, 1, -1, 5, 100, 127, -128, 999, 1000, 1001)
WIDE = (*INTEGERS, BIG - 1, BIG, BIG + 1, BIG + 2, -BIG - 1, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 0.1, 1.5, -1.5, 48.14, 1e300, -1e300, 5e-324, float("inf"), float("-inf"), float("nan"))
TEXTS: tuple[str, ...] = (
    "",
    "a",
    "A",
    "abc",
    "abd",
    "ab",
    "Canon",
    "canon",
    "it's",
    'a"b',
    "a\\b",
    "a%b",
    "a_b",
    "50%",
)
TEXTS += ("é", "e\u0301", "😀", "\uffff", "a\0b", "a\nb", "\uef80", "1000", "2024", "sea", "NaN")
EARLY = (datetime(1, 1, 1), datetime(1969, 12, 31, 23, 59, 59), datetime(1970, 1, 1), datetime(2024, 2, 29, 12))
LATE = (datetime(2024, 5, 17), datetime(2024, 5, 17, 10, 30), datetime(2025, 1, 1), datetime(9999, 12, 31, 23, 59, 59))
TIMES = (*EARLY, *LATE)
EXACT_TIMES = (*TIMES, datetime(2024, 5, 17, 10, 30, 0, 1), datetime(2024, 5, 17, 23, 59, 59, 999999))
LISTS: tuple[list[str | None], ...] = ([], ["sea"], ["sea", "sun"], ["it's"], ["sea", None], [None], [""], ["😀", "A"])
NAMES = (
    "a.jpg",
    "sub/b.png",
    "doc.pdf#1",
    "doc.pdf",
    "sub/\udce9.jpg",
    "it's %_.jpg",
    "/other/c.jpg",
    "s3://bucket/d.jpg",
)


def odd_index(folder: Path, *, seed: int = 0, rows: int = 60) -> Snapshot:
    """An index in which any value may meet any other."""
    chosen = random.Random(seed)

    def any_of(values: Sequence[Any]) -> Any:
        return None if chosen.random() < 0.2 else chosen.choice(values)

    with Writer.open(folder / ".llm2clip", model=MODEL, dim=4) as writer:
        made = [
            Row(
                id=number,
                path=writer.snapshot.stored(f"{number}/{chosen.choice(NAMES)}") if number % 3 else f"/x/{number}.jpg",
                content_hash=f"{number:032x}",
                size=chosen.choice(WIDE),
                mtime_ns=int(chosen.choice(EXACT_TIMES[1:-3]).replace(tzinfo=UTC).timestamp() * 1e6) * 1000,
                width=any_of(INTEGERS),
                format=any_of(("JPEG", "PNG", "HEIF")),
                taken=any_of(TIMES),
                camera=any_of(TEXTS),
                latitude=any_of(FLOATS),
                longitude=any_of((0.0, 11.5, -170.0, 175.0)),
                rating=any_of((-1, 0, 3, 5)),
                keywords=any_of(LISTS),
                modality=chosen.choice(("image", "text")),
            )
            for number in range(rows)
        ]
        columns: dict[str, pa.Array] = {
            ODD_NAME: pa.array([any_of(INTEGERS) for _ in made], pa.int32()),
            "wide": pa.array([any_of(WIDE) for _ in made], pa.int64()),
            "tiny": pa.array([any_of((0, 1, -1, 127, -128)) for _ in made], pa.int8()),
            "counted": pa.array([any_of((0, 1, BIG + 1, 2**64 - 1)) for _ in made], pa.uint64()),
            "single": pa.array([any_of(FLOATS) for _ in made], pa.float32()),
            "flag": pa.array([any_of((True, False)) for _ in made], pa.bool_()),
            "noted": pa.array([any_of(EXACT_TIMES) for _ in made], pa.timestamp("us")),
            "zoned": pa.array([any_of(EXACT_TIMES[1:-3]) for _ in made], pa.timestamp("us", "Europe/Berlin")),
            "day": pa.array([any_of([each.date() for each in TIMES]) for _ in made], pa.date32()),
            "numbers": pa.array([any_of(([], [1], [1, 2], [None], [5, 5])) for _ in made], pa.list_(pa.int64())),
            "price": pa.array([any_of((1, 2)) for _ in made], pa.decimal128(10, 2)),
            "clock": pa.array([any_of((time(1, 2), time(23))) for _ in made], pa.time64("us")),
        }
        writer.commit(made, vectors(*range(rows)), columns=pa.table(columns))
    return Snapshot(folder / ".llm2clip")


def as_conditions_see(snapshot: Snapshot) -> pa.Table:
    """All rows with the columns that conditions may name, in their stored types."""
    with Filter(snapshot).database.session(60) as session:
        table = session.table("SELECT * FROM images ORDER BY id")
    types = column_types(snapshot.schema)
    return table.select(list(types)).cast(pa.schema(list(types.items())))
