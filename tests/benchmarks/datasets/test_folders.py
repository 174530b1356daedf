"""Data sets of separate files: missing, unequal, damaged or non-UTF-8 files."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.benchmarks.datasets.folders import (
    captions_by_line,
    first_existing,
    images_in,
    read_ids,
    read_json,
    read_lines,
    retrieval_set,
)
from llm2clip_search.errors import CorpusError
from tests.support.layouts import jpeg, write_images


def test_images_keep_the_order_of_their_ids(tmp_path: Path) -> None:
    write_images(tmp_path, ["deep/a.jpg", "b.jpg"])
    found = images_in(tmp_path, {"2": "b.jpg", "1": "deep/a.jpg"}, what="Toy")
    assert list(found) == ["2", "1"]
    assert [found.read(image) for image in found] == [jpeg(1), jpeg(0)]


def test_missing_images_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg"])
    (tmp_path / "folder.jpg").mkdir()
    files = {"1": "a.jpg", "2": "folder.jpg", "3": "gone.jpg", "4": "zero\0.jpg", "5": "x" * 5000}
    with pytest.raises(CorpusError, match=r"^4 of 5 images of Toy are missing from .*, such as folder\.jpg\.$"):
        images_in(tmp_path, files, what="Toy")


def test_captions_are_stripped_and_empty_ones_left_out(tmp_path: Path) -> None:
    images = images_in(write_images(tmp_path, ["a", "b"]), {"a": "a", "b": "b"}, what="Toy")
    pairs = [("a", " One. \n"), ("a", " \t"), ("b", ""), ("a", "Two.")]
    found = retrieval_set(name="toy", split="test", images=images, captions={"en": pairs}, expected_images=3)
    assert found.captions["en"].texts == ["One.", "Two."]
    assert found.captions["en"].caption_ids == ["a#0", "a#1"]
    assert list(found.images) == ["a", "b"]
    assert found.notes == ("This copy has 2 images; published results use 3.",)
    whole = retrieval_set(name="toy", split="test", images=images, captions={"en": pairs}, expected_images=2)
    assert whole.notes == ()


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"))),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_line_is_what_a_line_feed_ends(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], compressed: bool, marked: bool, ended: bool
) -> None:
    """Real captions contain Unicode line separators and carriage returns; these must not start a new line."""
    path = tmp_path_factory.mktemp("lines") / ("t.gz" if compressed else "t")
    ended = ended or texts[-1:] == [""]  # or the last line could not be told from none
    data = ("\n".join(texts) + "\n" * (ended and bool(texts))).encode("utf-8-sig" if marked else "utf-8")
    path.write_bytes(gzip.compress(data) if compressed else data)
    if texts[:1] and texts[0].startswith("\ufeff") and not marked:
        return  # is that very mark
    assert read_lines(path) == [text.strip() for text in texts]


def test_lines_of_images_meet_by_order_and_must_be_as_many(tmp_path: Path) -> None:
    path = tmp_path / "t.de"
    path.write_text("Eins.\n\nDrei.\n", encoding="utf-8")
    assert captions_by_line(["a", "b", "c"], path) == [("a", "Eins."), ("b", ""), ("c", "Drei.")]
    with pytest.raises(CorpusError, match=r"t\.de has 3 lines for 2 images"):
        captions_by_line(["a", "b"], path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("a\nb\na\n", "has 'a' 2 times among 3"), ("a\n\nb\n", "has an empty id: number 2 of 3")],
)
def test_ids_are_distinct(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(CorpusError, match=words):
        read_ids(tmp_path / "ids.txt")


def test_files_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"gone\.txt does not exist"):
        read_lines(tmp_path / "gone.txt")
    with pytest.raises(CorpusError, match=r"cannot be read: .*directory"):
        read_lines(tmp_path)
    (tmp_path / "utf16.txt").write_bytes("Ein Café".encode("utf-16"))
    with pytest.raises(CorpusError, match=r"utf16\.txt is not UTF-8: byte 0 is 0xff"):
        read_lines(tmp_path / "utf16.txt")
    whole = gzip.compress(b"one\ntwo\n" * 99)
    for number, data in enumerate((whole[:-9], b"no gzip", whole[:20] + b"\0\0" + whole[22:])):
        path = tmp_path / f"{number}.gz"
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=rf"{number}\.gz cannot be read"):
            read_lines(path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(CorpusError, match=r"x\.json is not JSON"):
        read_json(tmp_path / "x.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(CorpusError, match=r"deep\.json is not JSON"):
        read_json(tmp_path / "deep.json")


def test_the_first_name_that_is_there_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    assert first_existing(tmp_path, "a", "b", "c") == tmp_path / "b"
    with pytest.raises(CorpusError, match="does not contain x or y"):
        first_existing(tmp_path, "x", "y")
