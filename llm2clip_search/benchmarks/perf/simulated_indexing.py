"""A simulated index run on a cluster: how long it takes at rates that were measured, with failures as they happen.

Nodes embed one unit of work after the other, and a driver commits what they return in waves. A node that fails loses
its unit, which another node embeds again; a driver that fails loses everything that it has not committed.
"""

import math
from collections import deque
from dataclasses import asdict, dataclass
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from llm2clip_search.errors import CorpusError

HOUR = 3600.0
UNIT_NOISE = 0.1
"""Standard deviation of the logarithm of a unit's time: images differ in size, and neighbours on a machine disturb."""


@dataclass(frozen=True, kw_only=True)
class IndexingCase:
    """A run to simulate. Rates are images per second, times are in the unit that their name says."""

    images: int
    nodes: int
    node_rate: float
    """Of one node while it works; measured."""
    driver_rate: float
    """Results that the driver reads and commits; measured."""
    unit: int = 4096
    """Images that are lost at once when a node fails."""
    wave: int = 262_144
    """Images of one commit."""
    load_s: float = 60.0
    """From a new node to its first image."""
    node_hours: float = math.inf
    """Mean time between the failures of one node."""
    replace_s: float = 300.0
    """Until a failed node is replaced."""
    driver_hours: float = math.inf
    """Mean time between the failures of the driver or of Ray's head node."""
    plan_rate: float = math.inf
    """Items that a driver lists and compares with the index when it starts; measured."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class IndexingOutcome:
    """What became of a run."""

    hours: float
    node_hours: float
    """Of machines that were there, working or not."""
    efficiency: float
    """Share of the machines' time that images needed which were embedded and committed once."""
    repeated: int
    """Images that were embedded once more because a failure had lost them."""
    node_failures: int
    driver_failures: int
    driver_load: float
    """Share of the time in which the driver worked; close to 1, it is what limits the run."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def simulate_indexing(case: IndexingCase) -> IndexingOutcome:
    """Simulate a run, event by event.

    The driver takes results in the order of their return, and nodes wait while two waves are waiting for it.

    Raises:
        CorpusError: a rate or a count that is not positive, or nodes that fail faster than they embed a unit.
    """
    _check(case)
    return _Run(case).finish()


def _check(case: IndexingCase) -> None:
    for name, value in asdict(case).items():
        if name not in ("load_s", "replace_s", "seed") and not value > 0:
            raise CorpusError(f"A run is simulated with {name} above 0, not {value}.")
    if case.unit / case.node_rate + case.load_s > case.node_hours * HOUR:
        raise CorpusError(
            f"A unit of {case.unit:,} images takes {case.unit / case.node_rate:,.0f} s after {case.load_s:,.0f} s of"
            f" loading, but a node fails every {case.node_hours * HOUR:,.0f} s on average."
        )


class _Run:
    """The state of a simulation; times are seconds since its start."""

    def __init__(self, case: IndexingCase) -> None:
        self.case, self.random = case, np.random.default_rng(case.seed)
        whole, rest = divmod(case.images, case.unit)
        self.waiting = whole * [case.unit] + [rest] * bool(rest)
        """Units that are not in work, as their numbers of images; the last one is next."""
        self.now, self.committed, self.repeated = 0.0, 0, 0
        self.node_failures = self.driver_failures = 0
        self.driver_busy = 0.0
        self.driver_fails = self._draw(case.driver_hours)
        self._start(case.images / case.plan_rate)

    def finish(self) -> IndexingOutcome:
        case = self.case
        while self.committed < case.images:
            time, node = self.events[0]
            if min(time, self.commit_ends) >= self.driver_fails:
                self._fail_driver()
            elif self.commit_ends <= time:
                self._commit()
            else:
                heappop(self.events)
                self.now = time
                self._step(node)
        return IndexingOutcome(
            hours=self.now / HOUR,
            node_hours=case.nodes * self.now / HOUR,
            efficiency=case.images / (case.nodes * case.node_rate * self.now),
            repeated=self.repeated,
            node_failures=self.node_failures,
            driver_failures=self.driver_failures,
            driver_load=self.driver_busy / self.now,
        )

    def _draw(self, hours: float) -> float:
        """The time of the next failure: failures without memory, as of machines that do not age within a run."""
        return self.now + float(self.random.exponential(hours * HOUR)) if math.isfinite(hours) else math.inf

    def _start(self, at: float) -> None:
        """All nodes load their encoder, and nothing is on its way."""
        self.now = at
        self.units, self.working = [0] * self.case.nodes, 0
        self.fails = [self._draw(self.case.node_hours) for _ in range(self.case.nodes)]
        self.events = [(at + self.case.load_s, node) for node in range(self.case.nodes)]
        heapify(self.events)
        self.returned: deque[int] = deque()
        self.held = 0
        """Images that were returned and are not committed."""
        self.in_commit: list[int] = []
        self.commit_ends = math.inf

    def _step(self, node: int) -> None:
        """A node returns its unit, or turns out to have failed, and takes the next one."""
        case, unit = self.case, self.units[node]
        if self.fails[node] <= self.now:
            if unit:
                self._put_down(node)
                self.waiting.append(unit)
                self.repeated += unit
            self.node_failures += 1
            ready = self.fails[node] + case.replace_s + case.load_s
            self.fails[node] = ready + float(self.random.exponential(case.node_hours * HOUR))
            heappush(self.events, (max(ready, self.now), node))
            return
        if unit:
            self._put_down(node)
            self.returned.append(unit)
            self.held += unit
            self._begin_commit()
        if self.waiting and self.held < 2 * case.wave:
            self.units[node] = self.waiting.pop()
            self.working += 1
            needed = self.units[node] / case.node_rate * math.exp(UNIT_NOISE * self.random.standard_normal())
            heappush(self.events, (min(self.now + needed, max(self.fails[node], self.now)), node))
        else:  # it asks again when the driver has had time to commit, or others to fail
            heappush(self.events, (self.now + case.unit / case.node_rate / 4, node))

    def _put_down(self, node: int) -> None:
        self.units[node] = 0
        self.working -= 1

    def _begin_commit(self) -> None:
        is_rest = not self.waiting and not self.working
        if self.in_commit or not self.returned or (self.held < self.case.wave and not is_rest):
            return
        size = 0
        while self.returned and size < self.case.wave:
            self.in_commit.append(self.returned.popleft())
            size += self.in_commit[-1]
        takes = size / self.case.driver_rate
        self.commit_ends = self.now + takes
        self.driver_busy += takes

    def _commit(self) -> None:
        self.now, self.commit_ends = self.commit_ends, math.inf
        self.committed += sum(self.in_commit)
        self.held -= sum(self.in_commit)
        self.in_commit = []
        self._begin_commit()

    def _fail_driver(self) -> None:
        """What is not committed is embedded again; the nodes begin anew when the corpus has been listed."""
        lost = [*self.in_commit, *self.returned, *(unit for unit in self.units if unit)]
        self.waiting += lost
        self.repeated += sum(lost)
        self.driver_failures += 1
        failed = self.driver_fails
        self.now = failed + self.case.replace_s + self.case.images / self.case.plan_rate
        self.driver_fails = self._draw(self.case.driver_hours)
        self._start(self.now)
