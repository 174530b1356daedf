"""Scenarios that are interrupted: by a kill, by errors of the disk, or by a power cut."""

import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from llm2clip_search.base.checksums import CHECKED
from llm2clip_search.benchmarks.perf.faults.children import Outcome, Say, run_child
from llm2clip_search.benchmarks.perf.faults.counts import Counts
from llm2clip_search.benchmarks.perf.faults.crash_states import write_crash_state
from llm2clip_search.benchmarks.perf.faults.disk import Disk, Operation, Perform
from llm2clip_search.benchmarks.perf.faults.workload import INDEX, Scenario, described, described_rows
from llm2clip_search.errors import StoreError
from llm2clip_search.store import Manifest, Snapshot, has_index, verify_index
from llm2clip_search.store.lease import READERS

ERROR_KINDS = ("ENOSPC", "EIO", "EMFILE", "EACCES", "short write", "torn write")
"""How an operation fails. A short write does not: the rest of it has to be written by a second one. A torn one has
written a half when the disk is full."""

_now_ns = time.time_ns
"""The true one, also while the clock jumps."""
_TEN_YEARS_NS = 10 * 365 * 86_400 * 10**9

NO_INDEX = -1
"""Stands for the generation of an index that does not exist yet."""

Around = Callable[[int, Operation, Perform, Say], Any]
"""Is called in place of an operation, with the number of those before it."""


@dataclass(kw_only=True)
class Tally(Counts):
    """What came of some trials."""

    unopened: int = 0
    """Indices that did not open afterwards, or that a full verification found damaged."""
    lost: int = 0
    """Indices without a row that had been committed, or with rows that no commit had."""
    unequal: int = 0
    """Indices that did not come to their end, or to another one than without an interruption."""

    @property
    def is_good(self) -> bool:
        return not (self.unopened or self.lost or self.unequal or self.crashed)


class Interrupted:
    """A scenario, its undisturbed run, and trials that are compared with that."""

    def __init__(self, scenario: Scenario, scratch: Path) -> None:
        """Prepare the scenario and run it without an interruption.

        Raises:
            StoreError: that fails.
        """
        self.scenario = scenario
        folder = scratch / scenario.name.replace(" ", "-")
        folder.mkdir(parents=True)
        # All runs are in one place: an index that lies elsewhere is one that was moved.
        self._before, self._base = folder / "before", folder / "base"
        self._base.mkdir()
        _done(run_child(lambda _: scenario.prepare(self._base)))
        self._base.rename(self._before)
        self._restore()
        plain = run_child(self._plain)
        _done(plain)
        self.seconds = plain.seconds
        self._restore()
        watched = run_child(lambda say: self._watched(say, _record, with_rows=True))
        self.final = _done(watched)
        self.states: dict[int, Any] = {}
        """Rows of the index at each commit, and at the one before."""
        self.log: list[Operation] = []
        self._commits: list[tuple[int, int]] = []
        """Generations, and how many operations there were by the end of each."""
        for kind, *value in watched.said:
            if kind == "operation":
                self.log.append(Operation(**{**value[0], "data": bytes.fromhex(value[0]["data"])}))
            elif kind == "committed":
                self._commits.append((value[0], len(self.log)))
            else:
                self.states[value[0]] = value[1]
        self._check_log(folder / "replayed")

    @property
    def steps(self) -> dict[str, list[int]]:
        """Places in the log by what is done to which file, without files that are only opened."""
        steps: dict[str, list[int]] = {}
        for number, operation in enumerate(self.log):
            if operation.kind != "open":
                steps.setdefault(operation.step, []).append(number)
        return steps

    def kill_at_random(self, tally: Tally, chance: random.Random) -> None:
        """Kill the process at any instant."""
        self._restore()
        outcome = run_child(self._plain, kill_after=chance.uniform(0.0, 1.05 * self.seconds))
        self._judge(tally, "kill" if outcome.died else "end before the kill", f"{outcome.seconds:.3f} s", outcome)

    def kill_at_step(self, tally: Tally, number: int, *, torn: bool = False) -> None:
        """Kill the process before an operation, or in the middle of a write."""

        def around(done: int, operation: Operation, perform: Perform, say: Say) -> Any:
            if done == number:
                if torn:
                    perform(operation.data[: len(operation.data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return perform(operation.data)

        self._restore()
        outcome = run_child(lambda say: self._watched(say, around))
        self._judge(tally, "kill in a write" if torn else "kill at a step", self._where(number), outcome)

    def fail_at_step(self, tally: Tally, number: int, kind: str, *, lasting: bool) -> None:
        """Let an operation fail, and with ``lasting`` all after it."""

        def around(done: int, operation: Operation, perform: Perform, say: Say) -> Any:
            if done < number or (done > number and not lasting):
                return perform(operation.data)
            half = operation.data[: (len(operation.data) + 1) // 2]
            if kind == "short write":
                return perform(half)
            if kind == "torn write":
                perform(half)
            code = errno.ENOSPC if kind == "torn write" else getattr(errno, kind)
            raise OSError(code, os.strerror(code), str(self._base / operation.path))

        self._restore()
        outcome = run_child(lambda say: self._watched(say, around))
        self._judge(tally, f"{kind}, lasting" if lasting else kind, self._where(number), outcome)

    def lose_power(self, tally: Tally, number: int, chance: random.Random) -> None:
        """Let the power go before an operation; of what was not flushed by then, any part is lost."""
        shutil.rmtree(self._base)
        write_crash_state(self._before, self.log[:number], self._base, chance)
        said = [["committed", generation] for generation, done in self._commits if done <= number]
        self._judge(tally, "power cut", self._where(min(number, len(self.log) - 1)), Outcome(said=said))

    def jump_clock(self, tally: Tally, chance: random.Random) -> None:
        """Let the clock show another time at each look, and files become younger and older, before and in the run."""
        self._restore()
        for path in self._files():
            _set_time(path, chance)

        def around(done: int, operation: Operation, perform: Perform, say: Say) -> Any:
            result = perform(operation.data)
            if chance.random() < 0.2 and (files := self._files()):
                _set_time(chance.choice(files), chance)
            return result

        def nanoseconds() -> int:
            return _any_time(chance)

        def seconds() -> float:
            return _any_time(chance) / 1e9

        def work(say: Say) -> Any:
            with mock.patch.object(time, "time", seconds), mock.patch.object(time, "time_ns", nanoseconds):
                return self._watched(say, around)

        outcome = run_child(work)
        outcome.is_refusal = False  # nothing has failed
        self._judge(tally, "clock jumps", "", outcome)

    def _files(self) -> list[Path]:
        return sorted(path for path in self._base.rglob("*") if path.is_file() and path.parent.name != READERS)

    def _where(self, number: int) -> str:
        return f"{number} ({self.log[number].step})"

    def _restore(self) -> None:
        if self._base.exists():
            shutil.rmtree(self._base)
        shutil.copytree(self._before, self._base)

    def _judge(self, tally: Tally, kind: str, where: str, outcome: Outcome) -> None:
        """Look at what an interruption has left, in a process of its own, and let the scenario come to its end."""
        tally.trials += 1
        tally.kinds[f"{self.scenario.name}: {kind}"] += 1
        what = f"{self.scenario.name}, {kind}, {where}"
        if outcome.crashed:
            tally.crashed += 1
            tally.faults.append(f"{what}: {_last_line(outcome.crashed)}")
        least = max([value[0] for kind, *value in outcome.said if kind == "committed"], default=min(self.states))
        after = run_child(self._look)
        if after.result is None:
            tally.unopened += 1
            tally.faults.append(f"{what}: does not open: {_last_line(after.error)}")
        elif after.result[2]:
            tally.unopened += 1
            tally.faults.append(f"{what}: is damaged: {after.result[2]}")
        elif after.result[0] < least or self.states.get(after.result[0]) != after.result[1]:
            tally.lost += 1
            tally.faults.append(f"{what}: commit {after.result[0]} has other rows than it had, or {least} is lost")
        end = run_child(lambda _: self._ended())
        if end.result != self.final:
            tally.unequal += 1
            tally.faults.append(f"{what}: ends otherwise: {_last_line(end.error) or _difference(end, self.final)}")

    def _look(self, say: Say) -> Any:
        index = self._base / INDEX
        if not has_index(index):
            return [NO_INDEX, {}, []]
        damaged = [f"{each.path} {each.reason}" for each in verify_index(index, full=True).damaged]
        return Snapshot(index).manifest.generation, described_rows(Snapshot(index)), damaged

    def _ended(self) -> Any:
        self.scenario.act(self._base)
        damaged = [f"{each.path} {each.reason}" for each in verify_index(self._base / INDEX, full=True).damaged]
        return {**described(self._base), "damaged": damaged}

    def _plain(self, say: Say) -> Any:
        with _saying_commits(say):
            self.scenario.act(self._base)

    def _watched(self, say: Say, around: Around, *, with_rows: bool = False) -> Any:
        """Run the scenario with a function around its operations."""
        index = self._base / INDEX
        if with_rows and has_index(index):
            say(["rows", Manifest.read(index).generation, described_rows(Snapshot(index))])
        elif with_rows:
            say(["rows", NO_INDEX, {}])
        done = 0

        def counted(operation: Operation, perform: Perform) -> Any:
            nonlocal done
            done += 1
            return around(done - 1, operation, perform, say)

        disk = Disk(self._base, counted, under=INDEX, but=f"{INDEX}/{READERS}")
        with _saying_commits(say, with_rows=with_rows), disk.watched():
            self.scenario.act(self._base)
        return {**described(self._base), "damaged": []} if with_rows else None

    def _check_log(self, replayed: Path) -> None:
        """Refuse a log that does not lead to what the run has left.

        Raises:
            StoreError: an operation was not seen.
        """
        write_crash_state(self._before, self.log, replayed, random.Random(), share=1.0)
        for path in (self._base / INDEX).rglob("*"):
            twin = replayed / path.relative_to(self._base)
            is_own = path.is_file() and path.parent.name != READERS and path.name != CHECKED  # readers write those
            if is_own and (not twin.is_file() or twin.read_bytes() != path.read_bytes()):
                raise StoreError(f"{twin} is not {path}: a change of it was not seen.")


def _any_time(chance: random.Random) -> int:
    """Nanoseconds since 1970, up to ten years before or after now."""
    return _now_ns() + chance.randint(-_TEN_YEARS_NS, _TEN_YEARS_NS)


def _set_time(path: Path, chance: random.Random) -> None:
    with suppress(FileNotFoundError):  # the run may have deleted it
        os.utime(path, ns=(0, _any_time(chance)))


def _record(done: int, operation: Operation, perform: Perform, say: Say) -> Any:
    result = perform(operation.data)
    written = operation.data[:result] if operation.kind == "write" else b""
    say(["operation", {**vars(operation), "data": written.hex()}])
    return result


@contextmanager
def _saying_commits(say: Say, *, with_rows: bool = False) -> Iterator[None]:
    """Say each commit as soon as the manifest is written."""
    write = Manifest.write

    def said(manifest: Manifest, folder: Path) -> None:
        write(manifest, folder)
        say(["committed", manifest.generation])
        if with_rows:
            say(["rows", manifest.generation, described_rows(Snapshot.unleased(folder))])

    with mock.patch.object(Manifest, "write", said):
        yield


def _done(outcome: Outcome) -> Any:
    """What a child gives that has to succeed.

    Raises:
        StoreError: it did not.
    """
    if outcome.error or outcome.died:
        raise StoreError(f"The undisturbed run fails: {outcome.error or f'signal {outcome.died}'}")
    return outcome.result


def _difference(end: Outcome, final: Any) -> str:
    if end.result is None:
        return f"died of signal {end.died}"
    return ", ".join(
        f"{name}: {end.result[name]} for {value}" for name, value in final.items() if end.result[name] != value
    )


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""
