"""Folders of tables, compared with what the library `datasets` reads from them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llm2clip_search.corpora.dataset_folders import dataset_tables
from llm2clip_search.errors import CorpusError
from tests.support.tables import images, parts, write_arrow, write_parquet

datasets: Any = pytest.importorskip("datasets")


def dataset(count: int = 12) -> Any:
    """Images, the names of their classes, and captions."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "caption": datasets.Value("string"),
            "box": datasets.Sequence(datasets.Value("float32")),
        }
    )
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": data, "path": None} for data in images(count)],
            "label": [number % 2 for number in range(count)],
            "caption": [f"picture {number}" for number in range(count)],
            "box": [[0.5] * number for number in range(count)],
        },
        features=features,
    )


def read(folder: Path) -> list[tuple[np.ndarray, str, str]]:
    """Pixels, class and caption of all images of a folder of tables."""
    items = [item for table in dataset_tables(folder) for item in parts(Path(table))]
    assert all(item.data for item in items)
    return [
        (np.asarray(Image.open(io.BytesIO(item.data or b""))), item.columns["label"], item.columns["caption"])
        for item in items
    ]


def expected(data: Any) -> list[tuple[np.ndarray, str, str]]:
    names = data.features["label"].names
    return [(np.asarray(row["image"]), names[row["label"]], row["caption"]) for row in data]


def assert_same(one: list[tuple[np.ndarray, str, str]], other: list[tuple[np.ndarray, str, str]]) -> None:
    assert [row[1:] for row in one] == [row[1:] for row in other]
    assert all(np.array_equal(first[0], second[0]) for first, second in zip(one, other, strict=True))


def test_a_data_set_that_was_saved(tmp_path: Path) -> None:
    whole = dataset()
    whole.save_to_disk(tmp_path / "saved", num_shards=3)
    assert len(dataset_tables(tmp_path / "saved")) == 3
    assert_same(read(tmp_path / "saved"), expected(datasets.load_from_disk(tmp_path / "saved")))
    some = whole.shuffle(seed=1).select(range(5))
    some.save_to_disk(tmp_path / "some")
    assert_same(read(tmp_path / "some"), expected(some))
    write_arrow(tmp_path / "some" / "cache-0123.arrow", whole.data.table, stream=True)  # a mapped copy
    assert_same(read(tmp_path / "some"), expected(some))


def test_splits_that_were_saved(tmp_path: Path) -> None:
    splits = dataset().train_test_split(4, seed=0)
    splits.save_to_disk(tmp_path / "both")
    found = read(tmp_path / "both")
    assert_same(found, [*expected(splits["train"]), *expected(splits["test"])])


def test_the_cache_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "source" / "train.parquet"
    path.parent.mkdir()
    dataset().to_parquet(path)
    loaded = datasets.load_dataset(str(path.parent), cache_dir=str(tmp_path / "cache"), split="train")
    loaded.map(lambda row: {"caption": row["caption"].upper()})
    folder = Path(loaded.cache_files[0]["filename"]).parent
    assert len(list(folder.glob("*.arrow"))) == 2
    assert_same(read(folder), expected(loaded))
    assert_same(read(path.parent), expected(loaded))


def test_a_repository_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs" / "main").write_text("new\n")
    for revision, count in (("old", 2), ("new", 6)):
        data = repository / "snapshots" / revision / "data"
        data.mkdir(parents=True)
        (data.parent / "README.md").write_text("# A data set")
        (data.parent / ".gitattributes").write_text("")
        for number in range(2):
            blob = repository / "blobs" / f"{revision}{number}"
            dataset(count).shard(2, number, contiguous=True).to_parquet(blob)
            (data / f"train-{number:05}-of-00002.parquet").symlink_to(blob)
    tables = dataset_tables(repository)
    assert [Path(table).name for table in tables] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert_same(read(repository), expected(dataset(6)))
    (repository / "refs" / "main").write_text("gone")
    assert dataset_tables(repository) == tables  # the snapshot that was written last


def test_other_folders_are_none_of_tables(tmp_path: Path) -> None:
    assert dataset_tables(tmp_path) == []
    (tmp_path / "README.md").write_text("")
    assert dataset_tables(tmp_path) == []
    (tmp_path / "b").mkdir()
    write_parquet(tmp_path / "b" / "x.parquet", {"image": images(1)})
    write_parquet(tmp_path / "a.parquet", {"image": images(1)})
    assert dataset_tables(tmp_path) == [str(tmp_path / "a.parquet"), str(tmp_path / "b" / "x.parquet")]
    (tmp_path / "b" / "photo.jpg").write_bytes(images(1)[0])
    assert dataset_tables(tmp_path) == []


def test_a_damaged_description_is_said(tmp_path: Path) -> None:
    dataset(2).save_to_disk(tmp_path / "saved")
    state = tmp_path / "saved" / "state.json"
    (tmp_path / "saved" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(CorpusError, match=r"state\.json names data-00000-of-00001\.arrow, which is not there"):
        dataset_tables(tmp_path / "saved")
    for text in ("{", "[1]", json.dumps({"_data_files": [{"name": 1}]}), json.dumps({"_data_files": 5})):
        state.write_text(text)
        with pytest.raises(CorpusError, match=r"state\.json, which describes a data set, cannot be read"):
            dataset_tables(tmp_path / "saved")
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(CorpusError, match=r"dataset_dict\.json, which describes a data set, cannot be read"):
        dataset_tables(tmp_path)
