"""Copies of validation images in the training images, recognised by how they look."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm2clip_search.base.progress import no_progress
from llm2clip_search.training.data.near_duplicates import near_duplicates, small_version
from llm2clip_search.training.data.own_data import OwnSplits, read_own_data
from llm2clip_search.training.data.own_recipe import EvaluationSource, OwnData, OwnSource
from tests.support.corpus import jpeg
from tests.support.own_data import folder_with_texts

COPIES = (2, 5)


def smaller(data: bytes) -> bytes:
    """The same picture at another size and quality."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(out, "JPEG", quality=60)
    return out.getvalue()


def read(folder: Path, threshold: float) -> OwnSplits:
    data = OwnData(train=(OwnSource(source="train"),), val=(OwnSource(source="val"),), near_duplicates=threshold)
    return read_own_data(data, [EvaluationSource(name="others", source="others")], folder=folder, progress=no_progress)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Six training images, of which one is like one of val, and another like one of a set for evaluation."""
    folder_with_texts(tmp_path / "train", {n: [f"thing {n}"] for n in range(6)})
    for number, name in zip(COPIES, ("val", "others"), strict=True):
        folder_with_texts(tmp_path / name, {n: [f"thing {n}"] for n in range(3)}, first=100 * number)
        (tmp_path / name / "photo-01.jpg").write_bytes(smaller(jpeg(number)))
    return tmp_path


def test_copies_of_another_size_are_not_trained_on(place: Path) -> None:
    found, kept = read(place, 0.0), read(place, 0.98)
    assert found.counts()["train images"] == 6, "their contents differ"
    counts = kept.counts()
    assert (counts["train images"], counts["val images"], counts["others images"]) == (4, 3, 3)
    assert (counts["near-duplicates of val"], counts["near-duplicates of others"]) == (1, 1)
    left_out = {Path(name).name: detail for _, name, detail in kept.left_out}
    assert left_out.keys() == {f"photo-{number:02}.jpg" for number in COPIES}
    assert all("photo-01.jpg, cosine 0.9" in detail for detail in left_out.values())
    assert kept.digest != found.digest


def test_a_share_for_validation_is_compared_too(tmp_path: Path) -> None:
    """Two versions of every image: wherever one is drawn for validation, the other is not trained on."""
    folder_with_texts(tmp_path / "train", {n: [f"thing {n}"] for n in range(12)})
    for number in range(6):
        (tmp_path / "train" / f"photo-{number + 6:02}.jpg").write_bytes(smaller(jpeg(number)))
    data = OwnData(train=(OwnSource(source="train"),), val_share=0.3, near_duplicates=0.98)
    counts = read_own_data(data, (), folder=tmp_path, progress=no_progress).counts()
    assert counts["train images"] + counts["val images"] + counts["near-duplicates of val"] == 12
    assert counts["near-duplicates of val"] >= 1


def test_the_most_similar_image_is_named() -> None:
    generator = np.random.default_rng(0)
    versions = [generator.integers(0, 256, 768, dtype=np.uint8) for _ in range(3)]
    slightly = np.clip(versions[1].astype(np.int64) + generator.integers(-9, 10, 768), 0, 255).astype(np.uint8)
    others = dict(zip("abc", versions, strict=True))
    ((name, other, cosine),) = near_duplicates({"x": slightly, "y": 255 - versions[2]}, others, 0.98)
    assert (name, other) == ("x", "b")
    assert 0.98 < cosine < 1.0
    assert list(near_duplicates({"x": slightly}, {}, 0.98)) == []


def test_images_of_one_colour_are_like_no_other() -> None:
    grey = {name: np.full(768, value, dtype=np.uint8) for name, value in (("a", 0), ("b", 128))}
    assert list(near_duplicates(grey, grey, 0.5)) == []


def test_a_small_version_has_the_means_of_squares() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    small = small_version(pixels).reshape(16, 16, 3)
    assert small[3, 5].tolist() == pytest.approx(pixels[6:8, 10:12].reshape(4, 3).mean(axis=0).tolist(), abs=0.5)
