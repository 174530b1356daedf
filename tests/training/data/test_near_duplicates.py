"""Near-duplicates of validation images in the training images, recognised by how alike they look."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm2clip_search.base.progress import no_progress
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.near_duplicates import without_near_duplicates
from llm2clip_search.training.data.own_data import OwnSplits, read_own_data
from llm2clip_search.training.data.own_recipe import EvaluationSource, OwnData, OwnSource
from tests.support.corpus import jpeg
from tests.support.encoders import PixelEncoder
from tests.support.own_data import folder_with_texts

COPIES = (2, 5)


def smaller(data: bytes) -> bytes:
    """The same picture at another size and quality."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(out, "JPEG", quality=60)
    return out.getvalue()


@pytest.fixture
def found(tmp_path: Path) -> OwnSplits:
    """Six training images, of which one is like one of val, and another like one of a set for evaluation."""
    folder_with_texts(tmp_path / "train", {n: [f"thing {n}"] for n in range(6)})
    for number, name in zip(COPIES, ("val", "others"), strict=True):
        folder_with_texts(tmp_path / name, {n: [f"thing {n}"] for n in range(3)}, first=100 * number)
        (tmp_path / name / "photo-01.jpg").write_bytes(smaller(jpeg(number)))
    data = OwnData(train=(OwnSource(source="train"),), val=(OwnSource(source="val"),))
    sets = [EvaluationSource(name="others", source="others")]
    return read_own_data(data, sets, folder=tmp_path, progress=no_progress)


def test_copies_of_another_size_are_not_trained_on(found: OwnSplits) -> None:
    kept = without_near_duplicates(found, encoder=PixelEncoder(), threshold=0.98, progress=no_progress)
    assert found.counts()["train images"] == 6, "their contents differ"
    counts = kept.counts()
    assert (counts["train images"], counts["val images"], counts["others images"]) == (4, 3, 3)
    assert counts["training images that are nearly those of val"] == 1
    assert counts["training images that are nearly those of others"] == 1
    left_out = {Path(name).name: detail for _, name, detail in kept.left_out}
    assert left_out.keys() == {f"photo-{number:02}.jpg" for number in COPIES}
    assert all("photo-01.jpg, cosine 0.9" in detail for detail in left_out.values())
    assert kept.digest != found.digest


def test_a_threshold_of_1_takes_only_equal_embeddings(found: OwnSplits) -> None:
    kept = without_near_duplicates(found, encoder=PixelEncoder(), threshold=1.0, progress=no_progress)
    assert (kept.counts(), kept.digest) == (found.counts(), found.digest)


def test_too_few_that_are_left_are_said_with_the_numbers(found: OwnSplits) -> None:
    with pytest.raises(
        CorpusError, match=r"Of 6 training images, 6 are near-duplicates .* cosine of 0.0001; 0 are left"
    ):
        without_near_duplicates(found, encoder=AlikeEncoder(), threshold=0.0001, progress=no_progress)


class AlikeEncoder(PixelEncoder):
    """All images are alike to it."""

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return np.eye(1, self.dim, dtype=np.float32).repeat(len(pixels), axis=0)
