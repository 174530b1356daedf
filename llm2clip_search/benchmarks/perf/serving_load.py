"""Many clients at once while the index changes: what the server answers, and the memory, files and threads it takes."""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

from llm2clip_search.base.memory import private_bytes
from llm2clip_search.base.processes import descriptor_count, thread_count
from llm2clip_search.benchmarks.perf.http_client import KeptOpen
from llm2clip_search.benchmarks.perf.scale import synthetic_row
from llm2clip_search.benchmarks.perf.serving import CAPTIONS, PAGE, running, wait_until_ready, write_synthetic
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.encoders import Encoder
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Writer
from llm2clip_search.store.compaction import compact

SAMPLE_S = 0.5
REPLACED = 2_048
"""Rows of each commit during the run."""
POINTS = (25, 50, 100)
"""Per cent of the run at which memory is reported."""


@dataclass(frozen=True, kw_only=True)
class LoadCost:
    """What some clients met."""

    clients: int
    seconds: float
    rows: int
    """Of the index, all the time."""
    commits: int
    """Each replaced rows and wrote all shards anew; the server opened the index again after each."""
    answers: dict[int, int]
    """Answers by HTTP status."""
    search_ms: float
    """Median of the answers with 200."""
    slow_ms: float
    """99th percentile."""
    memory_mb: dict[int, float]
    """Private memory of the server by per cent of the run, each the median over the tenth of the run before."""
    descriptors: dict[int, float]
    """Its open file descriptors, likewise."""
    threads: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_load(encoder: Encoder, *, rows: int, clients: int, seconds: float) -> LoadCost:
    """Let clients ask an index in which rows are replaced, and which is written anew each time.

    Raises:
        CorpusError: the server ended, or the index could not be changed.
    """
    with tempfile.TemporaryDirectory(prefix="llm2clip-serving-") as scratch:
        index = write_synthetic(Path(scratch) / ".llm2clip", rows, encoder)
        with running(index) as (address, process):
            with KeptOpen(address) as client:
                wait_until_ready(client)
            stop = Event()
            answers, times = Counter[int](), list[float]()
            memory, descriptors, threads = list[int](), list[int](), list[int]()
            commits = [0]
            work: list[Callable[[], None]] = [
                *(partial(_ask, address, first, stop, answers, times) for first in range(clients)),
                partial(_replace_rows, index, encoder, stop, commits),
            ]
            with ThreadPoolExecutor(len(work)) as pool:
                running_work = [pool.submit(each) for each in work]
                end = time.perf_counter() + seconds
                try:
                    while time.perf_counter() < end and not any(each.done() for each in running_work):
                        memory.append(private_bytes(process))
                        descriptors.append(descriptor_count(process))
                        threads.append(thread_count(process))
                        time.sleep(SAMPLE_S)
                finally:
                    stop.set()
                for each in running_work:
                    each.result()
    return LoadCost(
        clients=clients,
        seconds=seconds,
        rows=rows,
        commits=commits[0],
        answers=dict(sorted(answers.items())),
        search_ms=1000 * statistics.median(times),
        slow_ms=1000 * statistics.quantiles(times, n=100)[-1],
        memory_mb={share: _median_until(memory, share) / 1e6 for share in POINTS},
        descriptors={share: _median_until(descriptors, share) for share in POINTS},
        threads={share: _median_until(threads, share) for share in POINTS},
    )


def _median_until(samples: Sequence[int], per_cent: int) -> float:
    """Median over the tenth of the samples that ends at so many per cent of them."""
    end = max(1, len(samples) * per_cent // 100)
    return statistics.median(samples[max(0, end - max(1, len(samples) // 10)) : end])


def _ask(address: str, first: int, stop: Event, answers: Counter[int], times: list[float]) -> None:
    """Ask one search after the other, as a person does who looks at a page in between."""
    with KeptOpen(address) as client:
        for number in count(first):
            if stop.wait(0.1):
                return
            caption = f"{CAPTIONS[number % len(CAPTIONS)]}, number {number // len(CAPTIONS)}"
            asked: dict[str, Any] = {"terms": [{"text": caption}], "k": PAGE}
            if number % 3 == 0:
                asked["where"] = f"width > {100 * (number % 90)}"
            started = time.perf_counter()
            status = client.status("/api/v1/search", asked)
            answers[status] += 1
            if status == 200:
                times.append(time.perf_counter() - started)


def _replace_rows(index: Path, encoder: Encoder, stop: Event, commits: list[int]) -> None:
    """Put new rows in the place of the oldest, as indexing does with files whose content has changed, and write all
    shards anew."""
    mixture = SphereMixture.of(10 * REPLACED, encoder.dim, seed=1)
    while not stop.wait(1):
        with Writer.open(index, model=encoder.identity, dim=encoder.dim) as writer:
            oldest = writer.snapshot.live_ids[:REPLACED]
            rows = [synthetic_row(number) for number in writer.allocate(len(oldest))]
            writer.commit(rows, mixture.draw(len(rows), stream=1 + rows[0].id), removed=oldest)
            compact(writer, everything=True)
            build_ann(writer, AnnConfig(), captions=encoder.caption_sample)
        commits[0] += 1
