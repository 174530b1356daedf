"""Captions of dev splits, each by itself or joined."""

from pathlib import Path

import pytest

from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_table import CaptionSource, caption_id
from llm2clip_search.training.data.dev_captions import read_dev_captions
from llm2clip_search.training.data.recipe import DevSplit
from tests.support.corpus import write_csv


def split(*langs: str, joined: int = 0) -> DevSplit:
    return DevSplit(
        name="val", captions=CaptionSource(path="captions.csv", langs=langs), images=("images",), joined=joined
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Image ``a`` has three English captions and a German one, ``b`` a single English one."""
    rows = [("a", "en", "A dog"), ("b", "en", "One cat."), ("a", "de", "Ein Hund"), ("a", "en", "It runs.")]
    rows.append(("a", "en", "Far"))
    names = ("image_id", "lang", "caption")
    write_csv(tmp_path / "captions.csv", [dict(zip(names, row, strict=True)) for row in rows])
    return tmp_path


def test_captions_are_taken_by_themselves(root: Path) -> None:
    read = read_dev_captions(root, split("en"))
    assert read["caption"].to_pylist() == ["A dog", "One cat.", "It runs.", "Far"]
    assert set(read["length"].to_pylist()) == {"short"}


@pytest.mark.parametrize(("parts", "text"), [(2, "A dog. It runs."), (9, "A dog. It runs. Far.")])
def test_the_first_captions_of_an_image_are_joined(parts: int, text: str, root: Path) -> None:
    """Those of a language; an image with one caption has none to be joined."""
    (row,) = read_dev_captions(root, split("en", joined=parts)).to_pylist()
    assert (row["image_id"], row["lang"], row["caption"], row["length"]) == ("a", "en", text, "long")
    assert row["caption_id"] == caption_id(text)


def test_languages_without_captions_are_refused(root: Path) -> None:
    """Their recalls would not be numbers."""
    with pytest.raises(CorpusError, match=r"'val' has no captions in cs, fr\."):
        read_dev_captions(root, split("fr", "en", "cs"))
    with pytest.raises(CorpusError, match=r"'val' has no image with two captions to be joined in de\."):
        read_dev_captions(root, split("de", "en", joined=2))


@pytest.mark.parametrize("joined", [-1, 1])
def test_one_caption_is_not_joined(joined: int) -> None:
    with pytest.raises(ValueError, match="joined"):
        split("en", joined=joined)
