"""``train init``: where captions and splits of own data are found."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2clip_search.training.recipes.own import read_own_recipe
from tests.support import own_data
from tests.support.commands import RunCli
from tests.support.corpus import jpeg, write_csv


@pytest.mark.parametrize(
    ("arguments", "sources"),
    [
        (
            ("--data", "folders", "--captions", "rows.csv", "--split", "train", "--val-split", "val"),
            [("folders", "rows.csv", "train"), ("folders", "rows.csv", "val")],
        ),
        (
            ("--data", "things", "--val", "folders", "--val-captions", "rows.csv", "--val-split", "val"),
            [("things", "", ""), ("folders", "rows.csv", "val")],
        ),
    ],
)
def test_validation_is_a_split_of_a_table(
    arguments: tuple[str, ...],
    sources: list[tuple[str, str, str]],
    tmp_path: Path,
    tiny_model: Path,
    run_cli: RunCli,
) -> None:
    own_data.folder_with_texts(tmp_path / "things")
    rows = own_data.folder_and_table(tmp_path / "folders", tmp_path / "rows.csv")
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join(line.replace(",train", ",val") if "thing 3 " in line else line for line in lines))
    with rows.open("a") as file:
        file.write("\n2/5.jpg,a picture for validation,val\n")
    done = run_cli("train", "init", "my.toml", *arguments, "--from", f"dir:{tiny_model}")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["train", "10"], ["val", "2"]]
    own = read_own_recipe(str(tmp_path / "my.toml"))
    assert [(each.source, each.captions, each.split) for each in (*own.data.train, *own.data.val)] == sources


def test_splits_of_a_table_with_images_are_kept_apart(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> None:
    rows = [{"image": jpeg(n), "caption": f"thing {n}", "split": "train" if n < 4 else "val"} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bytes.parquet")
    arguments = ("--data", "bytes.parquet", "--split", "train", "--val-split", "val", "--from", f"dir:{tiny_model}")
    done = run_cli("train", "init", "my.toml", *arguments)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:3]] == [["train", "4"], ["val", "2"]]


def test_a_set_for_evaluation_has_its_captions_in_a_table(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> None:
    own_data.folder_with_texts(tmp_path / "things")
    own_data.folder_with_texts(tmp_path / "others", {n: ["unused"] for n in range(7)}, first=200)
    images = sorted((tmp_path / "others").glob("*.jpg"))
    write_csv(tmp_path / "rows.csv", [{"file_name": each.name, "caption": f"other {each.stem}"} for each in images])
    arguments = ("--evaluate", "more=others", "--evaluate-captions", "more=rows.csv", "--from", f"dir:{tiny_model}")
    for text in (tmp_path / "others").glob("*.txt"):
        text.unlink()
    done = run_cli("train", "init", "my.toml", "--data", "things", *arguments)
    assert done.returncode == 0, done.stderr
    assert ["more", "7", "7"] in [line.split()[:3] for line in done.stdout.splitlines()]
    [evaluation] = read_own_recipe(str(tmp_path / "my.toml")).evaluation
    assert (evaluation.name, evaluation.source, evaluation.captions) == ("more", "others", "rows.csv")
