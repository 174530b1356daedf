"""``index`` of tables, lists and data sets, and what the other commands make of their columns."""

import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.commands import COMMAND, RunCli, is_one_error
from tests.support.corpus import write_csv
from tests.support.tables import images, write_parquet


@pytest.fixture
def table(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> Path:
    """A folder with a table of eight images, its index beside it."""
    columns = {
        "image": pa.array([{"bytes": data, "path": None} for data in images(8)]),
        "TEXT": [f"picture {number}" for number in range(8)],
        "license": ["CC BY" if number % 2 else None for number in range(8)],
        "price": pa.array([number / 4 for number in range(8)]),
    }
    write_parquet(tmp_path / "photos.parquet", columns)
    done = run_cli("index", "photos.parquet", "--model", f"dir:{tiny_model}", cwd=tmp_path)
    assert done.stdout.startswith("8 indexed, 0 moved or copied, 0 unchanged, 0 removed, 0 failed in "), done.stderr
    return tmp_path


def test_columns_filter_and_are_shown_and_survive_compaction_and_merging(table: Path, run_cli: RunCli) -> None:
    def found(*arguments: str) -> list[dict[str, object]]:
        done = run_cli("query", "a dog", "--where", "license = 'CC BY' and price > 1", "--json", *arguments, cwd=table)
        return sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda hit: str(hit["path"]))

    hits = found()
    assert [(hit["caption"], hit["price"], hit["license"]) for hit in hits] == [
        ("picture 5", 1.25, "CC BY"),
        ("picture 7", 1.75, "CC BY"),
    ]
    assert [hit["exists"] for hit in hits] == [True, True]
    assert str(hits[0]["path"]).endswith("photos.parquet#row=5")
    assert "8 unchanged" in run_cli("index", "photos.parquet", cwd=table).stdout
    run_cli("compact", cwd=table)
    run_cli("merge", "other", ".llm2clip", cwd=table)
    assert [hit["price"] for hit in found()] == [1.25, 1.75]
    assert [hit["price"] for hit in found("--index", "other")] == [1.25, 1.75]
    moved = write_csv(table / "meta.csv", [{"path": "photos.parquet#row=5", "author": "Ada"}])
    assert "8 with new columns" in run_cli("index", "photos.parquet", "--metadata", moved, cwd=table).stdout
    assert [hit["author"] for hit in found()] == ["Ada", None]
    moved.unlink()
    dropped = run_cli("index", "photos.parquet", "--no-metadata", cwd=table)
    assert "8 with new columns" in dropped.stdout, dropped.stderr
    again = run_cli("index", "photos.parquet", cwd=table)
    assert "8 unchanged" in again.stdout
    assert "metadata" not in again.stderr
    assert [hit["author"] for hit in found()] == [None, None]
    assert "--metadata" not in run_cli("sources", cwd=table).stdout


def test_what_is_not_a_number_is_missing(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> None:
    nan = float("nan")
    columns = {
        "image": pa.array([{"bytes": data, "path": None} for data in images(3)]),
        "aesthetic": pa.array([nan, 6.0, float("inf")]),
        "latitude": pa.array([nan, 51.0, 52.0]),
        "longitude": pa.array([4.0, nan, 5.0]),
        "rating": pa.array([nan, 3.0, 4.0]),
        "note": pa.array(["NaN", "a", "b"]),
    }
    write_parquet(tmp_path / "photos.parquet", columns)
    done = run_cli("index", "photos.parquet", "--model", f"dir:{tiny_model}", cwd=tmp_path)
    assert "left out" not in done.stderr

    def found(where: str) -> list[dict[str, object]]:
        done = run_cli("query", "a dog", "--where", where, "--json", cwd=tmp_path)
        assert not {"NaN,", "Infinity,"} & set(done.stdout.split())
        return sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda hit: str(hit["path"]))

    assert [hit["note"] for hit in found("aesthetic > 5.5")] == ["a", "b"]
    assert [hit["note"] for hit in found("aesthetic IS NULL")] == ["NaN"]
    assert [hit["note"] for hit in found("latitude IS NULL OR longitude IS NULL")] == ["NaN", "a"]
    hits = found("true")
    assert [hit["latitude"] for hit in hits] == [None, 51.0, 52.0]
    assert [hit["rating"] for hit in hits] == [None, 3, 4]
    assert [hit["aesthetic"] for hit in hits] == [None, 6.0, None]  # JSON has no infinity


def test_an_address_of_this_machine_is_refused_with_the_option_that_allows_it(table: Path, run_cli: RunCli) -> None:
    for name in ("a.tar", "a.parquet"):
        done = run_cli("index", f"http://127.0.0.1:9/{name}", cwd=table)
        assert (done.returncode, is_one_error(done.stderr)) == (1, True)
        assert "--allow-private" in done.stderr
    write_csv(table / "urls.csv", [{"url": "http://127.0.0.1:9/a.png"}])
    assert "--allow-private" in run_cli("index", "urls.csv", cwd=table).stderr


def test_remembered_options_are_said_as_they_are_typed(table: Path, run_cli: RunCli) -> None:
    (table / "pics").mkdir()
    (table / "pics" / "a.jpg").write_bytes(next(iter(images(1))))
    write_csv(table / "shots.csv", [{"shot no": "a.jpg", "stars": 3}])
    run_cli("index", "pics", "--metadata", "shots.csv", "--key", "shot no", cwd=table)
    again = run_cli("index", "pics", cwd=table)
    assert f"--metadata {table / 'shots.csv'}, as the last time" in again.stderr
    assert "--key 'shot no', as the last time" in again.stderr
    assert "--key" in run_cli("sources", cwd=table).stdout


def test_a_list_on_standard_input(table: Path) -> None:
    for number, data in enumerate(images(3)):
        (table / f"{number} a.jpg").write_bytes(data)
    done = subprocess.run(
        [*COMMAND, "index", "-", "-0"],
        cwd=table,
        input=b"0 a.jpg\x001 a.jpg\x00gone.jpg\x00",
        capture_output=True,
        check=True,
    )
    assert done.stdout.startswith(b"0 indexed, 2 moved or copied, 0 unchanged, 0 removed, 1 failed"), done.stderr
    assert b"gone.jpg': No such file or directory" in done.stderr


def test_what_cannot_be_read_is_one_sentence(table: Path, run_cli: RunCli) -> None:
    write_csv(table / "numbers.csv", [{"a": 1, "b": 2}])
    (table / "list.txt").write_text("x.jpg")
    write_csv(table / "twice.csv", [{"path": "a.jpg", "n": 1}, {"path": "a.jpg", "n": 2}])
    for arguments, message in (
        (("missing.csv",), "missing.csv cannot be read: No such file or directory"),
        (("numbers.csv", "--as", "list"), "No column of numbers.csv holds paths or URLs of images; it has a, b"),
        (("photos.parquet", "--metadata", "twice.csv"), "twice.csv has several rows for path = 'a.jpg'"),
        (("photos.parquet", "--metadata", "numbers.csv", "--key", "x"), "numbers.csv has no column 'x'; it has a, b"),
        (("list.txt",), "list.txt is a .txt, which nothing here reads"),
    ):
        done = run_cli("index", *arguments, cwd=table)
        assert (done.returncode, is_one_error(done.stderr)) == (1, True)
        assert message in done.stderr
