"""SugarCrepe against brute force, in its authors' layout, and what is wrong with its files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm2clip_search.benchmarks.sugarcrepe import CATEGORIES, measure_sugarcrepe, read_sugarcrepe
from llm2clip_search.encoders.images import read_rgb, to_pixels
from llm2clip_search.errors import CorpusError
from tests.support.encoders import ColourEncoder
from tests.support.layouts import jpeg, write_images, write_tar

IMAGES = [f"{number:012d}.jpg" for number in range(6)]


def entry(number: int, category: str) -> dict[str, str]:
    said = {"caption": f"{category} {number} is right", "negative_caption": f"{category} {number} is wrong"}
    return {"filename": IMAGES[number % len(IMAGES)], **said}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Nine pairs in each category, of six images."""
    for category in CATEGORIES:
        pairs = {str(number): entry(number, category) for number in range(9)}
        (tmp_path / f"{category}.json").write_text(json.dumps(pairs))
    write_images(tmp_path / "val2017", IMAGES)
    return tmp_path


def test_accuracy_is_that_of_comparing_each_pair(root: Path) -> None:
    encoder = ColourEncoder()
    result = measure_sugarcrepe(encoder, read_sugarcrepe(root), cache=None)
    assert list(result.accuracy) == list(CATEGORIES)
    for category in CATEGORIES:
        right = 0
        for pair in json.loads((root / f"{category}.json").read_text()).values():
            pixels = to_pixels(read_rgb(root / "val2017" / pair["filename"]), encoder.preprocess)
            image = encoder.encode_pixels(pixels[None])[0].astype(np.float64)
            caption, negative = encoder.encode_texts([pair["caption"], pair["negative_caption"]])
            right += bool(image @ caption > image @ negative)
        assert result.accuracy[category] == right / 9
    assert result.mean == pytest.approx(sum(result.accuracy.values()) / 7)
    assert 0 < result.mean < 1, "a test in which every pair is right shows nothing"
    assert (set(result.pairs.values()), result.left_out) == ({9}, 0)


def test_a_tie_is_a_miss(root: Path) -> None:
    pair = {"0": {"filename": IMAGES[0], "caption": "the same", "negative_caption": "the same"}}
    (root / "swap_obj.json").write_text(json.dumps(pair))
    assert measure_sugarcrepe(ColourEncoder(), read_sugarcrepe(root), cache=None).accuracy["swap_obj"] == 0


def test_images_may_be_in_shards_and_some_of_everything_may_be_missing(root: Path, tmp_path: Path) -> None:
    """The files may also be in the folder ``data``, as in the authors' repository."""
    shards = tmp_path / "shards"
    write_tar(shards / "coco-000.tar", {name: jpeg(number) for number, name in enumerate(IMAGES[:5])})
    (root / "data").mkdir()
    for category in CATEGORIES[:-1]:
        (root / f"{category}.json").rename(root / "data" / f"{category}.json")
    found = read_sugarcrepe(root, shards)
    assert found.missing == ("swap_obj",)
    assert found.left_out == 6, "one pair of nine in each of six categories is of the sixth image"
    result = measure_sugarcrepe(ColourEncoder(), found, cache=None)
    assert set(result.pairs.values()) == {8}
    assert result.mean == pytest.approx(sum(result.accuracy.values()) / 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not a JSON object of pairs"),
        ("{}", "is not a JSON object of pairs"),
        ("{", "is not JSON"),
        ('{"0": 1}', "entry '0', lacks one of filename, caption, negative_caption"),
        ('{"0": {"filename": "x.jpg", "caption": "a"}}', "entry '0', lacks"),
        ('{"0": {"filename": "x.jpg", "caption": 3, "negative_caption": "b"}}', "entry '0', lacks"),
        ('{"0": {"filename": "../up.jpg", "caption": "a", "negative_caption": "b"}}', "none of the images of add_att"),
    ],
)
def test_a_broken_file_is_one_sentence(root: Path, content: str, message: str) -> None:
    (root / "add_att.json").write_text(content)
    (root / "up.jpg").write_bytes(jpeg(0))
    with pytest.raises(CorpusError, match=message) as caught:
        read_sugarcrepe(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", [None, "nowhere"])
def test_a_folder_without_files_or_images_is_one_sentence(tmp_path: Path, images: Any) -> None:
    with pytest.raises(CorpusError, match="contains none of add_att"):
        read_sugarcrepe(tmp_path)
    (tmp_path / "add_att.json").write_text(json.dumps({"0": entry(0, "add_att")}))
    with pytest.raises(CorpusError) as caught:
        read_sugarcrepe(tmp_path, tmp_path / images if images else None)
    assert "--images names COCO's folder val2017" in caught.value.hint
