"""Text files as containers of passages."""

from pathlib import Path

import pytest

from llm2clip_search import CorpusError, Item
from llm2clip_search.corpora import texts as texts_module
from llm2clip_search.corpora.containers import container_for, open_uri
from llm2clip_search.corpora.files import LocalFiles
from llm2clip_search.corpora.named import item_of
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.passages import Passages, cut_item
from tests.support.encoders import ColourEncoder


def read(path: Path) -> list[Item]:
    """The parts of a file, before they are cut."""
    reader = container_for(path.name)
    assert reader is not None
    container = item_of(LocalFiles().status(str(path)), is_container=True)
    return list(reader.parts(LocalFiles(), container, SourceOptions(modality="text")))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Grüße, 猫".encode(), "Grüße, 猫"),
        ("Grüße, 猫".encode("utf-8-sig"), "Grüße, 猫"),
        ("Grüße, 猫".encode("utf-16"), "Grüße, 猫"),
        ("\ufeffGrüße, 猫".encode("utf-16-be"), "Grüße, 猫"),
        ("Grüße „so“ 5 €".encode("cp1252"), "Grüße „so“ 5 €"),
        ("Grüße".encode("latin-1"), "Grüße"),
        (b"\r\n  one\r\ntwo\rthree \r\n", "one\ntwo\nthree"),
    ],
)
def test_encodings_and_line_ends(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(data)
    [part] = read(path)
    assert part.data == text.encode()
    assert part.size == len(part.data)
    assert open_uri(part.uri, part.version) == part.data
    start = 3 if data.startswith(b"\r") else 0  # line ends count as one character
    assert part.uri == f"{path}#char={start},{start + len(text)}"
    assert not part.is_container


def test_each_passage_is_read_again_by_its_uri(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# Grüße\r\n\r\n" + "\n\n".join(f"Absatz {n}: " + "Wörter und mehr. " * 9 for n in range(6)))
    passages = Passages(ColourEncoder())
    found = [part for whole in read(path) for part in cut_item(whole, passages)]
    assert len(found) > 6
    for part in found:
        assert open_uri(part.uri, part.version) == part.data
    assert {part.version for part in found} == {LocalFiles().status(str(path)).version}


@pytest.mark.parametrize("data", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
def test_files_without_text_have_no_parts(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "note.rst").write_bytes(data)
    assert read(tmp_path / "note.rst") == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "is not text: it holds a zero byte"),
        (b"\xff\xfe\x00\xd8", "is not text in UTF-16, as it begins"),
        (b"\x81\x8d", "is not text in UTF-8, UTF-16 or Windows-1252"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "note.txt").write_bytes(data)
    with pytest.raises(CorpusError, match=rf"note\.txt {message}"):
        read(tmp_path / "note.txt")


def test_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "note.txt").write_text("a dog")
    monkeypatch.setattr(texts_module, "LARGEST", 4)
    with pytest.raises(CorpusError, match="has 5 bytes; text files are read up to 4"):
        read(tmp_path / "note.txt")
