"""Results as CSV, in another order, and each file once."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from llm2clip_search.base.visible import visible
from tests.support.commands import RunCli


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_csv_has_the_columns_of_json(indexed: Path, run_cli: RunCli) -> None:
    query = ("query", "a black dog", "-k", "3", "--group-duplicates", "0.99")
    done = run_cli(*query, "--csv", cwd=indexed)
    hits = [json.loads(line) for line in run_cli(*query, "--json", cwd=indexed).stdout.splitlines()]
    found = rows(done.stdout)
    assert [list(row) for row in found] == [list(hit) for hit in hits]
    for row, hit in zip(found, hits, strict=True):
        for key in ("duplicates", "exists"):
            assert json.loads(row.pop(key)) == hit.pop(key)
        assert row == {name: "" if value is None else str(value) for name, value in hit.items()}
    assert done.stdout.count("\r\n") == 4
    nothing = run_cli("query", "a dog", "--csv", "--threshold", "1", cwd=indexed)
    assert nothing.stdout == done.stdout.splitlines()[0].removesuffix(",duplicates") + "\r\n"


def test_names_of_columns_are_shown_as_values_are(
    indexed: Path, tiny_model: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    name = "k\x1b[31m\u202ey"
    (tmp_path / "meta.csv").write_text(f"image,{name}\n0.png,1\n", encoding="utf-8")
    arguments = ("--metadata", "meta.csv", "--index", "columns", "--model", f"dir:{tiny_model}")
    done = run_cli("index", str(indexed / "images"), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = run_cli("query", "a dog", "--csv", "--index", "columns", cwd=tmp_path).stdout
    assert visible(name) in found.splitlines()[0].split(",")


def test_csv_of_a_batch_has_one_header_and_any_caption(
    indexed: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = ['a "wet" dog, and\x0ba cat', "ein Hund 猫", "-20 degrees"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(captions).encode())))
    found = rows(run_cli("query", "--batch", "-", "--csv", "-k", "2", cwd=indexed).stdout)
    assert [(row["query"], row["query_line"], row["rank"]) for row in found] == [
        (visible(caption), str(line), str(rank)) for line, caption in enumerate(captions, start=1) for rank in (1, 2)
    ]


def test_csv_names_the_index_of_several(indexed: Path, run_cli: RunCli, tmp_path: Path) -> None:
    shutil.copytree(indexed / ".llm2clip", tmp_path / 'new\nline, or "two"' / ".llm2clip")
    indices = [indexed / ".llm2clip", tmp_path / 'new\nline, or "two"' / ".llm2clip"]
    words = [word for index in indices for word in ("--index", index)]
    found = rows(run_cli("query", "--like", "3@1", *words, "-k", "2", "--csv").stdout)
    assert [row["index"] for row in found] == [str(index) for index in indices]
    assert found[1]["path"] == str(indices[1].parent / "images" / "2024" / "3.png")


def test_results_are_ordered_by_a_column(indexed: Path, run_cli: RunCli) -> None:
    query = ("query", "a dog", "-k", "5", "--json")
    best = [json.loads(line) for line in run_cli(*query, cwd=indexed).stdout.splitlines()]
    for sort, key in (("width", "width"), ("path", "path"), ("mtime", "mtime_ns"), ("score", "score")):
        for sign in ("", "-"):
            done = run_cli(*query, "--sort", f"{sign}{sort}", cwd=indexed)
            assert [json.loads(line) for line in done.stdout.splitlines()] == sorted(
                best, key=lambda hit: hit[key], reverse=bool(sign)
            )
    wrong = run_cli("query", "a dog", "--sort", "colour", cwd=indexed)
    assert wrong.returncode == 1
    assert "cannot be ordered by 'colour'; the columns are score, id, path, mtime," in wrong.stderr


def test_copies_are_shown_once(indexed: Path, run_cli: RunCli, tmp_path: Path) -> None:
    shutil.copytree(indexed, tmp_path, dirs_exist_ok=True)
    run_cli("index", "images")  # copies have other change times
    shutil.copytree(tmp_path / "images" / "2024", tmp_path / "images" / "copies")
    assert "8 moved or copied" in run_cli("index", "images").stdout
    assert run_cli("query", "a dog", "-k", "8", "--paths").stdout.count("/copies/") == 4
    once = run_cli("query", "a dog", "-k", "9", "--unique", "--paths").stdout.splitlines()
    assert (
        once
        == run_cli("query", "a dog", "-k", "9", "--paths", "--where", "path NOT LIKE '%/copies/%'").stdout.splitlines()
    )
    assert len(once) == 8
