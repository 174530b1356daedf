"""The encoder of a model folder: shapes, order, separate towers, both runtimes, and identity."""

import json
import logging
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llm2clip_search.encoders import Encoder, load_encoder, tower_encoder, towers
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.placement import TowerName
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.tower_encoder import FEW_TOKENS
from llm2clip_search.encoders.towers import Runtime, Tower, compiled_path, load_tower
from llm2clip_search.errors import ImageError, ModelError
from tests.support.images import photograph
from tests.support.models import CAPTIONS, save_model


def test_embeddings_are_unit_float32_rows(tiny_encoder: Encoder, tmp_path: Path) -> None:
    """An image has the same embedding in any input format; captions keep their order."""
    picture = photograph(1, (200, 170))
    picture.save(tmp_path / "x.png")
    array = np.asarray(picture)
    rows = tiny_encoder.encode_images([tmp_path / "x.png", str(tmp_path / "x.png"), picture, array], batch_size=3)
    assert rows.shape == (4, tiny_encoder.dim)
    assert rows.dtype == np.float32
    assert rows.flags["C_CONTIGUOUS"]
    assert np.abs(rows - rows[0]).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    texts = tiny_encoder.encode_texts(CAPTIONS, batch_size=2)
    for text, row in zip(CAPTIONS, texts, strict=True):
        np.testing.assert_allclose(tiny_encoder.encode_texts([text])[0], row, atol=1e-5)
    assert tiny_encoder.encode_texts([]).shape == tiny_encoder.encode_images([]).shape == (0, tiny_encoder.dim)
    with pytest.raises(ImageError, match=r"nowhere\.png: No such file"):
        tiny_encoder.encode_images([tmp_path / "nowhere.png"])


def test_a_long_caption_is_truncated_by_token_count(tiny_encoder: Encoder) -> None:
    long = "qwxzjkv" * 6
    (count,) = tiny_encoder.count_tokens([long])
    assert count > tiny_encoder.max_tokens
    cut = next(n for n in range(len(long)) if tiny_encoder.count_tokens([long[:n]]) == [24])
    np.testing.assert_allclose(tiny_encoder.encode_texts([long]), tiny_encoder.encode_texts([long[:cut]]), atol=1e-6)
    assert np.abs(tiny_encoder.encode_texts([long]) - tiny_encoder.encode_texts([long[: cut - 1]])).max() > 1e-4


@pytest.mark.parametrize(("lost", "kept"), [("vision", "text"), ("text", "vision")])
def test_each_tower_loads_without_the_other(tmp_path: Path, lost: str, kept: str) -> None:
    """A tower works without the other's tensors; loading the other one reports what is missing."""
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if n.startswith(kept)}, folder / "model.safetensors")
    encoder = load_encoder(f"dir:{folder}", runtime="torch", device="cpu")
    run = {"text": lambda: encoder.encode_texts(["a"]), "vision": lambda: encoder.encode_images([photograph(1)])}
    assert run[kept]().shape == (1, 16)
    with pytest.raises(ModelError, match="missing"):
        run[lost]()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_compiled_towers_agree_with_torch(tiny_model: Path, tiny_encoder: Encoder, count: int) -> None:
    """Batches and lengths other than those traced."""
    onnx = load_encoder(f"dir:{tiny_model}", runtime="onnx", device="cpu")
    pictures = [photograph(number) for number in range(count)]
    texts = [caption * (count if number else 1) for number, caption in enumerate(CAPTIONS[:count])]
    for one, other in (
        (onnx.encode_images(pictures), tiny_encoder.encode_images(pictures)),
        (onnx.encode_texts(texts), tiny_encoder.encode_texts(texts)),
    ):
        assert (one * other).sum(axis=1).min() > 1.0 - 1e-5


def test_a_compiled_tower_is_cached_by_fingerprint(tiny_model: Path, tmp_path: Path) -> None:
    first = compiled_path(resolve(f"dir:{tiny_model}"), "text")
    written = first.stat().st_mtime_ns
    assert compiled_path(resolve(f"dir:{tiny_model}"), "text") == first
    assert first.stat().st_mtime_ns == written
    assert compiled_path(resolve(f"dir:{save_model(tmp_path / 'other', seed=3)}"), "text") != first
    assert not list(first.parents[1].glob(".text-*"))


def test_a_compiled_tower_that_disagrees_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The comparison detects a wrong export: ``auto`` falls back to torch with a warning, ``onnx`` raises."""
    from llm2clip_search.encoders import towers

    model = resolve(f"dir:{save_model(tmp_path / 'model', seed=4)}")
    monkeypatch.setattr(towers, "MIN_COSINE", 1.1)
    caplog.set_level(logging.WARNING, logger="llm2clip_search")
    tower = load_tower(model, "vision", runtime="auto", device="cpu")
    assert tower({"pixels": np.zeros((1, 160, 160, 3), np.uint8)}).shape == (1, 16)
    assert caplog.messages == ["The vision tower does not compile for ONNX Runtime; PyTorch runs it instead."]
    with pytest.raises(ModelError, match="agree with torch's only to cosine"):
        load_tower(model, "vision", runtime="onnx", device="cpu")
    with pytest.raises(ModelError, match="Runtime 'onnx' runs on the CPU, but the device is 'cuda'") as caught:
        load_tower(model, "vision", runtime="onnx", device="cuda")
    assert caught.value.hint == "Add --device cpu."


def test_a_text_tower_is_opened_ahead_if_it_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread, once, for many tokens; what it would raise there, the first caption raises."""
    name, main, loads = f"dir:{save_model(tmp_path / 'model', seed=5)}", threading.get_ident(), list[bool]()

    def loading(model: Model, tower: TowerName, **placed: Any) -> Tower:
        loads.append(threading.get_ident() == main)
        return load_tower(model, tower, **placed)

    def failing(model: Model, tower: TowerName, **placed: Any) -> Tower:
        loads.append(threading.get_ident() == main)
        raise ModelError("no such tower")

    def ahead(texts: list[str], runtime: Runtime = "onnx") -> Encoder:
        encoder = load_encoder(name, runtime=runtime, device="cpu")
        encoder.load_for(texts)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        return encoder

    monkeypatch.setattr(tower_encoder, "load_tower", loading)
    many = CAPTIONS * 4
    first = ahead(many)
    assert sum(first.count_tokens(many)) > FEW_TOKENS
    assert loads == []  # it would have to be compiled
    vectors = first.encode_texts(many)
    assert loads == [True]
    np.testing.assert_array_equal(ahead(many).encode_texts(many), vectors)
    assert loads == [True, False]
    ahead([])
    ahead(many, "torch")
    assert loads == [True, False]
    monkeypatch.setattr(tower_encoder, "load_tower", failing)
    broken = ahead(many)
    assert loads == [True, False, False]
    with pytest.raises(ModelError, match="no such tower"):
        broken.encode_texts(many)


def test_an_onnx_runtime_that_cannot_be_imported_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that lacks a library, or was built for another numpy."""
    name = f"dir:{save_model(tmp_path / 'model', seed=6)}"
    (tmp_path / "broken" / "onnxruntime").mkdir(parents=True)
    (tmp_path / "broken" / "onnxruntime" / "__init__.py").write_text("raise ImportError('libcudart.so.12: not found')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(towers, "_has_onnx", cache(towers._has_onnx.__wrapped__))
    encoder = load_encoder(name, device="cpu")
    assert encoder.encode_texts(CAPTIONS).shape == (len(CAPTIONS), 16)
    assert encoder.text_precision == "exact"
    assert caplog.messages == ["ONNX Runtime is installed but cannot be imported; PyTorch takes its place."]
    with pytest.raises(ModelError, match="which is not installed or cannot be imported"):
        load_encoder(name, runtime="onnx", device="cpu").encode_texts(CAPTIONS)


def test_a_few_captions_are_embedded_ahead_without_the_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those, all at once; other captions, and those of a copy, are given to the tower."""
    name, opened = f"dir:{save_model(tmp_path / 'model', seed=5)}", list[Encoder]()

    def loading(model: Model, tower: TowerName, **placed: Any) -> Tower:
        opened.append(encoder)
        return load_tower(model, tower, **placed)

    few = ["a dog", "two cats"]
    expected = load_encoder(name, runtime="onnx", device="cpu").encode_texts(few)
    monkeypatch.setattr(tower_encoder, "load_tower", loading)
    encoder = load_encoder(name, device="cpu")
    encoder.load_for(few)
    for _ in range(2):
        found = encoder.encode_texts(tuple(few))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        found[:] = 0
    assert sum(encoder.count_tokens(few)) <= FEW_TOKENS
    assert opened == []
    np.testing.assert_allclose(encoder.encode_texts(few[:1]), expected[:1], atol=1e-5)
    assert opened == [encoder]
    copied = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_allclose(copied.encode_texts(few), expected, atol=1e-5)


def test_the_fingerprint_covers_what_determines_embeddings(tmp_path: Path) -> None:
    model = resolve(f"dir:{save_model(tmp_path / 'model')}")
    base, config = model.identity, model.config

    def changed(**parts: object) -> str:
        return Model(model.reference, replace(config, **parts), model.folder).identity.fingerprint  # type: ignore[arg-type]

    assert changed(name="other", licence="MIT", training_data=("x",)) == base.fingerprint
    others = [
        changed(text=replace(config.text, max_tokens=12)),
        changed(text=replace(config.text, instruction="Find: ")),
        changed(text=replace(config.text, attention="causal")),
        changed(text=replace(config.text, hidden_layers=(1,))),
        changed(vision=replace(config.vision, pooled_modules=("blocks.0",))),
        changed(vision=replace(config.vision, preprocess=replace(config.vision.preprocess, mean=(0.4, 0.5, 0.5)))),
        resolve(f"dir:{save_model(tmp_path / 'seed', seed=9)}").identity.fingerprint,
    ]
    assert len({base.fingerprint, *others}) == 1 + len(others)
    llm = next((tmp_path / "model" / "llm").glob("*.safetensors"))
    data = bytearray(llm.read_bytes())
    data[-1] ^= 1
    llm.write_bytes(data)
    assert resolve(f"dir:{tmp_path / 'model'}").identity.fingerprint != base.fingerprint


def test_folders_that_are_not_models(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    good = json.loads((folder / "config.json").read_text())
    for damage, message in (
        ("{", "not valid JSON"),
        ({**good, "schema_version": 9}, "schema version 9; this version reads 2"),
        ({**good, "surprise": 1}, "surprise"),
        ({key: value for key, value in good.items() if key != "text"}, "'text'"),
        ({**good, "vision": {**good["vision"], "flavour": 1}}, "flavour"),
    ):
        (folder / "config.json").write_text(damage if isinstance(damage, str) else json.dumps(damage))
        with pytest.raises(ModelError, match=message):
            resolve(f"dir:{folder}")
    (folder / "config.json").write_text(json.dumps(good))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_encoder(f"dir:{folder}", runtime="torch").encode_texts(["a"])
    for name, message in (
        ("nonsense", "There is no model 'nonsense'"),
        ("ftp:x", "names no model"),
        (f"dir:{tmp_path / 'nowhere'}", "does not exist"),
        (f"dir:{tmp_path}", "no readable config.json"),
        ("hf:nobody/nothing", "hf:nobody/nothing is not on this machine"),
        ("open_clip:ViT-Z-99/x", "open_clip has no architecture 'ViT-Z-99'"),
    ):
        with pytest.raises(ModelError, match=message):
            resolve(name)
    with pytest.raises(ModelError, match="There is no model ") as caught:
        resolve(str(folder))
    assert caught.value.hint == f"To name the folder, use dir:{folder}."


def test_torchvision_imports_with_any_torch() -> None:
    """In a new process; if torchvision fails for another reason, that error must be raised."""
    code = """
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
ensure_torchvision(); ensure_torchvision()
import timm, open_clip
from transformers import CLIPModel
import torchvision.transforms
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr
    broken = """
import sys, importlib.abc
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            raise RuntimeError("another fault")
sys.meta_path.insert(0, Broken())
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
try:
    ensure_torchvision()
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True, check=False)
    assert done.stdout == "another fault\n", done.stderr


def test_images_of_every_mode_become_rgb() -> None:
    from llm2clip_search.encoders.images import read_rgb

    deep = Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16))
    assert read_rgb(deep).getpixel((0, 0)) == (156, 156, 156)
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert read_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    assert read_rgb(Image.new("LA", (2, 2), (0, 128))).getpixel((0, 0)) == (127, 127, 127)
    assert read_rgb(Image.new("CMYK", (2, 2), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)
    assert read_rgb(np.full((2, 2, 3), 0.5)).getpixel((0, 0)) == (128, 128, 128)
    assert read_rgb(Image.new("1", (2, 2), 1)).getpixel((0, 0)) == (255, 255, 255)
    for bad in (np.zeros((2, 2, 5), np.uint8), np.zeros((0, 2, 3), np.uint8), np.full((2, 2), 256), np.zeros(3)):
        with pytest.raises(ImageError):
            read_rgb(bad)
