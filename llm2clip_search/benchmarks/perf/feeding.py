"""An index that is fed often: one new image per run, as a scheduled job or a watched folder does."""

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.benchmarks.perf.timing import median_ms
from llm2clip_search.encoders import Encoder
from llm2clip_search.engine import open_index
from llm2clip_search.indexers import index_folder

_CAPTION = "a dog runs through deep snow"
AVERAGED = 10
"""Times are medians over the last runs, this many."""
_DESCRIPTORS = Path("/proc/self/fd")


@dataclass(frozen=True, kw_only=True)
class Fed:
    """An index after some runs."""

    runs: int
    images: int
    shards: int
    files: int
    """In the index folder."""
    dead: int
    """Rows on disk that no longer count."""
    run_ms: float
    """One run with one new image, without loading the model."""
    query_ms: float
    """Opening the index and asking for a caption."""
    descriptors: int | None
    """Files that an open index holds after a query; None where the system does not say."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def benchmark_feeding(encoder: Encoder, counts: Sequence[int], *, progress: Progress = no_progress) -> Iterator[Fed]:
    """Feed an index of a temporary folder one synthetic picture at a time, and yield its state after some runs.

    Args:
        counts: numbers of runs to measure after, ascending.
    """
    with tempfile.TemporaryDirectory(prefix="llm2clip-feeding-") as name:
        images = Path(name) / "images"
        images.mkdir()
        index = Path(name) / "index"
        times = []
        for run in range(1, counts[-1] + 1):
            _picture(run).save(images / f"{run:06}.png")
            started = time.perf_counter()
            index_folder(images, encoder=encoder, index=index)
            times.append(time.perf_counter() - started)
            progress("runs", run, counts[-1], {})
            if run in counts:
                yield _measured(index, encoder, run, 1000 * statistics.median(times[-AVERAGED:]))


def _measured(index: Path, encoder: Encoder, runs: int, run_ms: float) -> Fed:
    query_ms = median_ms(lambda _: open_index(index, encoder=encoder).query(_CAPTION), range(AVERAGED + 1))
    gc.collect()  # an open index refers to itself, and its files are kept while it exists
    before = _descriptors()
    opened = open_index(index, encoder=encoder)
    opened.query(_CAPTION)
    after = _descriptors()
    manifest = opened.snapshot.manifest
    return Fed(
        runs=runs,
        images=manifest.live,
        shards=len(manifest.shards),
        files=sum(len(files) for _, _, files in os.walk(index)),
        dead=manifest.dead,
        run_ms=run_ms,
        query_ms=query_ms,
        descriptors=None if before is None or after is None else after - before,
    )


def _descriptors() -> int | None:
    return len(list(_DESCRIPTORS.iterdir())) if _DESCRIPTORS.exists() else None


def _picture(seed: int) -> Image.Image:
    """A smooth random picture."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((128, 128), Image.Resampling.BICUBIC)
