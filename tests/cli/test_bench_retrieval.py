"""``bench retrieval`` and ``bench datasets`` as a user types them."""

import json
from pathlib import Path

import pytest

from tests.support.commands import RunCli
from tests.support.layouts import write_multilingual_flickr8k


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in Flickr8k's multilingual layout, in a folder named after the data set."""
    return write_multilingual_flickr8k(tmp_path_factory.mktemp("data") / "flickr8k", images=6).parent


@pytest.fixture
def command(root: Path, tiny_model: Path, tmp_path: Path) -> list[str]:
    named = ["bench", "retrieval", "flickr8k", "--root", str(root), "--model", f"dir:{tiny_model}"]
    return [*named, "--runtime", "torch", "--cache", str(tmp_path / "cache")]


def test_a_run_prints_a_table_and_writes_one_object_per_language(
    command: list[str], run_cli: RunCli, tmp_path: Path
) -> None:
    done = run_cli(*command, "--langs", "en,de", "--out", "r.json")
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split()[:4] == ["data", "set", "language", "captions"]
    assert [row.split()[:5] for row in rows[:2]] == [["flickr8k", "dev", lang, "12", "6"] for lang in ("en", "de")]
    objects = [json.loads(line) for line in (tmp_path / "r.json").read_text().splitlines()]
    assert [o["language"] for o in objects] == ["en", "de"]
    for found in objects:
        assert (found["dataset"], found["task"], found["split"]) == ("flickr8k", "zeroshot_retrieval", "dev")
        assert list(found["metrics"]) == [f"{w}_retrieval_recall@{k}" for w in ("image", "text") for k in (1, 5, 10)]
        assert found["metrics"]["image_retrieval_recall@10"] == 1.0, "six pictures are no more than ten"
    parts = sorted((tmp_path / "cache").rglob("*.npy"))
    assert len(parts) == 3
    before = [part.stat().st_mtime_ns for part in parts]
    again = run_cli(*command, "--langs", "de", "--json")
    assert json.loads(again.stdout)["metrics"] == objects[1]["metrics"]
    assert [part.stat().st_mtime_ns for part in parts] == before


def test_a_file_of_one_language_is_a_clip_benchmark_result(command: list[str], run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli(*command, "--captions-per-image", "1", "--against", "paper", "--out", "r.json", "--no-cache")
    assert done.returncode == 0, done.stderr
    assert "at most 1 captions per image" in done.stdout
    found = json.loads((tmp_path / "r.json").read_text())
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= found.keys()
    assert (found["captions"], found["captions_per_image"]) == (6, "1")
    assert not (tmp_path / "cache").exists()


def test_drafts_are_noted_in_the_results(command: list[str], run_cli: RunCli) -> None:
    """They have a cache of their own; what is not a large JPEG is read as without them."""
    whole, drafts = (run_cli(*command, "--json", *options) for options in ((), ("--drafts",)))
    assert drafts.returncode == 0, drafts.stderr
    one, other = json.loads(whole.stdout), json.loads(drafts.stdout)
    assert "Large JPEGs were read at reduced size, as indexing reads them." in other["notes"]
    assert one["notes"] == [note for note in other["notes"] if "reduced size" not in note]
    assert one["metrics"] == other["metrics"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "night"], "has no captions of split 'night'"),
        (["--langs", "tlh"], "has no captions in 'tlh'"),
        (["--langs", "cs"], "has no captions of split 'dev' in language 'cs'"),
        (["--captions-per-image", "0"], "--captions-per-image must be all or a positive number, not '0'"),
        (["--captions-per-image", "five"], "--captions-per-image must be all or a positive number, not 'five'"),
        (["--model", "dir:nowhere"], "does not exist"),
        (["--out", "nowhere/r.json"], "--out names the file to write, but there is no folder nowhere"),
        (["--out", "."], "--out names the file to write, but . is a folder"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    command: list[str], run_cli: RunCli, arguments: list[str], message: str
) -> None:
    done = run_cli(*command, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_data_sets_are_listed_and_told_where_to_get(run_cli: RunCli) -> None:
    listed = run_cli("bench", "datasets")
    names = [line.split()[0] for line in listed.stdout.splitlines()[1:]]
    assert {"flickr30k", "flickr8k", "mscoco_captions", "urban1k", "docci", "crossmodal3600", "table"} <= set(names)
    told = run_cli("bench", "datasets", "flickr30k")
    assert "ROOT/flickr30k-images" in told.stdout
    missing = run_cli("bench", "retrieval", "flickr30k", "--root", "nowhere")
    assert missing.returncode == 1
    assert "nowhere is not a folder, so Flickr30k cannot be read." in missing.stderr
    assert "hint: ROOT is the folder that --root names." in missing.stderr
