"""Which parts of row files are kept, and for how long."""

from pathlib import Path

import pyarrow as pa
import pytest

from llm2clip_search.store.recent_parts import RecentParts
from llm2clip_search.store.row_files import BATCH_ROWS, ArrowRows, row_writer

ROWS = 3 * BATCH_ROWS


class CountedRows(ArrowRows):
    """Notes what is read."""

    def __init__(self, path: Path, rows: int) -> None:
        super().__init__(path, rows)
        self.asked = list[int]()

    def batch(self, part: int) -> pa.RecordBatch:
        self.asked.append(part)
        return super().batch(part)


@pytest.fixture
def file(tmp_path: Path) -> CountedRows:
    table = pa.table({"id": range(ROWS), "name": [f"{n:09d}" for n in range(ROWS)], "none": pa.nulls(ROWS, pa.int64())})
    with row_writer(tmp_path / "rows.arrow", table.schema) as write:
        write(table)
    return CountedRows(tmp_path / "rows.arrow", ROWS)


def test_the_parts_read_last_are_kept_within_a_bound(file: CountedRows) -> None:
    recent = RecentParts(2 * file.batch(0).get_total_buffer_size())
    file.asked.clear()
    for part in (0, 1, 0, 2, 0, 1):
        columns = dict(recent.columns(file, part))
        assert set(columns) == {"id", "name"}  # the others hold nothing
        assert columns["id"].to_pylist() == [*range(part * BATCH_ROWS, (part + 1) * BATCH_ROWS)]
    assert file.asked == [0, 1, 2, 1]


def test_a_part_that_is_larger_than_the_bound_is_not_kept(file: CountedRows) -> None:
    recent = RecentParts(100)
    for part in (0, 0):
        assert dict(recent.columns(file, part))["id"][7].as_py() == 7
    assert file.asked == [0, 0]


def test_parts_of_equal_numbers_are_told_apart(file: CountedRows, tmp_path: Path) -> None:
    other = pa.table({"id": range(ROWS, 2 * ROWS)})
    with row_writer(tmp_path / "other.arrow", other.schema) as write:
        write(other)
    recent, second = RecentParts(), ArrowRows(tmp_path / "other.arrow", ROWS)
    for _ in range(2):
        assert dict(recent.columns(file, 1))["id"][0].as_py() == BATCH_ROWS
        assert dict(recent.columns(second, 1))["id"][0].as_py() == ROWS + BATCH_ROWS
