"""What the checks of an index cost that searches, merges and verifications make."""

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.vectors import unit
from llm2clip_search.benchmarks.perf.timing import seconds_of
from llm2clip_search.store import Row, Snapshot, Writer, verify_index
from llm2clip_search.store.compaction import compact
from llm2clip_search.store.shard import METADATA, VECTORS, Shard

WIDTH = 512
SHARD_ROWS = 4_096
REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class CheckCost:
    """Times on an index of that many rows of `WIDTH` dimensions, in shards of `SHARD_ROWS`."""

    rows: int
    megabytes: float
    known_us: float
    """Microseconds to confirm a file that has not changed since it was compared, the median."""
    compared_s: float
    """Seconds to compare all files with their checksums, as the first use of a copy does."""
    full_s: float
    """Seconds of a full verification."""
    merge_s: float
    """Seconds to merge all shards into one."""
    merge_unchecked_s: float
    """The same without comparing what is read with its checksum."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def measure_checks(folder: Path, *, rows: int) -> CheckCost:
    """Build an index in an empty folder and measure; files are in the system's cache."""
    merges = []
    for name in ("unchecked", "checked"):
        _build(folder / name, rows)
        with _writer(folder / name) as writer:
            if name == "checked":
                merges.append(seconds_of(lambda writer=writer: compact(writer, everything=True)))  # type: ignore[misc]
            else:
                with mock.patch.object(Shard, "confirm"):
                    merges.append(seconds_of(lambda writer=writer: compact(writer, everything=True)))  # type: ignore[misc]
    index = folder / "index"
    _build(index, rows)
    full = min(seconds_of(lambda: verify_index(index, full=True)) for _ in range(REPEATS))
    (index / "checked.json").unlink()
    compared = seconds_of(lambda: verify_index(index))
    snapshot = Snapshot(index)
    known = [
        seconds_of(lambda shard=shard, name=name: shard.confirm(name))  # type: ignore[misc]
        for shard in snapshot.shards
        for name in (VECTORS, METADATA)
        for _ in range(REPEATS)
    ]
    return CheckCost(
        rows=rows,
        megabytes=verify_index(index).bytes / 1e6,
        known_us=1e6 * statistics.median(known),
        compared_s=compared,
        full_s=full,
        merge_s=merges[1],
        merge_unchecked_s=merges[0],
    )


def _build(index: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    with _writer(index) as writer:
        for start in range(0, rows, SHARD_ROWS):
            ids = range(start, min(rows, start + SHARD_ROWS))
            made = [Row(id=i, path=f"{i // 1000}/{i}.jpg", content_hash=f"{i:032x}", size=i, mtime_ns=i) for i in ids]
            writer.commit(made, unit(random.standard_normal((len(ids), WIDTH), dtype=np.float32)))


def _writer(index: Path) -> Any:
    return Writer.open(index, model=ModelIdentity.from_name("noise"), dim=WIDTH)
