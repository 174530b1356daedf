"""Compaction keeps every live row and its bits, under any history, and an index that is fed often stays small."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2clip_search.base import checksums
from llm2clip_search.engine import SearchIndex
from llm2clip_search.errors import StoreError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Row, Snapshot, Writer
from llm2clip_search.store.compaction import Compaction, CompactionResult, compact
from llm2clip_search.store.shard import Shard
from tests.support.commands import RunCli
from tests.support.faults import PowerCutError, cut_power_at
from tests.support.stores import MODEL, check_intact, fill, live, row, vectors
from tests.support.vectors import DIM, add, clustered
from tests.support.vectors import MODEL as CLUSTERED_MODEL


def test_an_index_that_is_fed_one_row_at_a_time_stays_small(tmp_path: Path) -> None:
    counts = []
    with Writer.open(tmp_path, model=MODEL, dim=4) as writer:
        for identifier in range(300):
            writer.commit([row(identifier)], vectors(identifier))
            compact(writer)
            counts.append(len(writer.manifest.shards))
    assert max(counts) <= 7 * 3 + 1  # at most seven of each level: 1 to 7 rows, 8 to 63, 64 to 511
    snapshot = Snapshot(tmp_path)
    check_intact(snapshot)
    assert live(tmp_path) == {i: f"{i}.jpg" for i in range(300)}
    np.testing.assert_array_equal(snapshot.vectors(range(300)), vectors(*range(300)))
    assert len(list((tmp_path / "shards").iterdir())) == len(snapshot.manifest.shards)  # replaced ones are swept


def test_large_shards_with_a_few_dead_rows_are_left_alone(tmp_path: Path) -> None:
    """Or an index of millions would be rewritten for every row that is removed. Mostly dead ones are not."""
    config = Compaction(fanout=2, target_rows=8)
    with Writer.open(tmp_path, model=MODEL, dim=4) as writer:
        for start in range(0, 80, 8):
            writer.commit([row(i) for i in range(start, start + 8)], vectors(*range(start, start + 8)))
        writer.commit(removed=range(0, 80, 8))
        assert compact(writer, config) == CompactionResult()
        writer.commit(removed=range(1, 5))
        result = compact(writer, config)
        assert (result.merged, result.written, result.dropped_rows) == (1, 1, 5)
        result = compact(writer, config, everything=True)
        assert (result.dropped_rows, writer.manifest.dead) == (9, 0)
    assert sorted(live(tmp_path)) == [i for i in range(80) if i % 8 and i not in range(5)]


steps = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "rename", "compact", "all"]), st.integers(0, 10**6)), max_size=25
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_any_history_leaves_the_rows_that_it_should(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("history") / "i"
    expected: dict[int, str] = {}
    config = Compaction(fanout=2, target_rows=6)
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        for step, number in history:
            if step == "add":
                ids = list(writer.allocate(1 + number % 3))
                writer.commit([row(i) for i in ids], vectors(*ids))
                expected |= {i: f"{i}.jpg" for i in ids}
            elif expected and step == "remove":
                gone = sorted(expected)[number % len(expected)]
                writer.commit(removed=[gone])
                del expected[gone]
            elif expected and step == "rename":
                moved = sorted(expected)[number % len(expected)]
                writer.commit([row(moved, f"moved-{number}.jpg")], vectors(moved))
                expected[moved] = f"moved-{number}.jpg"
            elif step in ("compact", "all"):
                before = Snapshot(folder)
                compact(writer, config, everything=step == "all")
                assert {r["id"]: r["path"] for r in before.metadata().to_pylist()} == expected
                if step == "all":
                    assert writer.manifest.dead == 0
    snapshot = Snapshot(folder)
    check_intact(snapshot)
    assert live(folder) == expected
    assert snapshot.live_ids.tolist() == sorted(expected)
    assert snapshot.manifest.live == len(expected)
    np.testing.assert_array_equal(snapshot.vectors(sorted(expected)), vectors(*sorted(expected)))
    assert [r["path"] for r in snapshot.rows(sorted(expected))] == [expected[i] for i in sorted(expected)]
    for entry in snapshot.manifest.shards:
        held = next(shard for shard in snapshot.shards if shard.name == entry.name).ids
        assert (entry.first_id, entry.last_id) == (held.min(), held.max())


@pytest.mark.parametrize("late", [False, True])
def test_a_power_cut_at_any_step_of_a_compaction_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    monkeypatch.setattr(checksums, "TICK_NS", 1 << 62)  # or the number of steps would depend on the clock
    expected = {0: "0.jpg", 2: "2.jpg", 3: "moved.jpg"}
    merged = []
    for step in range(100):
        folder = tmp_path / str(step)
        fill(folder, 0, 1)
        fill(folder, 2, 3)
        with Writer.open(folder, model=MODEL, dim=4) as writer:
            writer.commit([row(3, "moved.jpg")], vectors(3), removed=[1])
        with monkeypatch.context() as patch:
            cut_power_at(patch, step, late=late)
            try:
                with Writer.open(folder, model=MODEL, dim=4) as writer:
                    compact(writer, everything=True)
                    done = True
            except PowerCutError:
                done = False
        check_intact(Snapshot(folder))
        assert live(folder) == expected, step
        fill(folder, 9)
        assert live(folder) == expected | {9: "9.jpg"}
        named = {entry.name for entry in Snapshot(folder).manifest.shards}
        assert {path.name for path in (folder / "shards").iterdir()} == named
        merged.append(len(named) == 2)
        if done:
            break
    assert done
    assert step > 8
    assert merged == sorted(merged)  # once merged, never unmerged


def test_the_approximate_index_outlives_a_compaction(tmp_path: Path) -> None:
    """What it covers is merged by itself: nothing is added to it twice, and nothing is built again."""
    config = AnnConfig(kind="hnsw", tail_rows=100)
    with Writer.open(tmp_path, model=CLUSTERED_MODEL, dim=DIM) as writer:
        for seed in range(4):
            add(writer, clustered(seed, 200))
        built = build_ann(writer, config)
        assert built is not None
        for seed in range(4, 7):
            add(writer, clustered(seed, 100))
        result = compact(writer, everything=True)
        assert (result.merged, result.written) == (7, 2)
        assert writer.manifest.ann is not None
        assert writer.manifest.ann.name == built.name
        entry = build_ann(writer, config)
        assert entry is not None
        assert (entry.rows, entry.trained_on) == (1100, 800)
        assert build_ann(writer, config) == entry
    index = SearchIndex(Snapshot(tmp_path))
    _, found = index.search(np.concatenate([clustered(seed, 200)[:1] for seed in range(4)]), k=1)
    assert found[:, 0].tolist() == [0, 200, 400, 600]


def test_columns_of_any_type_survive(tmp_path: Path) -> None:
    """Shards without a column have nulls; a merge keeps type and values."""
    typed = pa.table(
        {
            "headline": ["a dog", None],
            "tags": pa.array([["x", "y"], []], pa.list_(pa.string())),
            "stars": pa.array([5, 3], pa.int8()),
            "place": pa.array([{"lat": 1.0, "name": "a"}, None], pa.struct({"lat": pa.float64(), "name": pa.string()})),
            "price": pa.array([None, 2], pa.decimal128(9, 2)),
        }
    )
    with Writer.open(tmp_path, model=MODEL, dim=4) as writer:
        writer.commit([row(0)], vectors(0))
        writer.commit([row(1), row(2)], vectors(1, 2), columns=typed)
        writer.commit([row(3)], vectors(3), columns=pa.table({"headline": ["a cat"]}))
        for wrong, message in (
            (pa.table({"headline": [1]}), "'headline' is int64 here, but string in the index"),
            (pa.table({"width": [1]}), "cannot bring a column 'width'"),
        ):
            with pytest.raises(StoreError, match=message):
                writer.commit([row(4)], vectors(4), columns=wrong)
        before = Snapshot(tmp_path).metadata()
        compact(writer, everything=True)
    after = Snapshot(tmp_path)
    assert after.metadata().sort_by("id").equals(before.sort_by("id"))
    assert [column.name for column in after.manifest.columns] == typed.column_names
    first, second, _, last = after.rows([0, 1, 2, 3])
    assert first["headline"] is first["tags"] is None
    assert (second["tags"], second["place"], second["stars"]) == (["x", "y"], {"lat": 1.0, "name": "a"}, 5)
    assert (last["headline"], last["stars"]) == ("a cat", None)
    found = SearchIndex(after)._filter().ids("stars > 3 OR headline = 'a cat' OR list_contains(tags, 'z')")
    assert found.tolist() == [1, 3]


def test_a_commit_reads_no_earlier_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it removes or replaces one of its rows."""
    with Writer.open(tmp_path, model=MODEL, dim=4) as writer:
        for identifier in range(20):
            writer.commit([row(identifier)], vectors(identifier))
        read: list[str] = []
        real = Shard.read

        def noted(shard: Shard, columns: list[str]) -> pa.Table:
            read.append(shard.name)
            return real(shard, columns)

        monkeypatch.setattr(Shard, "read", noted)
        writer.commit([row(20)], vectors(20))
        assert read == []
        writer.commit(removed=[7])
        assert read == ["000008"]


def test_compact_is_a_command(tmp_path: Path, run_cli: RunCli) -> None:
    folder = tmp_path / ".llm2clip"
    for identifier in range(3):
        fill(folder, identifier)
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        writer.commit(removed=[1])
    done = run_cli("compact")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3 shards merged into 1, 1 deleted rows dropped; the index has 1 shards\n"
    assert live(folder) == {0: "0.jpg", 2: "2.jpg"}
    assert run_cli("compact").stdout == "nothing to do; the index has 1 shards\n"


def test_a_row_of_another_width_or_none(tmp_path: Path) -> None:
    with Writer.open(tmp_path, model=MODEL, dim=4) as writer:
        assert compact(writer, everything=True).merged == 0  # nothing there at all
        writer.commit([Row(id=5, path="x", content_hash="", size=0, mtime_ns=0, width=1, height=1)], vectors(1))
        writer.commit(removed=[5])
        result = compact(writer)
        assert (result.merged, result.written, result.dropped_rows) == (1, 0, 1)
        assert writer.manifest.shards == ()
        assert list(writer.allocate(1)) == [6]  # an id is never given again
