"""Embeddings of a benchmark: their order, caching, resuming, and that other data never hits the cache."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm2clip_search.benchmarks import embedding
from llm2clip_search.benchmarks.embedding import embed_captions, embed_images
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.images import to_pixels
from llm2clip_search.errors import CorpusError
from tests.support.encoders import ColourEncoder
from tests.support.models import CAPTIONS


@pytest.fixture
def files(photographs: Path) -> ImageFiles:
    return ImageFiles.scan(photographs.parent, ["images"])


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PART", 5)


def test_images_are_embedded_as_the_encoder_embeds_them(
    files: ImageFiles, photographs: Path, tiny_encoder: Encoder
) -> None:
    expected = tiny_encoder.encode_images([photographs / name for name in files])
    for batch_size in (2, 5, 64):
        found = embed_images(tiny_encoder, files, cache=None, batch_size=batch_size)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_captions_come_back_in_their_order(tiny_encoder: Encoder) -> None:
    texts = [*CAPTIONS, "short", CAPTIONS[0], "a much longer caption than all of the others, with a tail of words"]
    np.testing.assert_allclose(
        embed_captions(tiny_encoder, texts, cache=None), tiny_encoder.encode_texts(texts), atol=1e-5
    )


def test_embeddings_are_cached(files: ImageFiles, colours: ColourEncoder, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    first = embed_images(colours, files, cache=tmp_path / "c", progress=lambda *done: seen.append(done[:3]))
    assert seen == [("images", 5, 12), ("images", 10, 12), ("images", 12, 12)]
    again = embed_images(colours, files, cache=tmp_path / "c")
    assert colours.embedded == 12
    np.testing.assert_array_equal(first, again)


def test_an_interrupted_run_continues_after_its_last_part(
    files: ImageFiles, colours: ColourEncoder, tmp_path: Path
) -> None:
    def die(what: str, done: int, total: int, figures: object) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_images(colours, files, cache=tmp_path / "c", progress=die)
    embed_images(colours, files, cache=tmp_path / "c")
    assert colours.embedded == 12


@pytest.mark.parametrize("damage", [b"", b"no array", None])
def test_a_damaged_part_is_embedded_again(
    files: ImageFiles, colours: ColourEncoder, tmp_path: Path, damage: bytes | None
) -> None:
    expected = embed_images(colours, files, cache=tmp_path / "c")
    part = sorted((tmp_path / "c").rglob("*.npy"))[1]
    part.write_bytes(part.read_bytes()[:-8] if damage is None else damage)
    np.testing.assert_array_equal(embed_images(colours, files, cache=tmp_path / "c"), expected)
    assert colours.embedded == 12 + 5


def test_other_bytes_another_order_and_another_encoder_miss_the_cache(
    files: ImageFiles, colours: ColourEncoder, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_images(colours, files, cache=tmp_path / "c")
    embed_images(colours, files.only(list(files)[::-1]), cache=tmp_path / "c")
    assert colours.embedded == 24
    monkeypatch.setattr(ColourEncoder, "fingerprint", "0" * 16)
    embed_images(colours, files, cache=tmp_path / "c")
    assert colours.embedded == 36
    monkeypatch.undo()
    name = next(iter(files))
    (photographs / name).write_bytes((photographs / list(files)[1]).read_bytes())
    changed = ImageFiles.scan(photographs.parent, ["images"])
    monkeypatch.setattr(embedding, "PART", 5)
    embed_images(colours, changed, cache=tmp_path / "c")
    assert colours.embedded == 48


def test_captions_of_another_precision_miss_the_cache(
    colours: ColourEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a recall with 8-bit weights would be taken for one of exact weights."""
    embed_captions(colours, CAPTIONS, cache=tmp_path / "c")
    embed_captions(colours, CAPTIONS, cache=tmp_path / "c")
    assert colours.embedded == len(CAPTIONS)
    monkeypatch.setattr(ColourEncoder, "text_precision", "8bit-1")
    embed_captions(colours, CAPTIONS, cache=tmp_path / "c")
    assert colours.embedded == 2 * len(CAPTIONS)


def test_large_jpegs_are_read_whole_unless_drafts_are_asked_for(tmp_path: Path, colours: ColourEncoder) -> None:
    """Vectors are those of Pillow's own decoding, to the bit; drafts differ, and neither is taken for the other."""
    (tmp_path / "images").mkdir()
    fine = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    Image.fromarray(fine).save(tmp_path / "images" / "x.jpg", quality=90)
    files = ImageFiles.scan(tmp_path, ["images"])
    with Image.open(tmp_path / "images" / "x.jpg") as image:
        whole = colours.encode_pixels(to_pixels(image.convert("RGB"), colours.preprocess)[None])
    with Image.open(tmp_path / "images" / "x.jpg") as image:
        image.draft(None, (2 * colours.preprocess.shortest,) * 2)
        reduced = colours.encode_pixels(to_pixels(image.convert("RGB"), colours.preprocess)[None])
    assert np.abs(whole - reduced).max() > 1e-6
    for _ in range(2):  # the second time from the cache
        np.testing.assert_array_equal(embed_images(colours, files, cache=tmp_path / "c"), whole)
        np.testing.assert_array_equal(embed_images(colours, files, cache=tmp_path / "c", drafts=True), reduced)


def test_an_image_that_cannot_be_decoded_is_named(files: ImageFiles, colours: ColourEncoder, photographs: Path) -> None:
    name = list(files)[3]
    (photographs / name).write_bytes(b"no image")
    broken = ImageFiles.scan(photographs.parent, ["images"])
    with pytest.raises(CorpusError, match=rf"Image '{name}' in .* cannot be measured: not an image"):
        embed_images(colours, broken, cache=None)
