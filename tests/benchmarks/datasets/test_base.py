"""Captions, their mapping to images, and what is checked for every data set."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.benchmarks.datasets.base import Captions, DatasetInfo, RetrievalSet, texts_digest
from llm2clip_search.benchmarks.datasets.registry import DATASETS, find_dataset
from llm2clip_search.corpora.image_files import ByteRange, ImageFiles
from llm2clip_search.errors import CorpusError

PAIRS = [("b", "One."), ("a", "Two"), ("b", "Three"), ("a", "Four!"), ("c", "Lonely")]


def images(*names: str) -> ImageFiles:
    return ImageFiles({name: ByteRange(Path("shard.tar"), 0, 0) for name in names})


def info(captions: Captions, gallery: ImageFiles) -> DatasetInfo:
    def read(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
        return RetrievalSet(name="toy", split=split, images=gallery, captions=dict.fromkeys(langs, captions))

    return DatasetInfo(
        name="toy", title="Toy", langs=("en", "de"), splits=("test", "val"), fetch="Get it at its shop.", read=read
    )


def test_captions_without_ids_are_numbered_within_their_image() -> None:
    assert Captions.of(PAIRS).caption_ids == ["b#0", "a#0", "b#1", "a#1", "c#0"]


def test_captions_are_mapped_by_id_and_never_by_position() -> None:
    captions = Captions.of(PAIRS)
    assert captions.rows_in(["a", "b", "c", "d"]).tolist() == [1, 0, 1, 0, 2]
    with pytest.raises(CorpusError, match=r"2 images have captions but are missing, such as b\."):
        captions.rows_in(["a"])


def test_the_first_captions_of_each_image_are_taken_in_order() -> None:
    assert Captions.of(PAIRS).first(1).texts == ["One.", "Two", "Lonely"]
    assert Captions.of(PAIRS).first(9) == Captions.of(PAIRS)


def test_captions_of_an_image_are_joined() -> None:
    joined = Captions.of([*PAIRS, ("b", "Left out")]).joined(2)
    assert (joined.texts, joined.image_ids) == (["One. Three.", "Two. Four!"], ["b", "a"])


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_two_lists_of_texts_have_one_digest_only_if_they_are_equal(one: list[str], other: list[str]) -> None:
    assert (texts_digest(one) == texts_digest(other)) == (one == other)


def test_the_first_split_and_language_are_the_default(tmp_path: Path) -> None:
    found = info(Captions.of(PAIRS), images("a", "b", "c")).open(tmp_path)
    assert (found.split, list(found.captions)) == ("test", ["en"])


@pytest.mark.parametrize(
    ("split", "langs", "words"),
    [("train", (), "no split 'train'; it has test, val"), ("", ("fr",), "no captions in 'fr'; it has en, de")],
)
def test_what_a_data_set_does_not_have_is_reported(
    tmp_path: Path, split: str, langs: tuple[str, ...], words: str
) -> None:
    with pytest.raises(CorpusError, match=words):
        info(Captions.of(PAIRS), images("a", "b", "c")).open(tmp_path, split=split, langs=langs)


def test_a_missing_folder_tells_where_to_get_the_data(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere is not a folder, so Toy cannot be read\.") as caught:
        info(Captions.of(PAIRS), images("a", "b", "c")).open(tmp_path / "nowhere")
    assert caught.value.hint == "ROOT is the folder that --root names. Get it at its shop."


def test_what_a_reader_finds_missing_is_told_with_where_to_get_it(tmp_path: Path) -> None:
    def read(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
        raise CorpusError("toy.json is missing.", hint="Another split may have it.")

    broken = replace(info(Captions.of(PAIRS), images("a")), read=read)
    with pytest.raises(CorpusError, match=r"^toy\.json is missing\.$") as caught:
        broken.open(tmp_path)
    assert caught.value.hint == ("Another split may have it. ROOT is the folder that --root names. Get it at its shop.")


@pytest.mark.parametrize(
    ("captions", "gallery", "words"),
    [
        (Captions.of(PAIRS), (), "has no images"),
        (Captions.of([]), ("a",), "has no captions in 'en'"),
        (Captions.of(PAIRS), ("a", "b"), "1 images have captions but are missing, such as c"),
        (Captions(texts=["x", "y"], image_ids=["a", "a"], caption_ids=["7", "7"]), ("a",), "2 captions with id '7'"),
    ],
)
def test_a_set_that_is_not_whole_is_refused(
    tmp_path: Path, captions: Captions, gallery: tuple[str, ...], words: str
) -> None:
    with pytest.raises(CorpusError, match=words):
        info(captions, images(*gallery)).open(tmp_path)


def test_data_sets_are_found_by_name_and_near_names_are_offered() -> None:
    assert find_dataset("flickr8k") is DATASETS["flickr8k"]
    assert all(name == found.name for name, found in DATASETS.items())
    with pytest.raises(CorpusError, match="did you mean flickr8k"):
        find_dataset("flicker8k")
    with pytest.raises(CorpusError, match=r"there are .*flickr8k"):
        find_dataset("zzz")


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_tells_what_to_fetch_when_it_is_not_there(name: str, tmp_path: Path) -> None:
    found = DATASETS[name]
    assert len(found.fetch) > 20
    with pytest.raises(CorpusError) as caught:
        found.open(tmp_path)
    assert caught.value.hint.endswith(found.fetch)
