"""Texts are embedded by the text tower, passage by passage, and beside images of the same index."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm2clip_search import Corpus, IndexSummary, Item, index_corpus
from llm2clip_search.corpora import SourceOptions
from llm2clip_search.corpora.corpus import Modality
from llm2clip_search.indexers import IndexConfig
from llm2clip_search.indexers.sources import open_sources
from llm2clip_search.store import Snapshot
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph


class TextOnly(ColourEncoder):
    """Has no vision tower, and a text tower that fails at some words."""

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        raise AssertionError("texts do not need the vision tower")

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        if any("explode" in text for text in texts):
            raise ValueError("it explodes")
        vectors = super().encode_texts(texts, batch_size=batch_size)
        vectors[["infinite" in text for text in texts]] = np.inf
        return vectors


class ImageOnly(ColourEncoder):
    """Has no text tower."""

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        raise AssertionError("images do not need the text tower")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        raise AssertionError("images do not need the tokenizer")


def run(source: Path, encoder: ColourEncoder, modality: Modality = "text") -> IndexSummary:
    folder = source.parent / ".llm2clip"
    known = Snapshot(folder) if folder.exists() else None
    [corpus] = open_sources([source], known, SourceOptions(modality=modality), given=["modality"])
    return index_corpus(corpus, encoder=encoder, index=folder, config=IndexConfig(batch_size=4, threads=2))


def rows(source: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in Snapshot(source.parent / ".llm2clip").metadata().to_pylist()}


def paragraph(number: int) -> str:
    return f"Paragraph {number} is about " + " ".join(f"thing{number}x{each}" for each in range(12)) + "."


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "more").mkdir(parents=True)
    (folder / "long.md").write_text("\n\n".join(map(paragraph, range(10))))
    (folder / "more" / "short.txt").write_text("A red bicycle.\n")
    (folder / "more" / "empty.txt").write_text("\n")
    (folder / "photo.png").write_bytes(b"no matter")
    return folder


def test_passages_are_rows_with_their_text(notes: Path) -> None:
    encoder = TextOnly()
    done = run(notes, encoder)
    assert (done.indexed, done.failed, done.total) == (11, 0, 11)
    assert done.skipped.notes == {"files without texts": 1}
    found = rows(notes)
    assert [row["text"] for path, row in found.items() if "long" in path] == list(map(paragraph, range(10)))
    row = found["notes/more/short.txt#char=0,14"]
    assert (row["modality"], row["text"], row["width"], row["height"]) == ("text", "A red bicycle.", None, None)
    stored = Snapshot(notes.parent / ".llm2clip").vectors([int(str(row["id"]))])
    np.testing.assert_allclose(stored, encoder.encode_texts(["A red bicycle."]), atol=1e-3)


def test_only_changed_passages_are_embedded(notes: Path) -> None:
    encoder = TextOnly()
    run(notes, encoder)
    encoder.embedded = 0
    again = run(notes, encoder)
    assert (again.indexed, again.unchanged, encoder.embedded) == (0, 11, 0)
    changed = [paragraph(number) for number in range(10)]
    changed[2] = "Another beginning. " + changed[2]
    del changed[7]
    (notes / "long.md").write_text("\n\n".join(changed))
    edited = run(notes, encoder)
    assert (edited.indexed, encoder.embedded, edited.total) == (1, 1, 10)
    assert [row["text"] for path, row in sorted(rows(notes).items(), key=_place) if "long" in path] == changed
    (notes / "more" / "short.txt").rename(notes / "moved.txt")
    (notes / "long.md").unlink()
    moved = run(notes, encoder)
    assert (moved.indexed, moved.total, encoder.embedded) == (0, 1, 1)
    assert list(rows(notes)) == ["notes/moved.txt#char=0,14"]


def _place(item: tuple[str, object]) -> int:
    return int(item[0].rpartition("=")[2].partition(",")[0])


def test_a_text_that_fails_does_not_fail_its_batch(notes: Path) -> None:
    for number, text in enumerate(["fine", "explode", "infinite", "also fine"]):
        (notes / f"{number}.txt").write_text(text)
    (notes / "damaged.txt").write_bytes(b"\0\1")
    done = run(notes, TextOnly())
    assert (done.indexed, done.failed) == (13, 3)
    assert {Path(each["path"]).name: each["reason"] for each in done.failures} == {
        "1.txt#char=0,7": "the text tower cannot embed it: it explodes",
        "2.txt#char=0,8": "the text tower gave a vector that is not finite",
        "damaged.txt": "is not text: it holds a zero byte",
    }


def test_equal_texts_are_embedded_once(tmp_path: Path) -> None:
    table = tmp_path / "captions.jsonl"
    captions = ["a dog", "a cat", "a dog", " ".join(f"w{n}" for n in range(50)), "a dog"]
    table.write_text("".join(json.dumps({"caption": each, "licence": "cc"}) + "\n" for each in captions))
    encoder = TextOnly()
    done = run(table, encoder)
    found = rows(table)
    cut = [path for path in found if "char=" in path]
    assert len(cut) > 1
    assert all(path.startswith("captions.jsonl#row=3&column=caption&char=") for path in cut)
    assert (done.indexed, done.reused, encoder.embedded) == (2 + len(cut), 2, 2 + len(cut))
    assert found["captions.jsonl#row=4&column=caption"]["text"] == "a dog"
    assert {row["licence"] for row in found.values()} == {"cc"}
    assert run(table, encoder).unchanged == len(found)


def test_an_index_holds_images_and_texts(notes: Path) -> None:
    (notes / "photo.png").unlink()
    for number in range(3):
        photograph(number, (64, 48)).save(notes / f"{number}.png")
    assert run(notes, TextOnly()).total == 11
    pictures = run(notes, ImageOnly(), "image")
    assert (pictures.indexed, pictures.removed, pictures.total) == (3, 0, 14)
    (notes / "more" / "short.txt").unlink()
    again = run(notes, ImageOnly(), "image")
    assert (again.unchanged, again.removed, again.total) == (3, 0, 14)
    texts = run(notes, TextOnly())
    assert (texts.unchanged, texts.removed, texts.total) == (10, 1, 13)


class Bad(Corpus):
    """Texts without containers."""

    uri, modality = "notes://all", "text"

    def items(self) -> Iterator[Item]:
        yield Item(uri=f"{self.uri}/1", data=b"\xff\xfe")
        yield Item(uri=f"{self.uri}/2", data=b"  ")
        yield Item(uri=f"{self.uri}/3")

    def open(self, item: Item) -> bytes:
        return b"a dog"


def test_texts_that_cannot_be_read_are_failures(tmp_path: Path) -> None:
    done = index_corpus(Bad(), encoder=TextOnly(), index=tmp_path / "i")
    assert done.indexed == 1
    assert [each["reason"] for each in done.failures] == ["the text is not UTF-8", "the text is empty"]
