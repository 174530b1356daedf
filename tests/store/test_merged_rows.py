"""Rows of several shards as one, against the rows of each."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2clip_search.store import Snapshot, Writer
from llm2clip_search.store import merged_rows as module
from llm2clip_search.store.compaction import compact
from llm2clip_search.store.merged_rows import MergedRows
from llm2clip_search.store.row_files import BATCH_ROWS
from llm2clip_search.store.shard_files import ROW_GROUP
from tests.support.stores import MODEL, check_intact, row, vectors


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Three shards of 5,000 rows, some of which a fourth shard has again, and some of which are deleted."""
    with Writer.open(tmp_path / "i", model=MODEL, dim=4) as writer:
        for start in range(0, 15_000, 5_000):
            numbers = range(start, start + 5_000)
            extra = pa.table({"stars": pa.array(numbers, pa.int64())}) if start == 5_000 else None
            writer.commit([row(each) for each in numbers], vectors(*numbers), columns=extra)
        again = range(3, 15_000, 7)
        writer.commit([row(each, f"moved/{each}.jpg") for each in again], vectors(*again), removed=[0, 4_999, 14_999])
    return tmp_path / "i"


def test_rows_are_merged_in_blocks(index: Path) -> None:
    """Ids of the fourth shard lie between those of the others."""
    snapshot = Snapshot(index)
    merged = MergedRows(snapshot.shards, snapshot.schema)
    tables, blocks = list(merged.tables()), list(merged.blocks())
    assert [len(table) for table in tables] == [len(block) for block in blocks] == [8192, len(merged) - 8192]
    expected = snapshot.metadata().sort_by("id")
    assert pa.concat_tables(tables).equals(expected)
    stars = expected.column("stars").drop_null().to_pylist()
    assert stars == sorted({*range(5_000, 10_000)} - {*range(3, 15_000, 7)})
    np.testing.assert_array_equal(
        np.concatenate(blocks).astype(np.float32), snapshot.vectors(expected.column("id").to_pylist())
    )


def test_a_merged_shard_is_written_like_one_that_is_written_at_once(index: Path) -> None:
    before = Snapshot(index).metadata().sort_by("id")
    with Writer.open(index, model=MODEL, dim=4) as writer:
        compact(writer, everything=True)
    check_intact(Snapshot(index))
    [shard] = Snapshot(index).shards
    assert (shard.entry.first_id, shard.entry.last_id, shard.entry.rows) == (1, 14_998, len(before))
    assert Snapshot(index).metadata().equals(before)
    assert shard.rows(np.arange(len(before))).select(before.column_names).cast(before.schema).equals(before)
    file = pq.ParquetFile(shard.metadata_path)
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    assert set(sizes[:-1]) == {ROW_GROUP}
    assert module.MERGED_ROWS % ROW_GROUP == ROW_GROUP % BATCH_ROWS == 0
