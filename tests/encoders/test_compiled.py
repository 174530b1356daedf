"""Towers prepared for ONNX Runtime: the table of token embeddings, 8-bit weights, and what they change."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from llm2clip_search.encoders import compiled, load_encoder, towers
from llm2clip_search.encoders.compiled import BLOCK, quantised_columns
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.towers import Runtime, compiled_path
from tests.support.models import CAPTIONS, save_model

RUNTIMES: tuple[Runtime, ...] = ("onnx", "torch")


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model whose blocks are just wide enough for 8-bit weights, and which is to have them."""
    folder = save_model(tmp_path_factory.mktemp("wide") / "model", width=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(towers, "QUANTISED", {resolve(f"dir:{folder}").identity.fingerprint})
        yield folder


def _operators(path: Path) -> set[str]:
    import onnx

    graph: Any = onnx.load(path, load_external_data=False).graph
    return {node.op_type for node in graph.node}


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=70),
        elements=st.floats(-100, 100, width=32, allow_subnormal=False),
    )
)
def test_weights_are_within_half_a_step_of_their_integers(weights: np.ndarray) -> None:
    integers, scales = quantised_columns(weights)
    rows, columns = weights.shape
    assert integers.shape == (columns, -(-rows // BLOCK), BLOCK)
    assert scales.shape == integers.shape[:2]
    assert integers.dtype == np.uint8
    assert scales.dtype == np.float32
    back = ((integers.astype(np.float32) - 128) * scales[:, :, None]).reshape(columns, -1)
    steps = np.repeat(scales, BLOCK, axis=1)
    assert (np.abs(back[:, :rows] - weights.T) <= 0.501 * steps[:, :rows]).all()
    assert not back[:, rows:].any()


def test_a_language_models_blocks_have_8_bit_weights(wide_model: Path) -> None:
    """The vectors are torch's within 1e-3 cosine, and a caption's do not depend on the others in its batch."""
    onnx, torch = (load_encoder(f"dir:{wide_model}", runtime=name, device="cpu") for name in RUNTIMES)
    found = onnx.encode_texts(CAPTIONS)
    assert (found * torch.encode_texts(CAPTIONS)).sum(axis=1).min() > 1 - 1e-3
    for caption, vector in zip(CAPTIONS, found, strict=True):
        np.testing.assert_allclose(onnx.encode_texts([caption])[0], vector, atol=1e-5)
    path = compiled_path(resolve(f"dir:{wide_model}"), "text")
    assert "MatMulNBits" in _operators(path)
    assert np.load(path.with_name("ids.embedded.npy"), mmap_mode="r").shape == (320, 256)


def test_weights_that_lose_too_much_keep_their_precision(wide_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on this machine, by the comparison with torch."""

    def ruined(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        integers, scales = quantised_columns(weights)
        return integers[::-1], scales

    path = compiled_path(resolve(f"dir:{wide_model}"), "text")
    shutil.rmtree(path.parent)
    monkeypatch.setattr(compiled, "quantised_columns", ruined)
    onnx, torch = (load_encoder(f"dir:{wide_model}", runtime=name, device="cpu") for name in RUNTIMES)
    assert (onnx.encode_texts(CAPTIONS) * torch.encode_texts(CAPTIONS)).sum(axis=1).min() > 1 - 1e-5
    assert "MatMulNBits" not in _operators(path)


def test_a_compiled_tower_that_changed_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Vectors of another file would look as good as any."""
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    model = resolve(f"dir:{save_model(tmp_path / 'model')}")
    path = compiled_path(model, "text")
    names = {each.name for each in path.parent.iterdir()}
    inode = path.stat().st_ino
    assert compiled_path(model, "text").stat().st_ino == inode
    table = path.with_name("ids.embedded.npy")
    sound = table.read_bytes()
    table.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert compiled_path(model, "text") == path
    assert "was damaged in the cache; it is compiled again" in caplog.text
    assert table.read_bytes() == sound
    assert {each.name for each in path.parent.iterdir()} == names
    path.with_name("export.json").write_text("{")
    assert compiled_path(model, "text") == path
    assert path.with_name("export.json").read_text() != "{"


def test_the_precision_of_a_text_tower_is_named_before_it_is_loaded(wide_model: Path, tiny_model: Path) -> None:
    """Vectors of 8-bit weights differ from exact ones though the fingerprint is the same."""
    cases: tuple[tuple[Path, Runtime, str], ...] = (
        (wide_model, "onnx", f"8bit-{compiled.version()}"),
        (wide_model, "auto", f"8bit-{compiled.version()}"),
        (wide_model, "torch", "exact"),
        (tiny_model, "onnx", "exact"),
    )
    for folder, runtime, precision in cases:
        encoder = load_encoder(f"dir:{folder}", runtime=runtime, device="cpu")
        assert encoder.text_precision == precision


def test_large_images_are_embedded_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(f"dir:{save_model(tmp_path / 'model')}", runtime="onnx", device="cpu")
    size = encoder.preprocess
    pixels = np.random.default_rng(0).integers(0, 255, (7, size.height, size.width, 3), dtype=np.uint8)
    whole = encoder.encode_pixels(pixels)
    for most in (1, 3 * size.height * size.width, 100 * size.height * size.width):
        monkeypatch.setattr(towers, "PIXELS_AT_ONCE", most)
        np.testing.assert_allclose(encoder.encode_pixels(pixels), whole, atol=1e-5)
