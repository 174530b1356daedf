"""Texts by the command line: indexed beside images, found by captions and images, and shown with their words."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import RunCli
from tests.support.images import photograph


@pytest.fixture
def both(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> Path:
    """A folder with photographs, notes and a table of captions, of which the first two are indexed."""
    for number in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        photograph(number, (64, 48)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "long.md").write_text("\n\n".join(f"# Part {n}\n\n" + f"word{n} " * 30 for n in range(4)))
    (tmp_path / "notes" / "short.txt").write_text("a [b]dog[/b]\n")
    (tmp_path / "notes" / "damaged.txt").write_bytes(b"\0")
    (tmp_path / "captions.jsonl").write_text('{"caption": "a dog", "licence": "cc"}\n{"caption": "a cat"}\n')
    model = ("--model", f"dir:{tiny_model}")
    assert run_cli("index", "photos", *model).returncode == 0
    done = run_cli("index", "notes", "--modality", "text", *model)
    assert done.returncode == 0, done.stderr
    assert "1 failed" in done.stdout
    return tmp_path


def hits(run_cli: RunCli, *words: object) -> list[dict[str, Any]]:
    done = run_cli("query", *words, "--json", "-k", "50")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_texts_and_images_are_found_apart(both: Path, run_cli: RunCli) -> None:
    assert {hit["modality"] for hit in hits(run_cli, "a dog")} == {"image"}
    texts = hits(run_cli, "--image", "photos/0.png", "--find", "texts")
    assert {hit["modality"] for hit in texts} == {"text"}
    assert len(texts) >= 5
    assert all(hit["part"].startswith("char=") and hit["exists"] for hit in texts)
    assert len(hits(run_cli, "a dog", "--find", "texts", "--per-file", "1")) == 2
    by_row = hits(run_cli, "--like", texts[0]["id"], "--find", "images")
    assert len(by_row) == 3
    explained = run_cli("query", "a dog", "--find", "texts", "--explain")
    assert "find: texts; images are not compared" in explained.stderr


def test_a_table_shows_passages(both: Path, run_cli: RunCli) -> None:
    shown = run_cli("query", "a dog", "--find", "texts", "-k", "50").stdout
    for cell in ("a [b]dog[/b]", "notes/short.txt", "char=0,12", "word0 word0"):
        assert cell in shown, shown


def test_captions_of_a_table_with_a_condition(both: Path, tiny_model: Path, run_cli: RunCli) -> None:
    table = ("index", "captions.jsonl", "--modality", "text", "--text", "caption", "--model", f"dir:{tiny_model}")
    done = run_cli(*table)
    assert done.returncode == 0, done.stderr
    [hit] = hits(run_cli, "a dog", "--find", "texts", "--where", "licence = 'cc'")
    assert (hit["text"], hit["licence"], hit["part"]) == ("a dog", "cc", "row=0&column=caption")
    groups = run_cli("duplicates", "--find", "texts", "--threshold", "0.999")
    assert groups.returncode == 0, groups.stderr
    assert "texts" in groups.stderr


def test_an_index_without_texts_says_so(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> None:
    (tmp_path / "photos").mkdir()
    photograph(1, (64, 48)).save(tmp_path / "photos" / "1.png")
    run_cli("index", "photos", "--model", f"dir:{tiny_model}")
    done = run_cli("query", "a dog", "--find", "texts")
    assert done.returncode == 1
    assert "holds no texts" in done.stderr
    assert "index --modality text" in done.stderr


def test_a_text_file_is_no_image(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> None:
    (tmp_path / "note.txt").write_text("a dog")
    done = run_cli("index", "note.txt", "--model", f"dir:{tiny_model}")
    assert done.returncode == 1
    assert "--modality text" in done.stderr
