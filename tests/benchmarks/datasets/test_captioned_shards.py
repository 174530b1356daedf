"""Shards with a table of captions, CompreCap's long captions, and COCO's official layout made of the same images."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llm2clip_search.benchmarks.datasets.registry import find_dataset
from llm2clip_search.benchmarks.retrieval import measure_retrieval
from llm2clip_search.errors import CorpusError
from tests.support.encoders import ColourEncoder
from tests.support.layouts import jpeg, write_caption_rows, write_captioned_shards

DATA = Path(os.environ.get("LLM2CLIP_DATA", Path(__file__).parents[4] / "shared" / "data"))
LONG = ["image", "caption", "lang", "source"]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two images of val and one of restval; long captions of one of each, and of an image that is nowhere."""
    folder = write_captioned_shards(
        tmp_path / "coco",
        "coco",
        {"val": {"1.jpg": ["a cat", " a grey cat "], "2.jpg": ["a dog", ""]}, "restval": {"3.jpg": ["a bus"]}},
    )
    rows = [
        ["2.jpg", "a dog that ...", "en", "x"],
        ["3.jpg", "a bus that ...", "en", "x"],
        ["9.jpg", "lost", "en", "x"],
        ["2.jpg", "ein Hund", "de", "x"],
        ["2.jpg", "a dog again", "en", "y"],
    ]
    write_caption_rows(folder / "long_captions.csv.gz", LONG, rows)
    return folder


def test_a_split_has_its_images_and_captions(coco: Path) -> None:
    found = find_dataset("coco").open(coco)
    assert (found.name, found.split, list(found.images)) == ("coco", "val", ["1.jpg", "2.jpg"])
    assert found.captions["en"].texts == ["a cat", "a grey cat", "a dog"]
    assert found.captions["en"].image_ids == ["1.jpg", "1.jpg", "2.jpg"]
    assert found.images.read("2.jpg") == jpeg(1)
    assert find_dataset("coco").open(coco, split="restval").captions["en"].texts == ["a bus"]


@pytest.mark.parametrize("name", ["ade20k", "rsicd"])
def test_the_other_sets_are_read_in_the_same_way(tmp_path: Path, name: str) -> None:
    info = find_dataset(name)
    root = write_captioned_shards(tmp_path / name, name, {info.splits[0]: {"a.jpg": ["one"], "b.jpg": ["two"]}})
    assert info.folder_in(tmp_path) == root
    found = info.open(root)
    assert (found.name, found.captions["en"].texts) == (name, ["one", "two"])


def test_long_captions_are_those_of_the_splits_images(coco: Path) -> None:
    info = find_dataset("comprecap")
    assert info.folder_in(coco.parent) == coco
    found = info.open(coco)
    assert (list(found.images), found.captions["en"].texts) == (["2.jpg"], ["a dog that ...", "a dog again"])
    assert found.notes == ("Only the 1 of 2 images that have long captions are in the gallery.",)
    assert info.open(coco, split="restval").captions["en"].texts == ["a bus that ..."]


@pytest.mark.parametrize(
    ("name", "split", "damage", "message"),
    [
        ("coco", "val", lambda root: (root / "coco-val-000.tar").unlink(), "does not contain coco-val-NNN.tar"),
        ("coco", "test", lambda root: None, "has no captions of split 'test'"),
        ("coco", "night", lambda root: None, "has no split 'night'; it has val, restval, test"),
        ("coco", "val", lambda root: (root / "captions.csv.gz").unlink(), "captions.csv.gz"),
        (
            "coco",
            "val",
            lambda root: write_caption_rows(root / "captions.csv.gz", ["image_id", "split"], [["1.jpg", "val"]]),
            "has no column 'lang'",
        ),
        (
            "coco",
            "val",
            lambda root: write_caption_rows(
                root / "captions.csv.gz", ["image_id", "split", "lang", "caption"], [["7.jpg", "val", "en", "x"]]
            ),
            "1 images have captions but are missing, such as 7.jpg",
        ),
        ("coco", "val", lambda root: (root / "coco-val-000.tar").write_bytes(b"no tar" * 500), "cannot be read"),
        ("comprecap", "val", lambda root: (root / "long_captions.csv.gz").unlink(), "long_captions.csv.gz"),
        (
            "comprecap",
            "val",
            lambda root: write_caption_rows(root / "long_captions.csv.gz", LONG, [["3.jpg", "x", "en", "x"]]),
            "has no captions in 'en' of the images of split 'val'",
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    coco: Path, name: str, split: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(coco)
    with pytest.raises(CorpusError, match=message) as caught:
        find_dataset(name).open(coco, split=split)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "coco").is_dir(), reason="COCO is not here; LLM2CLIP_DATA names its parent folder")
def test_the_official_layout_measures_the_same(tmp_path: Path) -> None:
    """The val images as COCO distributes its own: ``val2017/ID.jpg`` and ``annotations/captions_val2017.json``."""
    shards = find_dataset("coco").open(DATA / "coco")
    captions = shards.captions["en"]
    (tmp_path / "val2017").mkdir()
    for image in shards.images:
        (tmp_path / "val2017" / image).write_bytes(shards.images.read(image))
    annotations = {
        "images": [{"id": int(Path(image).stem), "file_name": image} for image in shards.images],
        "annotations": [
            {"id": number, "image_id": int(Path(image).stem), "caption": text}
            for number, (image, text) in enumerate(zip(captions.image_ids, captions.texts, strict=True))
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(annotations))
    official = find_dataset("mscoco_val2017").open(tmp_path)
    assert (len(official.images), len(official.captions["en"])) == (340, 1702)
    (of_shards,), (of_files,) = (list(measure_retrieval(ColourEncoder(), each)) for each in (shards, official))
    assert of_files.ranks == of_shards.ranks
    assert "Published results use 5,000 images." in of_files.notes
