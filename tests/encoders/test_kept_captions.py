"""Embeddings of captions on disk: the same bits, a bound, damage, and what they depend on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.encoders import Encoder, kept_captions
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.kept_captions import MOST, KeepingEncoder, KeptCaptions


class Counting(Encoder):
    """Random vectors, which are new at each call, and a count of the captions that were embedded."""

    dim, max_tokens, preprocess = 6, 77, PreprocessConfig(height=8, width=8)

    def __init__(self, name: str = "counting") -> None:
        self.identity = ModelIdentity.from_name(name)
        self.random = np.random.default_rng(0)
        self.embedded = 0
        self.loaded_for: list[str] = []

    def load_for(self, texts: Sequence[str]) -> None:
        self.loaded_for.extend(texts)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        self.embedded += len(texts)
        return self.random.standard_normal((len(texts), self.dim)).astype(np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def keeping(folder: Path, inner: Encoder, how: Sequence[str] = ("onnx",)) -> KeepingEncoder:
    return KeepingEncoder(inner, KeptCaptions(folder), how=how)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_caption_is_embedded_once(tmp_path: Path) -> None:
    """By any process; vectors and counts are those of the first time."""
    first, second = Counting(), Counting()
    captions = ["a dog", "雪地里的狗 🐕", ""]
    vectors = keeping(tmp_path, first).encode_texts(captions)
    again = keeping(tmp_path, second)
    np.testing.assert_array_equal(again.encode_texts(captions[::-1]), vectors[::-1])
    assert again.count_tokens(captions) == [2, 2, 0]
    assert (first.embedded, second.embedded) == (3, 0)
    assert again.encode_texts(["a dog", "a cat"]).shape == (2, 6)  # one is new, so both are embedded
    assert second.embedded == 2


def test_a_model_is_loaded_for_new_captions_alone(tmp_path: Path) -> None:
    keeping(tmp_path, Counting()).encode_texts(["a dog"])
    inner = Counting()
    encoder = keeping(tmp_path, inner)
    encoder.load_for(["a dog"])
    assert inner.loaded_for == []
    encoder.load_for(["a cat"])
    assert inner.loaded_for == ["a cat"]


def test_what_decides_an_embedding_is_in_the_key(tmp_path: Path) -> None:
    keeping(tmp_path, Counting()).encode_texts(["a dog"])
    for inner, how in ((Counting("other"), ("onnx",)), (Counting(), ("torch",)), (Counting(), ("onnx", "8bit"))):
        keeping(tmp_path, inner, how).encode_texts(["a dog"])
        assert inner.embedded == 1


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "longer"])
def test_a_damaged_file_is_replaced(tmp_path: Path, damage: str) -> None:
    keeping(tmp_path, Counting()).encode_texts(["a dog"])
    [path] = files_of(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(
            {"flipped": bytes(flipped), "cut": whole[:place], "empty": b"", "longer": whole + b"x"}[damage]
        )
        inner = Counting()
        vectors = keeping(tmp_path, inner).encode_texts(["a dog"])
        assert inner.embedded == 1
        np.testing.assert_array_equal(keeping(tmp_path, Counting()).encode_texts(["a dog"]), vectors)


def test_the_captions_used_last_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_captions, "FILES_PER_FOLDER", 2)
    encoder = keeping(tmp_path, Counting())
    for number in range(1500):
        encoder.encode_texts([f"picture {number}"])
    assert max(len(files_of(folder)) for folder in tmp_path.iterdir()) == 2
    inner = Counting()
    keeping(tmp_path, inner).encode_texts(["picture 1499"])
    assert inner.embedded == 0


def test_a_batch_is_not_kept_and_a_disk_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    captions = [f"picture {number}" for number in range(MOST + 1)]
    assert keeping(tmp_path, Counting()).encode_texts(captions).shape == (MOST + 1, 6)
    assert not files_of(tmp_path)
    (tmp_path / "file").write_text("")
    inner = Counting()
    blocked = keeping(tmp_path / "file", inner)
    assert [blocked.encode_texts(["a dog"]).shape for _ in range(2)] == [(1, 6)] * 2
    assert inner.embedded == 2
