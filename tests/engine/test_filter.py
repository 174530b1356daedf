"""Conditions on every column, against the same conditions in Python over real EXIF."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from llm2clip_search.engine import SearchIndex
from llm2clip_search.engine.columns import FIXED
from llm2clip_search.engine.filter import Filter
from llm2clip_search.errors import QueryError
from llm2clip_search.indexers import index_folder
from llm2clip_search.store import Snapshot
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph


def test_the_name_of_an_index_is_no_pattern(tmp_path: Path) -> None:
    """DuckDB would read the files of the other one, which it may not."""
    for folder, seed in (("copy [1]", 1), ("copy 1", 2), ("c*", 3)):
        (tmp_path / folder).mkdir()
        photograph(seed, (30 + seed, 40)).save(tmp_path / folder / "x.png")
        photograph(10 + seed).save(tmp_path / folder / "gone.png")
        index_folder(tmp_path / folder, encoder=ColourEncoder(), index=tmp_path / folder / ".llm2clip")
    for folder, width in (("copy [1]", 31), ("copy 1", 32), ("c*", 33)):
        (tmp_path / folder / "gone.png").unlink()
        index_folder(tmp_path / folder, encoder=ColourEncoder(), index=tmp_path / folder / ".llm2clip")
        index = SearchIndex(Snapshot(tmp_path / folder / ".llm2clip"), ColourEncoder())
        assert [hit.metadata["width"] for hit in index.browse("width > 0").hits] == [width]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Six images, three with time, camera and place."""
    base = tmp_path_factory.mktemp("filter")
    for folder in ("2023", "it's 2024 %_"):
        (base / "images" / folder).mkdir(parents=True)
    for number in range(6):
        exif = Image.Exif()
        if number % 2:
            exif[0x010F], exif[0x0110] = "Fuji", f"X{number}"
            exif.get_ifd(0x8769)[0x9003] = f"202{number}:01:02 03:04:05"
            gps = exif.get_ifd(0x8825)
            gps[1], gps[2], gps[3], gps[4] = "S", (10.0 * number, 0.0, 0.0), "W", (20.0 * number, 0.0, 0.0)
        folder = "2023" if number < 3 else "it's 2024 %_"
        suffix = "jpg" if number else "png"
        photograph(number, (40 + number, 80 - number)).save(base / "images" / folder / f"{number}.{suffix}", exif=exif)
    index_folder(base / "images", encoder=ColourEncoder(), index=base / ".llm2clip")
    return Snapshot(base / ".llm2clip")


CONDITIONS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "id % 2 = 0": lambda row: row["id"] % 2 == 0,
    "path LIKE '%/it''s 2024 \\%\\_/%' ESCAPE '\\'": lambda row: "/it's 2024 %_/" in row["path"],
    "starts_with(path, '/') AND NOT path LIKE '%.png'": lambda row: not row["path"].endswith(".png"),
    "content_hash >= '8'": lambda row: row["content_hash"] >= "8",
    "size BETWEEN 700 AND 900": lambda row: 700 <= row["size"] <= 900,
    "mtime < now()::TIMESTAMP + INTERVAL 1 DAY": lambda row: True,
    "mtime < '2001-01-01'": lambda row: False,
    "width > 42 AND height > width": lambda row: row["width"] > 42,
    "format = 'JPEG'": lambda row: row["format"] == "JPEG",
    "taken >= '2023-01-01'": lambda row: row["taken"] is not None and row["taken"] >= datetime(2023, 1, 1),
    "year(taken) IN (2021, 2025)": lambda row: row["taken"] is not None and row["taken"].year in (2021, 2025),
    "taken IS NULL": lambda row: row["taken"] is None,
    "NOT (camera = 'Fuji X3')": lambda row: row["camera"] not in (None, "Fuji X3"),  # NULL meets neither
    "damage IS NOT NULL OR id = 0": lambda row: row["damage"] is not None or row["id"] == 0,
    "modality = 'image' AND text IS NULL": lambda row: True,
    "caption IS NOT NULL OR rating > 3 OR list_contains(keywords, 'sea')": lambda row: False,
    "camera ILIKE 'fuji%'": lambda row: row["camera"] is not None,
    "latitude < -20": lambda row: row["latitude"] is not None and row["latitude"] < -20,
    "coalesce(longitude, 0) <= -60 OR id = 0": lambda row: (row["longitude"] or 0) <= -60 or row["id"] == 0,
    "mtime > now() - INTERVAL 7 DAY AND mtime <= now()": lambda row: True,
    "corpus LIKE '%images'": lambda row: True,
    "id IN (1, 3) OR list_contains([5], id)": lambda row: row["id"] in (1, 3, 5),
    "CAST(width AS VARCHAR) = '41'": lambda row: row["width"] == 41,
    "extract(month FROM taken) = 1 AND date_trunc('year', taken) > DATE '2022-06-01'": lambda row: (
        row["taken"] is not None and row["taken"].year > 2022
    ),
    "sqrt(pow(latitude + 10, 2) + pow(longitude + 20, 2)) < 5": lambda row: row["latitude"] == -10.0,
    "width > 42 -- wide": lambda row: row["width"] > 42,
    "width > 42 /* wide */": lambda row: row["width"] > 42,
    'WIDTH > 42\nAND "height" > 0': lambda row: row["width"] > 42,
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_a_condition_is_what_it_says(snapshot: Snapshot, where: str) -> None:
    rows = [row | {"path": f"{snapshot.base}/{row['path']}"} for row in snapshot.metadata().to_pylist()]
    expected = [row["id"] for row in rows if CONDITIONS[where](row)]
    assert Filter(snapshot).ids(where).tolist() == sorted(expected)


def test_conditions_are_the_same_from_files_and_from_memory(snapshot: Snapshot) -> None:
    """The first condition reads files, later ones the columns that were loaded by then; threads share them."""
    expected = {where: Filter(snapshot).ids(where).tolist() for where in CONDITIONS}
    for _ in range(20):  # threads load columns at the same time only now and then
        shared = Filter(snapshot)
        with ThreadPoolExecutor(4) as threads:
            for _ in range(2):
                found = threads.map(lambda where, shared=shared: shared.ids(where).tolist(), CONDITIONS)
                assert dict(zip(CONDITIONS, found, strict=True)) == expected
    assert shared.ids("images.width > 42").tolist() == expected["width > 42 -- wide"]
    assert [Filter(snapshot).ids("1 = 0").tolist(), shared.ids("1 = 0").tolist()] == [[], []]
    with pytest.raises(QueryError, match="'breadth' that does not exist"):
        shared.ids("width > 42 AND breadth > 1")


def test_columns_are_not_held_where_memory_is_short(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2clip_search.engine.held_columns.physical_bytes", lambda: 1000)
    short = Filter(snapshot)
    for _ in range(3):
        assert short.ids("width > 42").tolist() == Filter(snapshot).ids("width > 42").tolist()


def test_every_column_is_tried() -> None:
    assert not [name for name in (*FIXED, "mtime") if not any(name in where for where in CONDITIONS)]


def test_paths_and_times_are_as_files_have_them(snapshot: Snapshot) -> None:
    """Paths are absolute; times are in UTC, to the microsecond."""
    conditions = Filter(snapshot)
    for row in snapshot.metadata().to_pylist():
        path = snapshot.base / row["path"]
        time = datetime.fromtimestamp(path.stat().st_mtime_ns // 1000 / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        name = str(path).replace("'", "''")
        found = conditions.ids(f"path = '{name}' AND size = {path.stat().st_size} AND mtime = '{time}'")
        assert found.tolist() == [row["id"]]


def test_the_condition_can_name_no_variable_of_ours(snapshot: Snapshot) -> None:
    """DuckDB would read a table from any Python variable; here it must not."""
    secrets = pa.table({"id": [0, 1]})
    assert secrets.num_rows == 2
    with pytest.raises(QueryError, match="cannot contain a subquery"):
        Filter(snapshot).ids("id IN (SELECT id FROM secrets)")


def test_filters_join_thresholds_and_pages(snapshot: Snapshot) -> None:
    """The page is cut from what the filter and the threshold leave, and ranks count there."""
    index = SearchIndex(snapshot, ColourEncoder())
    left = index.query("dusk", where="format = 'JPEG'", k=100).hits
    assert [hit.rank for hit in left] == [1, 2, 3, 4, 5]
    page = index.query("dusk", where="format = 'JPEG'", k=2, offset=1, threshold=left[2].score).hits
    assert [(hit.rank, hit.id) for hit in page] == [(hit.rank, hit.id) for hit in left[1:3]]
    assert index.query("dusk", where="format = 'JPEG'", offset=5).hits == []
    assert index.query("dusk", where="id < 0").plan.strategy == "nothing"
