"""What an index costs as it grows: synthetic rows through the real writer, filters, exact and approximate search."""

import json
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.memory import PrivatePeak
from llm2clip_search.base.plotting import NO_MATPLOTLIB, PANEL, colours_of, panels, title
from llm2clip_search.benchmarks.perf.ann import CAPTIONS
from llm2clip_search.benchmarks.perf.scale_search import QUERIES, SearchCost, measure_search
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.benchmarks.perf.timing import median_ms, seconds_of
from llm2clip_search.engine.filter import Filter
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Row, Snapshot, Writer
from llm2clip_search.store.compaction import compact

logger = logging.getLogger(__name__)

BLOCK = 8192
"""Rows per commit, as indexing commits them."""
ROUNDS = 5
"""Each filter is run this often after a first call that is not counted; the median is reported."""
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
    """Committed since the point before, compaction included; drawing the vectors is not counted."""
    bytes_per_row: float
    """On disk, vectors included."""
    peak_gb: float
    """Most memory of this process until now. Mapped files are not counted: the system takes their pages back when it
    needs memory."""
    open_ms: float
    """Opening the index, without a query."""
    filter_ms: dict[str, float]
    """One filter to ids, by entry of `CONDITIONS`."""
    scan_ms: dict[str, float]
    """The same by DuckDB alone, over the same Parquet files."""
    join_ms: float
    """Metadata of 20 random rows that were not read before."""
    join_again_ms: float
    """The same rows read again."""
    search: SearchCost

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
    captions, others = (mixture.captions(QUERIES, stream=CAPTIONS + number) for number in (0, 1))
    with PrivatePeak() as peak, tempfile.TemporaryDirectory(prefix="llm2clip-scale-") as scratch:
        folder = Path(scratch) / "index"
        with Writer.open(folder, model=ModelIdentity.from_name(f"synthetic, seed {seed}"), dim=dim) as writer:
            for size in sizes:
                logger.info("writing %s rows", f"{size:,}")
                grown = size - writer.manifest.live
                commits: list[float] = []
                merges: list[float] = []
                while (count := min(BLOCK, size - writer.manifest.live)) > 0:
                    rows = [synthetic_row(number, seed) for number in writer.allocate(count)]
                    vectors = mixture.draw(count, stream=1 + rows[0].id)
                    commits.append(seconds_of(partial(writer.commit, rows, vectors)))
                    merges.append(seconds_of(partial(compact, writer)))
                building = seconds_of(partial(build_ann, writer, AnnConfig(seed=seed), captions=lambda _: others))
                yield _measured(folder, captions, commits, grown / sum(commits + merges), building, peak)


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


def _measured(
    folder: Path, captions: np.ndarray, commits: list[float], rate: float, building: float, peak: PrivatePeak
) -> ScalePoint:
    opened = median_ms(lambda _: Snapshot(folder), range(ROUNDS))
    snapshot = Snapshot(folder)
    logger.info("measuring %s rows", f"{snapshot.manifest.live:,}")
    conditions, scan = Filter(snapshot), _parquet_scan(snapshot)
    generator = np.random.default_rng(0)
    drawn = [generator.choice(snapshot.manifest.next_id, 20).tolist() for _ in range(ROUNDS + 1)]
    return ScalePoint(
        rows=snapshot.manifest.live,
        shards=len(snapshot.manifest.shards),
        commit_ms=1000 * statistics.median(commits),
        rows_per_second=rate,
        bytes_per_row=_size_of(snapshot) / snapshot.manifest.live,
        open_ms=opened,
        filter_ms={name: median_ms(conditions.ids, [where] * (ROUNDS + 1)) for name, where in CONDITIONS.items()},
        scan_ms={name: median_ms(scan, [where] * (ROUNDS + 1)) for name, where in CONDITIONS.items()},
        join_ms=median_ms(snapshot.rows, drawn),
        join_again_ms=median_ms(snapshot.rows, drawn),
        search=measure_search(snapshot, captions, building),
        peak_gb=peak.bytes / 1e9,
    )


def _parquet_scan(snapshot: Snapshot) -> Callable[[str], object]:
    """DuckDB's scan of an index's files for a condition, without anything of ours."""
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute("SET parquet_metadata_cache = true")
    files = [str(shard.metadata_path) for shard in snapshot.shards]
    return lambda where: connection.execute(f"SELECT id FROM read_parquet({files}) WHERE {where}").fetchnumpy()


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
        "exact search": [point.search.exact_ms for point in points],
        "search": [point.search.engine_ms for point in points],
        **{f"filter, {name}": [point.filter_ms[name] for point in points] for name in CONDITIONS},
        "metadata of 20 rows": [point.join_ms for point in points],
        "commit of 8,192 rows": [point.commit_ms for point in points],
    }
    colours = colours_of(tuple(series))
    for name, values in series.items():
        axes.plot([point.rows for point in points], values, "o-", color=colours[name], label=name)
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="milliseconds")
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1.0))
    title(axes, "Cost as an index grows")
    figure.savefig(picture)
    return [lines, picture]
