"""What the store, filters and exact search cost as an index grows: synthetic rows through the real writer."""

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.memory import peak_bytes
from llm2clip_search.base.plotting import NO_MATPLOTLIB, PANEL, colours_of, panels, title
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.benchmarks.perf.timing import seconds_of
from llm2clip_search.engine import SearchIndex
from llm2clip_search.engine.filter import Filter
from llm2clip_search.errors import CorpusError
from llm2clip_search.store import Row, Snapshot, Writer
from llm2clip_search.store.compaction import compact

logger = logging.getLogger(__name__)

BLOCK = 8192
"""Rows per commit, as indexing commits them."""
ROUNDS = 5
"""Each query is run this often after a first call that is not counted; the median is reported."""
CONDITIONS = {
    "0.01 %": "width = 137",
    "1 %": "width BETWEEN 100 AND 199",
    "50 %": "width >= 5100",
    "text": "path LIKE '%/2004/%'",
}
"""Filters by what they leave; widths are uniform over 100 to 10,099, and one path in 25 is of 2004."""


@dataclass(frozen=True, kw_only=True)
class ScalePoint:
    """Costs at one number of rows."""

    rows: int
    shards: int
    commit_ms: float
    """Median of the commits since the point before, without compaction."""
    rows_per_second: float
    """Since the point before, compaction included."""
    bytes_per_row: float
    """On disk, vectors included."""
    peak_gb: float
    """Memory that was ever resident in this process, mapped files included."""
    open_ms: float
    """Opening the index, without a query."""
    exact_ms: float
    """One query by exact search over all rows."""
    filter_ms: dict[str, float]
    """One filter to ids, by entry of `CONDITIONS`."""
    join_ms: float
    """Metadata of 20 random rows."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def benchmark_scale(sizes: Sequence[int], *, dim: int = 512, seed: int = 0) -> Iterator[ScalePoint]:
    """Grow one index through some sizes, ascending, and measure it at each; it is deleted at the end.

    Raises:
        CorpusError: sizes that do not ascend.
    """
    if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 1:
        raise CorpusError(f"Sizes must ascend from 1, but are {', '.join(map(str, sizes))}.")
    mixture = SphereMixture.of(sizes[-1], dim, seed=seed)
    # Drawing vectors would take longer than storing them: one block is drawn, and others are mirror images of it.
    block = mixture.draw(BLOCK, stream=1)
    queries = mixture.draw(ROUNDS + 1, stream=0)
    with tempfile.TemporaryDirectory(prefix="llm2clip-scale-") as scratch:
        folder = Path(scratch) / "index"
        with Writer.open(folder, model=ModelIdentity.from_name(f"synthetic, seed {seed}"), dim=dim) as writer:
            for size in sizes:
                logger.info("writing %s rows", f"{size:,}")
                grown = size - writer.manifest.live
                commits: list[float] = []
                started = time.perf_counter()
                while (count := min(BLOCK, size - writer.manifest.live)) > 0:
                    rows = [synthetic_row(number, seed) for number in writer.allocate(count)]
                    mirror = np.random.default_rng([seed, rows[0].id]).choice(np.array([-1, 1], dtype=np.float32), dim)
                    commits.append(seconds_of(partial(writer.commit, rows, block[:count] * mirror)))
                    compact(writer)
                took = time.perf_counter() - started
                yield _measured(folder, queries, commits, grown / took)


def synthetic_row(number: int, seed: int = 0) -> Row:
    """Metadata of a row, a function of its number: what `CONDITIONS` select from."""
    mixed = (number * 2_654_435_761 + seed) % 2**32  # Knuth's multiplicative hash: neighbours differ
    return Row(
        id=number,
        path=f"photographs/{2000 + mixed % 25}/{1 + number // 1000 % 12:02}/IMG_{number:09}.jpg",
        content_hash=f"{mixed:016x}{number:016x}",
        size=200_000 + mixed % 4_000_000,
        mtime_ns=1_600_000_000_000_000_000 + number * 1_000_000_000,
        width=100 + mixed // 25 % 10_000,
        height=100 + mixed // 7 % 10_000,
        format="JPEG",
        camera=f"Camera {mixed % 40}",
        corpus="photographs",
        version=str(number),
    )


def _measured(folder: Path, queries: np.ndarray, commits: list[float], rate: float) -> ScalePoint:
    opened = _median_ms(lambda _: Snapshot(folder), range(ROUNDS))
    snapshot = Snapshot(folder)
    logger.info("measuring %s rows", f"{snapshot.manifest.live:,}")
    index, conditions = SearchIndex(snapshot), Filter(snapshot)
    generator = np.random.default_rng(0)
    drawn = [generator.choice(snapshot.manifest.next_id, 20).tolist() for _ in range(ROUNDS + 1)]
    return ScalePoint(
        rows=snapshot.manifest.live,
        shards=len(snapshot.manifest.shards),
        commit_ms=1000 * statistics.median(commits),
        rows_per_second=rate,
        bytes_per_row=_size_of(snapshot) / snapshot.manifest.live,
        open_ms=opened,
        exact_ms=_median_ms(lambda query: index.search(query[None, :], k=10), queries),
        filter_ms={name: _median_ms(conditions.ids, [where] * (ROUNDS + 1)) for name, where in CONDITIONS.items()},
        join_ms=_median_ms(snapshot.rows, drawn),
        peak_gb=peak_bytes() / 1e9,
    )


def _median_ms(function: Callable[[Any], object], arguments: Sequence[Any] | np.ndarray) -> float:
    """Milliseconds of a call, the median; the first call, which opens files and warms caches, is not counted."""
    times = [seconds_of(partial(function, argument)) for argument in arguments]
    return 1000 * statistics.median(times[1:])


def _size_of(snapshot: Snapshot) -> int:
    return sum(path.stat().st_size for shard in snapshot.shards for path in shard.folder.iterdir())


def write_scale(points: Sequence[ScalePoint], out: Path) -> list[Path]:
    """Write ``scale.jsonl`` and ``scale.png`` to the folder ``out``, which is created if needed; returns their paths.

    Raises:
        CorpusError: matplotlib is not installed; ``scale.jsonl`` is written all the same.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines, picture = out / "scale.jsonl", out / "scale.png"
    replace_file(lines, "".join(f"{json.dumps(point.to_dict())}\n" for point in points).encode())
    try:
        figure, ((axes,),) = panels([1.5 * PANEL])
    except ImportError as error:
        raise CorpusError(f"{NO_MATPLOTLIB}; {lines} was written.") from error
    series: dict[str, list[float]] = {
        "exact search": [point.exact_ms for point in points],
        **{f"filter, {name}": [point.filter_ms[name] for point in points] for name in CONDITIONS},
        "metadata of 20 rows": [point.join_ms for point in points],
        "commit of 8,192 rows": [point.commit_ms for point in points],
        "open": [point.open_ms for point in points],
    }
    colours = colours_of(tuple(series))
    for name, values in series.items():
        axes.plot([point.rows for point in points], values, "o-", color=colours[name], label=name)
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="milliseconds")
    axes.legend(fontsize="small")
    title(axes, "Cost as an index grows")
    figure.savefig(picture)
    return [lines, picture]
