"""Many clients at once while the index changes: what the server answers, and what memory it takes."""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

from llm2clip_search.base.memory import private_bytes
from llm2clip_search.benchmarks.perf.http_client import KeptOpen
from llm2clip_search.benchmarks.perf.scale import synthetic_row
from llm2clip_search.benchmarks.perf.serving import CAPTIONS, PAGE, running, wait_until_ready, write_synthetic
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.encoders import Encoder
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Writer
from llm2clip_search.store.compaction import compact

SAMPLE_S = 0.5
ADDED = 2_048
"""Rows of each commit during the run."""


@dataclass(frozen=True, kw_only=True)
class LoadCost:
    """What some clients met."""

    clients: int
    seconds: float
    rows: int
    """At the end."""
    commits: int
    """After each of which the server opened the index again."""
    answers: dict[int, int]
    """Answers by HTTP status."""
    search_ms: float
    """Median of the answers with 200."""
    slow_ms: float
    """99th percentile."""
    memory_before_mb: float
    """Private memory of the server, median over the second tenth of the run."""
    memory_after_mb: float
    """The same over the last tenth."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_load(encoder: Encoder, *, rows: int, clients: int, seconds: float) -> LoadCost:
    """Let clients ask an index to which rows are added, and whose approximate index is built again, all the time.

    Args:
        rows: of the index in the beginning.
    """
    with tempfile.TemporaryDirectory(prefix="llm2clip-serving-") as scratch:
        index = write_synthetic(Path(scratch) / ".llm2clip", rows, encoder)
        with running(index) as (address, process):
            with KeptOpen(address) as client:
                wait_until_ready(client)
            stop = Event()
            answers, times, memory = Counter[int](), list[float](), list[int]()
            commits = [0]
            work: list[Callable[[], None]] = [
                *(lambda first=first: _ask(address, first, stop, answers, times) for first in range(clients)),
                lambda: _grow(index, encoder, stop, commits),
            ]
            threads = [Thread(target=each, daemon=True) for each in work]
            for thread in threads:
                thread.start()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                memory.append(private_bytes(process))
                time.sleep(SAMPLE_S)
            stop.set()
            for thread in threads:
                thread.join()
    tenth = max(1, len(memory) // 10)
    return LoadCost(
        clients=clients,
        seconds=seconds,
        rows=rows + ADDED * commits[0],
        commits=commits[0],
        answers=dict(sorted(answers.items())),
        search_ms=1000 * statistics.median(times),
        slow_ms=1000 * statistics.quantiles(times, n=100)[-1],
        memory_before_mb=statistics.median(memory[tenth : 2 * tenth]) / 1e6,
        memory_after_mb=statistics.median(memory[-tenth:]) / 1e6,
    )


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


def _grow(index: Path, encoder: Encoder, stop: Event, commits: list[int]) -> None:
    mixture = SphereMixture.of(100_000, encoder.dim, seed=1)
    while not stop.wait(1):
        with Writer.open(index, model=encoder.identity, dim=encoder.dim) as writer:
            rows = [synthetic_row(number) for number in writer.allocate(ADDED)]
            writer.commit(rows, mixture.draw(ADDED, stream=1 + rows[0].id))
            compact(writer)
            build_ann(writer, AnnConfig(), captions=encoder.caption_sample)
        commits[0] += 1
