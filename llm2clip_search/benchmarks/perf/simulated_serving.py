"""A simulated serving engine of several machines: latencies of queries that every shard has to answer.

A query is sent to one replica of each shard and is answered when the slowest of them has answered, so that rare delays
of one machine are common for queries (Dean and Barroso, The Tail at Scale, CACM 56(2), 2013).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm2clip_search.errors import CorpusError

LINKS = 2 * 16 * 4
"""Bytes of a row's links in the lowest layer of a graph with m = 16; higher layers add a sixteenth of it."""
BOOKKEEPING = 32
"""Bytes of a row's id, version and place in memory."""
BITS = {"float32": 32.0, "float16": 16.0, "int8": 8.0, "binary": 1.0}
"""Bits for each dimension of what a search compares in memory; the vectors themselves are on the disk."""


@dataclass(frozen=True, kw_only=True)
class ServingCase:
    """An engine to simulate."""

    rows: int
    shards: int
    replicas: int
    queries_per_second: float
    measured: tuple[tuple[int, float], ...]
    """Median milliseconds of a search of one shard on one core, by its rows; a power law through them is continued."""
    spread: float
    """Ratio of the 95th percentile to the median of these times."""
    cores: int = 8
    """Of each machine; a search of a shard takes one."""
    slow_share: float = 0.001
    """Searches of a shard that something else on its machine delays."""
    slow_factor: float = 10.0
    network_ms: float = 0.5
    queries: int = 20_000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ServingOutcome:
    """Latencies in milliseconds."""

    machines: int
    shard_ms: float
    """Median time of a search of one shard, without waiting."""
    load: float
    """Share of the cores' time that searches take."""
    p50_ms: float
    p95_ms: float
    p99_ms: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def bytes_per_row(dim: int, kind: str) -> float:
    """Memory of a row in a graph whose searches compare vectors of a kind of `BITS`.

    Raises:
        CorpusError: no such kind.
    """
    if kind not in BITS:
        raise CorpusError(f"Vectors are held as {', '.join(BITS)}, not as {kind!r}.")
    return dim * BITS[kind] / 8 + LINKS * 17 / 16 + BOOKKEEPING


def shard_ms(rows: float, measured: Sequence[tuple[int, float]]) -> float:
    """Median milliseconds of a search of so many rows: ``a * rows^b`` through the measured points, by least squares of
    the logarithms; with one point, time is proportional to the logarithm of the rows, as of a graph's walk.

    Raises:
        CorpusError: no points, or one that is not positive.
    """
    if not measured or any(n < 2 or ms <= 0 for n, ms in measured):
        raise CorpusError("Times of a shard are measured at 2 rows or more, and are above 0.")
    if len(measured) == 1:
        [(known, ms)] = measured
        return float(ms * np.log(rows) / np.log(known))
    sizes, times = np.log(np.array(measured, dtype=np.float64)).T
    slope, start = np.polyfit(sizes, times, 1)
    return float(np.exp(start + slope * np.log(rows)))


def simulate_serving(case: ServingCase) -> ServingOutcome:
    """Simulate queries that arrive at random, at a constant rate.

    Each shard's search goes to the replica with less work of two that are drawn, and waits there for a free core.

    Raises:
        CorpusError: counts or times that are not positive, or more queries than the machines can answer.
    """
    if min(case.rows, case.shards, case.replicas, case.cores, case.queries) < 1 or not case.queries_per_second > 0:
        raise CorpusError("Rows, shards, replicas, cores and queries are simulated from 1 on, and a rate above 0.")
    if not case.spread >= 1:
        raise CorpusError(f"The 95th percentile is at least the median, but the ratio is {case.spread}.")
    random = np.random.default_rng(case.seed)
    median = shard_ms(case.rows / case.shards, case.measured)
    sigma = np.log(case.spread) / 1.645  # of a lognormal distribution, by its 95th percentile
    mean = median * np.exp(sigma**2 / 2) * (1 + case.slow_share * (case.slow_factor - 1))
    load = case.queries_per_second * mean / 1000 / (case.replicas * case.cores)
    if load >= 1:
        raise CorpusError(
            f"{case.queries_per_second:g} queries/s need {load:.2f} times the cores of {case.replicas} replicas."
        )
    arrivals = np.cumsum(random.exponential(1000 / case.queries_per_second, case.queries))
    free = np.zeros((case.shards, case.replicas, case.cores))
    every = np.arange(case.shards)
    latencies = np.empty(case.queries)
    for number, now in enumerate(arrivals):
        times = median * np.exp(sigma * random.standard_normal(case.shards))
        times[random.random(case.shards) < case.slow_share] *= case.slow_factor
        first, second = random.integers(0, case.replicas, (2, case.shards))
        work = np.maximum(free - now, 0).sum(axis=2)
        replica = np.where(work[every, first] <= work[every, second], first, second)
        core = free[every, replica].argmin(axis=1)
        done = np.maximum(free[every, replica, core], now) + times
        free[every, replica, core] = done
        latencies[number] = done.max() - now + case.network_ms
    settled = latencies[case.queries // 10 :]  # the machines were idle at first
    p50, p95, p99 = np.percentile(settled, [50, 95, 99]).tolist()
    return ServingOutcome(
        machines=case.shards * case.replicas, shard_ms=median, load=load, p50_ms=p50, p95_ms=p95, p99_ms=p99
    )
