"""What callers may pass as captions and images: it means what it looks like, or is refused in a sentence."""

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llm2clip_search import Encoder, ImageError, InputError, Llm2ClipError, load_encoder
from llm2clip_search.encoders.images import read_rgb
from llm2clip_search.encoders.inputs import captions_of
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph

PICTURE = photograph(3, (40, 30))
ARRAY = np.asarray(PICTURE)


class Table:
    """Iterates over the names of its columns, as data frames do."""

    columns = ("caption",)

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array([["a cat"]], dtype=object)


ONE_CAPTION: dict[str, Callable[[], Any]] = {
    "string": lambda: "a cat",
    "list": lambda: ["a cat"],
    "tuple": lambda: ("a cat",),
    "generator": lambda: (text for text in ["a cat"]),
    "array": lambda: np.array(["a cat"]),
    "object array": lambda: np.array(["a cat"], dtype=object),
    "scalar array": lambda: np.array("a cat"),
    "numpy string": lambda: np.str_("a cat"),
    "Arrow column": lambda: pa.chunked_array([["a cat"]]),
    "iterator": lambda: iter(["a cat"]),
}


@pytest.mark.parametrize("kind", ONE_CAPTION)
def test_one_caption_is_one_row(tiny_encoder: Encoder, kind: str) -> None:
    expected = tiny_encoder.encode_texts(["a cat"])
    np.testing.assert_array_equal(tiny_encoder.encode_texts(ONE_CAPTION[kind]()), expected)
    assert tiny_encoder.count_tokens(ONE_CAPTION[kind]()) == tiny_encoder.count_tokens(["a cat"])
    assert [type(caption) for caption in captions_of(ONE_CAPTION[kind]())] == [str]


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (None, "not None"),
        (3, r"not int \(3\)"),
        (b"a cat", "bytes .*; decode it first"),
        (["a", None], "Caption 2 of 2 is not a string but None"),
        (["a", b"b", "c"], "Caption 2 of 3 is not a string but bytes"),
        ([float("nan")], r"Caption 1 of 1 is not a string but float \(nan\)"),
        ([["a"]], "is not a string but list"),
        (np.array([["a"], ["b"]]), "Caption 1 of 2 is not a string but ndarray"),
        ({"a", "b"}, "set .*; has no order"),
        ({"a": 1}, "dict .*; pass its values or one of its columns"),
        (Table(), "not Table; pass its values or one of its columns"),
        (pa.table({"caption": ["a"]}), "not Table; pass"),
        ("a \udcff dog", r"'a \\udcff dog' is not valid Unicode"),
    ],
)
def test_captions_that_are_refused(tiny_encoder: Encoder, captions: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        tiny_encoder.encode_texts(captions)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


class Strict(ColourEncoder):
    """Records what its own methods receive."""

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        assert type(texts) is list
        assert texts
        return super().encode_texts(texts, batch_size=batch_size)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        assert type(texts) is list
        return super().count_tokens(texts)


def test_the_methods_of_any_encoder_receive_lists_of_strings() -> None:
    encoder = Strict()
    expected = encoder.encode_texts(["a cat"], batch_size=2)
    np.testing.assert_array_equal(encoder.encode_texts("a cat"), expected)
    assert encoder.encode_texts(()).shape == encoder.encode_images([]).shape == (0, encoder.dim)
    assert len(encoder.count_tokens("a cat")) == 1
    assert encoder.encode_texts.__name__ == "encode_texts"


def png() -> bytes:
    data = io.BytesIO()
    PICTURE.save(data, "PNG")
    return data.getvalue()


def read_only() -> np.ndarray:
    array = ARRAY.copy()
    array.flags.writeable = False
    return array


SAME_IMAGE: dict[str, Callable[[], Any]] = {
    "PIL": lambda: PICTURE,
    "list": lambda: [PICTURE],
    "generator": lambda: (each for each in [PICTURE]),
    "bytes": png,
    "bytearray": lambda: bytearray(png()),
    "memoryview": lambda: memoryview(png()),
    "open file": lambda: io.BytesIO(png()),
    "lazy PIL": lambda: Image.open(io.BytesIO(png())),
    "uint8": lambda: ARRAY,
    "batch of one": lambda: ARRAY[None],
    "bytes in a list": lambda: [png()],
    "int64": lambda: ARRAY.astype(np.int64),
    "uint16": lambda: ARRAY.astype(np.uint16),
    "big-endian int": lambda: ARRAY.astype(">i4"),
    "float32 0..255": lambda: ARRAY.astype(np.float32),
    "float64 0..1": lambda: ARRAY / 255,
    "float16 0..1": lambda: (ARRAY / 255).astype(np.float16),
    "big-endian float": lambda: (ARRAY / 255).astype(">f8"),
    "rounding": lambda: (
        np.where(ARRAY.max() == ARRAY, 1.0 + 1e-6, np.where(ARRAY == 0, -1e-6, ARRAY / ARRAY.max()))
        * (ARRAY.max() / 255)
    ),
    "read-only": read_only,
    "Fortran order": lambda: np.asfortranarray(ARRAY),
    "strided": lambda: np.repeat(np.repeat(ARRAY, 2, axis=0), 2, axis=1)[::2, ::2],
    "opaque": lambda: np.dstack([ARRAY, np.full(ARRAY.shape[:2], 255, np.uint8)]),
    "tensor": lambda: torch.from_numpy(ARRAY.copy()),
    "tensor with gradient": lambda: torch.tensor(ARRAY / 255, requires_grad=True),
    "list of tensors": lambda: [torch.from_numpy(ARRAY.copy())],
}


@pytest.mark.parametrize("kind", SAME_IMAGE)
def test_an_image_has_the_same_embedding_in_every_form(kind: str) -> None:
    encoder = ColourEncoder()
    found = encoder.encode_images(SAME_IMAGE[kind]())
    assert found.shape == (1, encoder.dim)
    np.testing.assert_allclose(found, encoder.encode_images([PICTURE]), atol=0.01 if "float16" in kind else 1e-6)


def test_paths_are_one_image_or_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PICTURE.save(tmp_path / "x.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    encoder = ColourEncoder()
    expected = encoder.encode_images([PICTURE])
    for form in (str(tmp_path / "x.png"), tmp_path / "x.png", "~/x.png", (tmp_path / "x.png").open("rb")):
        np.testing.assert_array_equal(encoder.encode_images(form), expected)
    severals: list[Any] = [
        np.array([str(tmp_path / "x.png")] * 2),
        np.array([tmp_path / "x.png"] * 2),
        [PICTURE, "~/x.png"],
    ]
    for several in severals:
        np.testing.assert_array_equal(encoder.encode_images(several), expected.repeat(2, axis=0))
    assert encoder.encode_images(np.stack([ARRAY] * 3)).shape == (3, encoder.dim)
    assert encoder.encode_images(np.empty((0, 8, 8, 3))).shape == encoder.encode_images(np.array([])).shape


CLOSED = io.BytesIO(b"x")
CLOSED.close()
REFUSED: dict[str, tuple[Any, str]] = {
    "colour first": (ARRAY.transpose(2, 0, 1), r"\[3, 30, 40\], with colour first; .* np\.moveaxis\(array, -3, -1\)"),
    "batch, colour first": (ARRAY[None].transpose(0, 3, 1, 2), "with colour first"),
    "tensor, colour first": (torch.from_numpy(ARRAY.copy()).permute(2, 0, 1), "with colour first"),
    "grey batch": (np.zeros((3, 30, 40), np.uint8), r"\[3, 30, 40\]"),
    "five channels": (np.zeros((30, 40, 5), np.uint8), r"\[H, W\] or \[H, W, 1\|3\|4\], not \[30, 40, 5\]"),
    "one axis": (np.zeros(5), r"not \[5\]"),
    "no rows": (np.zeros((0, 40, 3), np.uint8), r"not \[0, 40, 3\]"),
    "NaN": (np.full((4, 4), np.nan), "not finite"),
    "infinity": (np.full((4, 4), np.inf), "not finite"),
    "normalised": (ARRAY / 127.5 - 1, "float64 values from -1 to .*floats are in 0..1 or in 0..255"),
    "overshoot": (ARRAY / ARRAY.max() * 1.5, "floats are in 0..1 or in 0..255"),
    "beyond 255": (ARRAY * 2.0, "floats are in 0..1 or in 0..255"),
    "16 bits": (ARRAY.astype(np.uint16) * 257, "integers are in 0..255. Scale them, 16-bit values by 1/257"),
    "negative": (ARRAY.astype(np.int16) - 300, "integers are in 0..255"),
    "complex": (ARRAY * 1j, "integers or floats, not complex128"),
    "bfloat16": (torch.tensor(ARRAY / 255, dtype=torch.bfloat16), "does not become a numpy array"),
    "None": (None, "not None"),
    "number": (3, r"not int \(3\)"),
    "numbers": ([3], "not int"),
    "nested lists": ([[0, 1], [2, 3]], "not list"),
    "set": ({"x.png"}, "has no order"),
    "dict": ({"x.png": 1}, "pass its values"),
    "table": (Table(), "pass its values or one of its columns"),
    "array of arrays of names": (np.array([["x.png"], ["y.png"]]), "integers or floats, not <U5"),
    "no image": (b"hello", "the image in memory: not an image"),
    "nothing": (b"", "the image in memory: the file is empty"),
    "text file": (io.StringIO("x"), "mode 'rb'"),
    "file at its end": (io.BytesIO(b""), "at its end; seek"),
    "closed file": (CLOSED, "cannot be read"),
    "cut PIL image": (Image.open(io.BytesIO(png()[:200])), "OSError|SyntaxError"),
    "null byte": ("x\0.png", "null"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_images_that_are_refused(kind: str) -> None:
    images, message = REFUSED[kind]
    with pytest.raises(Llm2ClipError, match=message) as caught:
        ColourEncoder().encode_images(images)
    assert isinstance(caught.value, ImageError | InputError)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    channels=st.sampled_from([0, 1, 3]),
    dtype=st.sampled_from(["uint8", "int16", "uint32", "float32", "float64", ">f4", ">u2"]),
    unit=st.booleans(),
)
def test_values_keep_their_meaning_in_every_type(seed: int, channels: int, dtype: str, unit: bool) -> None:
    """Integers and floats in 0..255, and floats in 0..1, give the pixels of the uint8 image."""
    shape = (5, 7, channels) if channels else (5, 7)
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    values = pixels / 255 if unit and "f" in dtype else pixels
    expected = np.broadcast_to(pixels.reshape(5, 7, -1), (5, 7, 3))
    np.testing.assert_array_equal(np.asarray(read_rgb(values.astype(dtype))), expected)


def test_booleans_are_black_and_white() -> None:
    mask = np.eye(4, dtype=bool)
    np.testing.assert_array_equal(np.asarray(read_rgb(mask))[:, :, 0], np.where(mask, 255, 0))


def test_a_used_encoder_can_be_copied(tiny_encoder: Encoder) -> None:
    texts, pixels = tiny_encoder.encode_texts("a cat"), tiny_encoder.encode_images(PICTURE)
    for other in (copy.deepcopy(tiny_encoder), copy.copy(tiny_encoder), pickle.loads(pickle.dumps(tiny_encoder))):
        assert other is not tiny_encoder
        assert (other.name, other.fingerprint, other.dim) == (
            tiny_encoder.name,
            tiny_encoder.fingerprint,
            tiny_encoder.dim,
        )
        np.testing.assert_array_equal(other.encode_texts("a cat"), texts)
        np.testing.assert_array_equal(other.encode_images(PICTURE), pixels)
    assert len(pickle.dumps(tiny_encoder)) < 20_000  # no weights, which the copy maps from the same files


def test_a_used_encoder_works_in_a_spawned_process(tiny_model: Path) -> None:
    encoder = load_encoder(f"dir:{tiny_model}", runtime="torch", device="cpu")
    expected = encoder.encode_texts("a cat")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(encoder.encode_texts, ("a cat",))
    np.testing.assert_array_equal(found, expected)
