"""``merge`` and ``duplicates`` as they are typed."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from llm2clip_search import find_duplicates, index_folder
from tests.support.commands import RunCli, is_one_error
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six images, two of which have a smaller copy, one of them under a name with brackets."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        photograph(number, (64, 48)).save(folder / f"{number}.png")
    for number, name in enumerate(["[bold]0.png", "small.png"]):
        with Image.open(folder / f"{number}.png") as image:
            image.resize((32, 24)).save(folder / name)
    index_folder(folder, encoder=ColourEncoder(), index=tmp_path / ".llm2clip")
    return folder


def test_duplicates_are_shown_to_people_and_machines(pictures: Path, run_cli: RunCli) -> None:
    table = run_cli("duplicates")
    assert table.returncode == 0, table.stderr
    lines = [line.split() for line in table.stdout.splitlines()]
    assert lines[0] == ["images", "cosine", "id", "size", "image"]
    assert [line[-1] for line in lines[1:]] == [
        *("pictures/0.png", "pictures/[bold]0.png", "pictures/1.png", "pictures/small.png")
    ]
    assert lines[1][0] == "2"
    assert lines[1][-2:] == ["64x48", "pictures/0.png"]
    assert table.stderr == "2 groups with 4 of 8 images; 2 are duplicates of a larger or equal picture\n"
    groups = [json.loads(line) for line in run_cli("duplicates", "--json").stdout.splitlines()]
    assert [list(group) for group in groups] == [["images", "best", "others"]] * 2
    assert [group["best"]["path"] for group in groups] == [str(pictures / f"{number}.png") for number in range(2)]
    assert groups[0]["others"][0]["score"] > 0.95
    paths = run_cli("duplicates", "--paths", "--where", "path NOT LIKE '%bold%'")
    assert paths.stdout == f"{pictures / 'small.png'}\n"
    assert run_cli("duplicates", "-0").stdout.count("\0") == 2
    none = run_cli("duplicates", "--threshold", "1", cwd=pictures)
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr.startswith("0 groups with 0 of 8 images")


def test_a_large_index_says_that_pairs_may_be_missed(
    pictures: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(find_duplicates, exact_rows=3)
    monkeypatch.setattr("llm2clip_search.engine.find_duplicates", few)
    done = run_cli("duplicates")
    assert "note: 8 images are too many to compare each with each" in done.stderr
    assert done.stderr.startswith("2 groups with 4 of 8 images")


def test_indices_are_merged(pictures: Path, run_cli: RunCli, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "other" / "pictures")
    index_folder(tmp_path / "other", encoder=ColourEncoder(), index=tmp_path / "other" / ".llm2clip")
    done = run_cli("merge", "all", ".llm2clip", "other/.llm2clip")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("16 images of 2 indices merged in ")
    assert done.stderr == f"  16 images in {tmp_path / 'all'}, exact search\n"
    assert "all checksums match" in run_cli("verify", "--index", "all").stdout
    both = run_cli("merge", "again", "all", ".llm2clip", "--json")
    assert {"total": 16, "skipped": 8, "sources": 2}.items() <= json.loads(both.stdout).items()
    told = run_cli("merge", "third", "all", ".llm2clip")
    assert "note: 8 images have a path that an index named earlier has too" in told.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["merge", ".llm2clip", ".llm2clip"], "holds an index already"),
        (["merge", "pictures", ".llm2clip"], "pictures is not empty: it holds"),
        (["merge", "new", ".llm2clip", "nowhere"], "nowhere holds no index"),
        (["merge", "new", ".llm2clip", ".llm2clip"], "is named twice"),
        (["merge", "new", ".llm2clip", "OTHER"], "was made by colours:16"),
        (["duplicates", "--threshold", "0"], "The cosine of duplicates is 0.0"),
        (["duplicates", "--where", "foo = 1"], "names a column 'foo' that does not exist"),
        (["duplicates", "--index", "nowhere"], "holds no index"),
    ],
)
def test_bad_input_is_one_sentence(
    pictures: Path, run_cli: RunCli, tmp_path: Path, arguments: list[str], message: str
) -> None:
    if "OTHER" in arguments:
        index_folder(pictures, encoder=ColourEncoder(dim=8), index=tmp_path / "OTHER")
    done = run_cli(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert is_one_error(done.stderr)
    assert not (tmp_path / "new").exists()
