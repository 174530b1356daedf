"""Files of an index that are damaged at random places: whether that is noticed, and whether it gives wrong answers."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2clip_search.base.checksums import CHECKED
from llm2clip_search.benchmarks.perf.faults.children import run_child
from llm2clip_search.benchmarks.perf.faults.counts import Counts
from llm2clip_search.benchmarks.perf.faults.workload import (
    INDEX,
    NoiseEncoder,
    answers,
    build_searched,
    index_images,
)
from llm2clip_search.errors import StoreError
from llm2clip_search.indexers import repair_index
from llm2clip_search.store import Snapshot, verify_index
from llm2clip_search.store.lease import READERS
from llm2clip_search.store.snapshot import FAILURES

Damage = Callable[[bytes, random.Random], bytes]


def _flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _zero(data: bytes, chance: random.Random) -> bytes:
    """A sector of zeros, as of a write that was lost."""
    at = 512 * chance.randrange((len(data) + 511) // 512)
    return data[:at] + bytes(len(data[at : at + 512])) + data[at + 512 :]


DAMAGE: dict[str, Damage] = {"bit flip": _flip, "truncation": _cut, "zeroed sector": _zero}


@dataclass(kw_only=True)
class Corruption(Counts):
    """What came of damaged files."""

    refused: int = 0
    """Searches that ended with an error that says so."""
    right: int = 0
    """Searches that gave what they give of the sound index."""
    wrong: int = 0
    """Searches that gave something else, and said nothing."""
    found: int = 0
    """Damages that a quick verification names."""
    found_in_full: int = 0
    """Damages that a full verification names."""
    harmless: int = 0
    """Of those that it does not name, the ones in files that nothing depends on, or that say the same."""
    repaired: int = 0
    """Indices that were repaired, and give the same answers again."""
    unrepaired: int = 0
    """Repaired indices that are damaged or give other answers."""

    @property
    def is_good(self) -> bool:
        missed = self.trials - self.found_in_full - self.harmless
        return not (self.wrong or self.crashed or self.unrepaired or missed)


class Corrupted:
    """An index with all kinds of files, which are damaged one at a time and restored."""

    def __init__(self, scratch: Path) -> None:
        """Build the index.

        Raises:
            StoreError: that fails.
        """
        self._base, self._index = scratch / "searched", scratch / "searched" / INDEX
        self._base.mkdir(parents=True)
        built = run_child(lambda _: build_searched(self._base))
        asked = run_child(lambda _: answers(self._index))
        if built.error or asked.error or asked.result is None:
            raise StoreError(f"The index cannot be built: {built.error or asked.error}")
        self._answers = asked.result
        self._failures = run_child(lambda _: Snapshot(self._index).failures()).result
        files = (path for path in sorted(self._index.rglob("*")) if path.is_file() and path.stat().st_size)
        self.files = [path for path in files if path.parent.name != READERS and not path.name.startswith("writer.")]

    def damage(self, tally: Corruption, chance: random.Random, *, repair: bool = False) -> None:
        """Damage one file, look what comes of it, and restore it."""
        path, kind = chance.choice(self.files), chance.choice([*DAMAGE])
        whole = path.read_bytes()
        damaged = DAMAGE[kind](whole, chance)
        if damaged == whole:
            return
        name = path.relative_to(self._index).as_posix()
        tally.trials += 1
        tally.kinds[f"{path.name.split('-')[0] if path.parent == self._index else path.suffix}: {kind}"] += 1
        path.write_bytes(damaged)
        try:
            self._search(tally, f"{name}, {kind}")
            self._verify(tally, name, f"{name}, {kind}", is_known=whole.strip() == damaged.strip())
            if repair:
                self._repair(tally, f"{name}, {kind}")
        finally:
            path.write_bytes(whole)

    def _search(self, tally: Corruption, what: str) -> None:
        asked = run_child(lambda _: answers(self._index))
        if asked.crashed:
            tally.crashed += 1
            tally.faults.append(f"{what}: search: {asked.crashed.strip().splitlines()[-1]}")
        elif asked.is_refusal:
            tally.refused += 1
        elif asked.result == self._answers:
            tally.right += 1
        else:
            tally.wrong += 1
            tally.faults.append(f"{what}: other answers")

    def _verify(self, tally: Corruption, name: str, what: str, *, is_known: bool) -> None:
        def verify(_: object) -> Any:
            quick = verify_index(self._index)
            return [file.path for file in quick.damaged], [
                file.path for file in verify_index(self._index, full=True).damaged
            ]

        found, failures = run_child(verify), run_child(lambda _: Snapshot(self._index).failures())
        if found.result is None:
            tally.crashed += 1
            tally.faults.append(f"{what}: verify: {found.error.strip().splitlines()[-1:]}")
            return
        quick, full = found.result
        tally.found += name in quick
        tally.found_in_full += name in full
        if name not in full:
            if name == CHECKED or is_known or (name == FAILURES and failures.result == self._failures):
                tally.harmless += 1
            else:
                tally.faults.append(f"{what}: a full verification does not find it")

    def _repair(self, tally: Corruption, what: str) -> None:
        """Repair a copy, which is built in the place of the original: an index that lies elsewhere was moved."""
        aside = self._base.with_name("aside")
        shutil.copytree(self._base, aside)

        def repair(_: object) -> Any:
            repair_index(self._index, encoder=NoiseEncoder)
            index_images(self._base)
            damaged = verify_index(self._index, full=True).damaged
            return [f"{file.path} {file.reason}" for file in damaged], _scores(answers(self._index))

        done = run_child(repair)
        shutil.rmtree(self._base)
        aside.rename(self._base)
        if done.result is None or done.result[0] or done.result[1] != _scores(self._answers):
            tally.unrepaired += 1
            lines = done.error.strip().splitlines()
            reason = lines[-1] if lines else f"damaged: {done.result[0]}" if done.result[0] else "other answers"
            tally.faults.append(f"{what}: not repaired: {reason}")
        else:
            tally.repaired += 1


def _scores(found: dict[str, Any]) -> dict[str, Any]:
    """Paths and scores of exact searches, which do not depend on ids."""
    return {hit["path"]: round(hit["score"], 4) for hit in found["exact"]}
