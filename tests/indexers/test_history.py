"""Random histories of folders and their index, against a simple model of what should be in it."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llm2clip_search.errors import CorpusError, StoreError
from llm2clip_search.indexers import IndexConfig, IndexSummary, forget_source, index_folder, move_source
from llm2clip_search.store import Snapshot, has_index
from llm2clip_search.store.stranded import stranded_sources
from tests.support.encoders import ColourEncoder
from tests.support.faults import PowerCutError, cut_power_at
from tests.support.images import png
from tests.support.stores import check_intact

ROOTS = ("a", "b", "c")
FOLDERS = ("", "x", "x/deep", "y")
PATTERNS = ((), ("x/",), ("*7.png", "deep/"))
DICE = st.integers(0, 2**31).map(Random)


@cache
def content(seed: int) -> bytes:
    return png(seed)


class CountingEncoder(ColourEncoder):
    """Counts how often each picture is embedded; dies after ``left`` batches."""

    def __init__(self) -> None:
        super().__init__(dim=8)
        self.pictures: Counter[bytes] = Counter()
        self.left = -1

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        if self.left == 0:
            raise PowerCutError
        self.left -= 1
        self.pictures.update(each.tobytes() for each in pixels)
        return super().encode_pixels(pixels)


class History(RuleBasedStateMachine):
    """What happens to three folders, the disks mounted in them, and an index that is fed from them.

    The model is the rows that the index should have: path, content and id of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp())
        self.world, self.elsewhere, self.disks = (self.scratch / name for name in ("world", "elsewhere", "disks"))
        for folder in (self.world, self.elsewhere, self.disks):
            folder.mkdir()
        self.index = self.world / ".llm2clip"
        self.encoder = CountingEncoder()
        self.rows: dict[str, tuple[bytes, int]] = {}
        self.unmounted: dict[Path, Path] = {}
        self.patterns: dict[str, tuple[str, ...]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.scratch)

    # what happens to the folders

    def files(self) -> list[Path]:
        return sorted(path for path in self.world.rglob("*.png") if ".llm2clip" not in path.parts)

    def folders(self) -> list[Path]:
        found = [path for root in ROOTS for path in [self.world / root, *(self.world / root).rglob("*")]]
        return sorted(path for path in found if path.is_dir())

    def new_place(self, dice: Random) -> Path:
        folder = self.world / dice.choice(ROOTS) / dice.choice(FOLDERS)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{dice.randrange(10)}.png"

    @rule(dice=DICE)
    def add(self, dice: Random) -> None:
        for _ in range(dice.randrange(1, 4)):
            self.new_place(dice).write_bytes(content(dice.randrange(40)))

    @precondition(lambda self: self.files())
    @rule(dice=DICE, what=st.sampled_from(["change", "rename", "copy", "delete", "touch"]))
    def change_file(self, dice: Random, what: str) -> None:
        file = dice.choice(self.files())
        if what == "change":
            file.write_bytes(content(dice.randrange(40)))
        elif what == "rename":
            file.rename(self.new_place(dice))
        elif what == "copy":
            self.new_place(dice).write_bytes(file.read_bytes())
        elif what == "delete":
            file.unlink()
        else:
            os.utime(file, (1, dice.randrange(10)))

    @precondition(lambda self: self.folders())
    @rule(dice=DICE, what=st.sampled_from(["rename", "rename", "copy", "delete"]))
    def change_folder(self, dice: Random, what: str) -> None:
        folder = dice.choice(self.folders())
        target = self.world / dice.choice(ROOTS) / dice.choice(FOLDERS)
        if what == "delete":
            shutil.rmtree(folder)
        elif not target.exists() and not target.is_relative_to(folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target) if what == "rename" else shutil.copytree(folder, target)

    @precondition(lambda self: self.folders())
    @rule(dice=DICE)
    def unmount(self, dice: Random) -> None:
        """A disk goes and leaves an empty folder."""
        folder = dice.choice(self.folders())
        if any(folder.iterdir()):
            disk = Path(tempfile.mkdtemp(dir=self.disks))
            folder.rename(disk)
            folder.mkdir()
            self.unmounted[folder] = disk

    @precondition(lambda self: self.unmounted)
    @rule(dice=DICE)
    def mount(self, dice: Random) -> None:
        folder = dice.choice(sorted(self.unmounted))
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            self.unmounted.pop(folder).rename(folder)

    # what happens to the index

    @rule()
    def move_index(self) -> None:
        """Without its images, to another folder or back."""
        if has_index(self.index):
            other = self.elsewhere if self.index.parent == self.world else self.world
            shutil.copytree(self.index, other / ".llm2clip")
            shutil.rmtree(self.index)
            self.index = other / ".llm2clip"

    @rule(dice=DICE)
    def index_a_folder(self, dice: Random) -> None:
        root = self.world / dice.choice(ROOTS)
        exclude = dice.choice(PATTERNS) if dice.random() < 0.15 else None
        forget, rehash = dice.random() < 0.15, dice.random() < 0.15
        self.encoder.pictures.clear()
        exclude_now = self.patterns.get(str(root), ()) if exclude is None else exclude
        seen = self.walk(root, exclude_now)
        if not seen and not (forget and root.is_dir() and has_index(self.index)):
            with pytest.raises(CorpusError, match=r"There is no folder|There are no images"):
                self.run(root, exclude)
            return
        before = self.follow() if has_index(self.index) else {}
        summary = self.run(root, exclude, forget=forget, rehash=rehash)
        self.compare(root, before, seen, summary, forget=forget)

    @rule(dice=DICE, late=st.booleans())
    def die_while_indexing(self, dice: Random, late: bool) -> None:
        """Of a cut of power at any operation, or in the model; the next run goes on from what was committed."""
        root = self.world / dice.choice(ROOTS)
        if not self.walk(root, self.patterns.get(str(root), ())):
            return
        before = self.follow() if has_index(self.index) else {}
        with pytest.MonkeyPatch.context() as patch:
            if dice.random() < 0.5:
                cut_power_at(patch, dice.randrange(60), late=late)
            else:
                self.encoder.left = dice.randrange(3)
            try:
                self.run(root, None, rows_per_commit=2)
            except PowerCutError:
                pass
            finally:
                self.encoder.left = -1
        if not has_index(self.index):
            return
        check_intact(Snapshot(self.index))
        after = self.real_rows()
        for path, (data, identifier) in before.items():
            if Path(path).exists() and Path(path).read_bytes() == data and not self.is_excluded(path):
                assert after[path] == (data, identifier)
        for path, (data, _) in after.items():
            assert path in self.rows or before.get(path, (None,))[0] == data or Path(path).read_bytes() == data
        self.rows = after
        self.patterns = {str(root): exclude for root, exclude in self.real_sources().items()}

    @rule(dice=DICE)
    def forget(self, dice: Random) -> None:
        folder = self.world / dice.choice(ROOTS) / dice.choice(FOLDERS)
        if not has_index(self.index) or self.is_away():
            return
        known = any(Path(path).is_relative_to(folder) for path in self.rows)
        sources = [root for root in self.real_sources() if root.is_relative_to(folder)]
        if not known and not sources:
            with pytest.raises(StoreError, match="has nothing below"):
                forget_source(self.index, str(folder))
            return
        removed = forget_source(self.index, str(folder))
        assert removed == sum(Path(path).is_relative_to(folder) for path in self.rows)
        self.rows = {path: row for path, row in self.rows.items() if not Path(path).is_relative_to(folder)}
        for root in sources:
            self.patterns.pop(str(root), None)

    @rule(dice=DICE)
    def follow_a_folder(self, dice: Random) -> None:
        """A root is renamed, and the index is told."""
        old, new = (self.world / name for name in dice.sample(ROOTS, 2))
        if not has_index(self.index) or self.is_away() or not old.is_dir() or new.exists():
            return
        if str(old) not in {str(root) for root in self.real_sources()}:
            return
        old.rename(new)
        move_source(self.index, str(old), str(new))
        moved = {
            str(new / Path(p).relative_to(old)): row for p, row in self.rows.items() if Path(p).is_relative_to(old)
        }
        stay = {path: row for path, row in self.rows.items() if not Path(path).is_relative_to(old)}
        self.rows = moved | stay
        old_patterns = self.patterns.pop(str(old), ())
        self.patterns.setdefault(str(new), old_patterns)

    # the model

    def run(self, root: Path, exclude: tuple[str, ...] | None, **config: object) -> IndexSummary:
        made = IndexConfig(batch_size=4, threads=1, **config)  # type: ignore[arg-type]
        return index_folder(root, encoder=self.encoder, index=self.index, exclude=exclude, config=made)

    def walk(self, root: Path, exclude: tuple[str, ...]) -> dict[str, bytes]:
        if not root.is_dir():
            return {}
        found = [path for path in self.files() if path.is_relative_to(root)]
        return {str(path): path.read_bytes() for path in found if not _matches(path.relative_to(root), exclude)}

    def is_excluded(self, path: str) -> bool:
        root = self.world / Path(path).relative_to(self.world).parts[0]
        return _matches(Path(path).relative_to(root), self.patterns.get(str(root), ()))

    def is_vacant(self, path: str, root: Path, exclude: Sequence[str]) -> bool:
        """True if a folder above a path is there, within the root, and there is nothing below it but folders that the
        run enters."""
        above = [folder for folder in Path(path).parents if folder.is_relative_to(root) and folder.is_dir()]
        return any(
            not any(each.is_file() or f"{each.name}/" in exclude for each in folder.rglob("*")) for folder in above
        )

    def is_away(self) -> bool:
        """True if the index was moved and no run has followed it yet."""
        return Snapshot(self.index).manifest.base != str(self.index.parent)

    def real_sources(self) -> dict[Path, tuple[str, ...]]:
        snapshot = Snapshot(self.index)
        return {Path(snapshot.manifest.base) / each.uri: each.exclude for each in snapshot.manifest.sources}

    def real_rows(self) -> dict[str, tuple[bytes, int]]:
        snapshot = Snapshot(self.index)
        rows = snapshot.metadata().to_pylist()
        base = Path(snapshot.manifest.base)
        found = {str(base / row["path"]): (_data(row["content_hash"]), row["id"]) for row in rows}
        assert len(found) == len(rows) == snapshot.manifest.live, "a path has one row"
        return found

    def follow(self) -> dict[str, tuple[bytes, int]]:
        """The rows as they should be once a run knows that the index has moved: files that are there keep their path;
        of a source that has nothing at all left where it was, the paths move with the index."""
        snapshot = Snapshot(self.index)
        old, new = Path(snapshot.manifest.base), snapshot.base
        behind = [old / source.uri for source in stranded_sources(snapshot)]
        moves = {
            path: str(new / Path(path).relative_to(old))
            for path in self.rows
            if old != new
            and Path(path).is_relative_to(old)
            and not any(Path(path).is_relative_to(source) for source in behind)
        }
        assert not any(Path(path).exists() for path in moves), "what is there is followed"
        stays = {path: row for path, row in self.rows.items() if path not in moves}
        return {moves[path]: row for path, row in self.rows.items() if path in moves} | stays

    def compare(
        self,
        root: Path,
        before: dict[str, tuple[bytes, int]],
        seen: dict[str, bytes],
        summary: IndexSummary,
        *,
        forget: bool,
    ) -> None:
        """What a complete run has made of the index."""
        after = self.real_rows()
        below = {path for path in before if Path(path).is_relative_to(root)}
        kept = {
            path
            for path in below - seen.keys()
            if not forget
            and self.is_vacant(path, root, summary.exclude)
            and not _matches(Path(path).relative_to(root), tuple(summary.exclude))
        }
        gone = below - seen.keys() - kept
        lost = kept | {path for path in before.keys() - below if not Path(path).exists()}
        same = {path for path in seen if before.get(path, (None,))[0] == seen[path]}
        for path in same:
            assert after[path] == before[path], "an id names one vector for ever"
        assert {path: row[0] for path, row in after.items() if path in seen} == seen
        new, known = seen.keys() - same, {data for data, _ in before.values()}
        moved: set[int] = set()
        for data in {seen[path] for path in new}:
            ids = {after[path][1] for path in new if seen[path] == data}
            candidates = {before[path][1] for path in gone | lost if before[path][0] == data}
            assert len(ids & candidates) == min(len(ids), len(candidates)), "lost files are found again"
            assert not (ids - candidates) & {row[1] for row in before.values()}
            moved |= ids & candidates
        stays = {path: row for path, row in before.items() if path not in below - kept and row[1] not in moved}
        assert after == {**stays, **{path: after[path] for path in seen}}
        assert self.encoder.pictures.total() == len({seen[path] for path in new} - known), "embedded at most once"
        assert summary.indexed == self.encoder.pictures.total()
        assert sum(summary.vacant.values()) == len({before[path][1] for path in kept} - moved)
        dead = {path for path in after if not Path(path).exists()}
        assert all(path in kept for path in dead if Path(path).is_relative_to(root)), "no dead path unless marked"
        roots = {path: Path(path).is_dir() for path in summary.missing}
        assert not any(roots.values())
        self.rows = after
        self.patterns = {str(path): exclude for path, exclude in self.real_sources().items()}

    @invariant()
    def the_index_is_the_model(self) -> None:
        if has_index(self.index) and not self.is_away():
            assert self.real_rows() == self.rows


@cache
def _hashes() -> dict[str, bytes]:
    import hashlib

    return {hashlib.blake2b(content(seed), digest_size=16).hexdigest(): content(seed) for seed in range(40)}


def _data(content_hash: str) -> bytes:
    return _hashes()[content_hash]


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    """The few gitignore patterns of this test."""
    folders = path.parts[:-1]
    return any(
        pattern.rstrip("/") in folders if pattern.endswith("/") else path.name.endswith(pattern.lstrip("*"))
        for pattern in patterns
    )


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=5, stateful_step_count=200, deadline=None, suppress_health_check=list(HealthCheck)
)
