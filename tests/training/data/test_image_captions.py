"""Images matched with captions: what is skipped, what is held out, and what a batch contains."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_table import CaptionColumn, CaptionSource, read_caption_table
from llm2clip_search.training.data.image_captions import (
    CaptionedImages,
    ImageCaptionSampler,
    match_captions,
)
from tests.support.corpus import caption_table, write_csv, write_tar


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    """a.jpg to j.jpg; the bytes of b.jpg and c.jpg are the same."""
    write_tar(tmp_path / "s.tar", {f"{name}.jpg": b"twin" if name in "bc" else name.encode() for name in "abcdefghij"})
    return ImageFiles.scan(tmp_path, ["s.tar"])


ALL = caption_table([(f"{name}.jpg", f"{name} {n}") for name in "abcdefghij" for n in range(2)])


def test_captions_match_images_by_name_or_stem(files: ImageFiles) -> None:
    captions = caption_table([("b", "1"), ("a.jpg", "2"), ("b.jpg", "3")])
    captioned = match_captions(files, captions, source_weights=[1.0], max_missing=1.0)
    assert captioned.image_ids == ["a.jpg", "b.jpg"], "in the order of the files"
    assert [rows.tolist() for rows in captioned.caption_rows] == [[1], [0, 2]]


def test_images_in_a_folder_match_a_table_of_paths(tmp_path: Path) -> None:
    for name in ("x/1.png", "y/1.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    rows = [{"path": name, "en": f"Short {name}", "de": f"Lang {name}"} for name in ("y/1.png", "x/1.png")]
    write_csv(tmp_path / "table.tsv", rows)
    columns = (CaptionColumn(name="en"), CaptionColumn(name="de", lang="de", length="long"))
    captions, _ = read_caption_table(tmp_path, [CaptionSource(path="table.tsv", image="path", columns=columns)])
    captioned = match_captions(ImageFiles.scan(tmp_path, ["images"]), captions, source_weights=[1.0], max_missing=0.0)
    assert captioned.image_ids == ["x/1.png", "y/1.png"]
    assert [rows.tolist() for rows in captioned.caption_rows] == [[2, 3], [0, 1]]


def test_missing_items_are_skipped_up_to_the_limit_and_counted(files: ImageFiles) -> None:
    captions = caption_table([*((f"{name}.jpg", name) for name in "abcdefgh"), ("x.jpg", "x"), ("x.jpg", "y")])
    captioned = match_captions(files, captions, source_weights=[1.0], max_missing=0.2)
    assert captioned.counts == {
        "images": 8,
        "images without captions": 2,
        "captioned images missing": 1,
        "held out by name": 0,
        "held out by content": 0,
    }
    assert captioned.skipped["images without captions"] == ["i.jpg", "j.jpg"]
    assert captioned.skipped["captioned images missing"] == ["x.jpg"]
    with pytest.raises(
        CorpusError, match=r"2 of 10 images have no caption, such as 'i\.jpg'; .*max_missing allows 19\.0%"
    ):
        match_captions(files, captions, source_weights=[1.0], max_missing=0.19)
    more = pa.concat_tables([ALL, caption_table([("x.jpg", "x")])])
    with pytest.raises(CorpusError, match=r"1 of 11 captioned images are missing, such as 'x\.jpg'; .* allows 5\.0%"):
        match_captions(files, more, source_weights=[1.0], max_missing=0.05)


def test_without_a_match_the_error_shows_both_kinds_of_name(files: ImageFiles) -> None:
    with pytest.raises(CorpusError, match=r"None of the 1 captioned images, such as 'x/a\.jpg', .* such as 'a\.jpg'"):
        match_captions(files, caption_table([("x/a.jpg", "x")]), source_weights=[1.0], max_missing=1.0)
    with pytest.raises(CorpusError, match="None of the 0 captioned images is among the 10 images"):
        match_captions(files, caption_table([(None, "x")]), source_weights=[1.0], max_missing=1.0)


def test_negatives_and_texts_without_images_are_ignored(files: ImageFiles) -> None:
    rows = [("a.jpg", "1"), ("a.jpg", "not a"), ("b.jpg", "2"), (None, "text"), ("gone.jpg", "not gone")]
    captions = caption_table(rows, negative=[False, True, False, False, True])
    captioned = match_captions(files, captions, source_weights=[1.0], max_missing=0.9)
    assert [rows.tolist() for rows in captioned.caption_rows] == [[0], [2]]
    assert captioned.counts["captioned images missing"] == 0


def test_held_out_images_are_removed_by_name_and_by_content(files: ImageFiles) -> None:
    hashes = {files.content_hashes["b.jpg"]}
    captioned = match_captions(
        files, ALL, source_weights=[1.0], max_missing=0.0, held_out_photos={"b.jpg"}, held_out_hashes=hashes
    )
    assert captioned.skipped["held out by name"] == ["b.jpg"]
    assert captioned.skipped["held out by content"] == ["c.jpg"]
    assert captioned.image_ids == [f"{name}.jpg" for name in "adefghij"]


def test_images_of_equal_content_count_once_with_the_captions_of_all(files: ImageFiles) -> None:
    """The second of two sources has a caption of the first, and one of its own."""
    rows = [(f"{name}.jpg", f"{name} 0") for name in "abd"] + [("c.jpg", "b 0"), ("c.jpg", "c 1"), ("c.jpg", "b 0")]
    captions = caption_table(rows, source=[0, 0, 0, 1, 1, 1], lang=["en"] * 5 + ["de"])
    captioned = match_captions(files, captions, source_weights=[1.0, 2.0], max_missing=1.0, finds_copies=True)
    assert captioned.image_ids == ["a.jpg", "b.jpg", "d.jpg"]
    assert [rows.tolist() for rows in captioned.caption_rows] == [[0], [1, 4, 5], [2]]
    assert captioned.weights.tolist() == [1.0, 2.0, 1.0]
    assert captioned.skipped["copies of another image"] == ["c.jpg"]
    assert captioned.counts["images"] == 3


def test_held_out_images_do_not_count_as_images_without_captions(files: ImageFiles) -> None:
    """Their captions were removed before."""
    captions = ALL.slice(4)
    captioned = match_captions(
        files, captions, source_weights=[1.0], max_missing=0.0, held_out_photos={"a.jpg", "b.jpg"}
    )
    assert captioned.skipped["images without captions"] == []
    assert captioned.counts["held out by name"] == 2
    with pytest.raises(CorpusError, match="2 of 10 images have no caption"):
        match_captions(files, captions, source_weights=[1.0], max_missing=0.0)


def test_a_single_image_is_too_few(files: ImageFiles) -> None:
    with pytest.raises(
        CorpusError, match=r"Images with captions that can be read and are not held out: 1; .* needs at least two"
    ):
        match_captions(files, caption_table([("a.jpg", "1")]), source_weights=[1.0], max_missing=1.0)


def sampler(
    captions: pa.Table, groups: list[list[int]], weights: list[float] | None = None, **options: object
) -> ImageCaptionSampler:
    captioned = CaptionedImages(
        image_ids=[str(n) for n in range(len(groups))],
        caption_rows=[np.array(rows) for rows in groups],
        weights=np.array(weights or [1.0] * len(groups)),
        skipped={},
    )
    defaults = {"batch_size": 4, "captions_per_image": 1, "long_ratio": 0.5, "lang_weights": {}, "seed": 0}
    return ImageCaptionSampler(captioned, captions, **(defaults | options))  # type: ignore[arg-type]


PAIRS = [[2 * n, 2 * n + 1] for n in range(10)]


def test_an_epoch_contains_each_image_once() -> None:
    data = sampler(ALL, PAIRS, batch_size=3)
    assert data.steps_per_epoch == 3
    epochs = [np.concatenate([data.draw(3 * epoch + step).images for step in range(3)]) for epoch in range(3)]
    assert all(len(set(images.tolist())) == 9 for images in epochs)
    assert len({tuple(images) for images in epochs}) == 3


def test_images_are_drawn_by_weight_without_repetition_in_a_batch() -> None:
    data = sampler(ALL, PAIRS, weights=[3.0] + [1.0] * 9, batch_size=2)
    drawn = [data.draw(step).images.tolist() for step in range(2000)]
    assert all(len(set(images)) == 2 for images in drawn)
    # The first of two draws takes image 0 with probability 3/12, the second with 3/11 if the first took another.
    expected = 2000 * (3 / 12 + 9 / 12 * 3 / 11)
    assert sum(0 in images for images in drawn) == pytest.approx(expected, rel=0.1)
    assert np.array_equal(sampler(ALL, PAIRS, weights=[3.0] + [1.0] * 9, batch_size=2).draw(7).images, drawn[7])


def test_an_image_has_the_largest_weight_of_its_sources(files: ImageFiles) -> None:
    captions = caption_table([("a.jpg", "1"), ("b.jpg", "2"), ("a.jpg", "3")], source=[0, 1, 1])
    captioned = match_captions(files, captions, source_weights=[2.0, 0.5], max_missing=1.0)
    assert dict(zip(captioned.image_ids, captioned.weights.tolist(), strict=True)) == {"a.jpg": 2.0, "b.jpg": 0.5}


def test_draws_depend_only_on_seed_and_step() -> None:
    forwards = [sampler(ALL, PAIRS).draw(step) for step in range(7)]
    data = sampler(ALL, PAIRS)
    for step in reversed(range(7)):
        again = data.draw(step)
        assert np.array_equal(again.images, forwards[step].images)
        assert np.array_equal(again.captions, forwards[step].captions)
    assert not np.array_equal(sampler(ALL, PAIRS, seed=1).draw(0).images, forwards[0].images)


def test_drawn_captions_belong_to_their_images_and_differ_if_there_are_enough() -> None:
    for count in (1, 2, 3):
        drawn = sampler(ALL, PAIRS, captions_per_image=count).draw(5)
        assert drawn.captions.shape == (4, count)
        for image, rows in zip(drawn.images, drawn.captions.tolist(), strict=True):
            assert set(rows) <= set(PAIRS[image])
            assert len(set(rows)) == count or count == 3


def test_a_batch_larger_than_the_data_contains_all_of_it() -> None:
    data = sampler(ALL, PAIRS, batch_size=99)
    assert (data.batch_size, data.steps_per_epoch) == (10, 1)
    assert sorted(data.draw(3).images.tolist()) == list(range(10))


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.0, 0.0, 0.0), (0.25, 0.2, 0.3), (1.0, 1.0, 1.0)])
def test_long_captions_are_drawn_by_their_ratio(ratio: float, low: float, high: float) -> None:
    """One long and three short captions per image; images with one class are not affected."""
    captions = caption_table(
        [(None, str(n)) for n in range(10)], length=["long", "short", "short", "short"] * 2 + ["short", "long"]
    )
    data = sampler(captions, [[0, 1, 2, 3], [4, 5, 6, 7], [8], [9]], long_ratio=ratio)
    counts = Counter(int(row) for step in range(500) for row in data.draw(step).captions[:, 0])
    assert counts[8] == counts[9] == 500
    assert low <= (counts[0] + counts[4]) / 1000 <= high


def test_languages_are_drawn_by_weight_within_a_length_class() -> None:
    langs = ["en", "en", "en", "de", "zh", "de"]
    lengths = ["short"] * 5 + ["long"]
    captions = caption_table([(None, str(n)) for n in range(12)], lang=langs * 2, length=lengths * 2)
    groups = [list(range(6)), list(range(6, 12))]
    data = sampler(captions, groups, lang_weights={"en": 3.0, "zh": 0.0})
    counts = Counter(int(row) % 6 for step in range(500) for row in data.draw(step).captions[:, 0])
    assert counts[4] == 0
    assert 0.45 < counts[5] / 1000 < 0.55, "long"
    assert 0.32 < sum(counts[n] for n in range(3)) / 1000 < 0.43, "three quarters of the short half"


def test_images_whose_captions_are_never_drawn_are_refused() -> None:
    with pytest.raises(CorpusError, match="10 images, such as '0', have captions only in languages of weight 0"):
        sampler(ALL, PAIRS, lang_weights={"en": 0.0})
