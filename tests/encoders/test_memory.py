"""Weights without a second copy, half precision on a GPU, and towers on the device where they fit."""

import importlib.metadata
import importlib.util
import json
import logging
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llm2clip_search.encoders import llm, load_encoder, placement, tower_encoder, towers
from llm2clip_search.encoders import model as model_module
from llm2clip_search.encoders.loading import without_memory
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.placement import (
    Placement,
    Quantize,
    TowerName,
    choose_device,
    default_precision,
    place_tower,
    tower_parameters,
)
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.towers import Tower, build_module, load_tower
from llm2clip_search.encoders.weights import mapped_tensors
from llm2clip_search.errors import ModelError
from llm2clip_search.indexers import index_folder
from tests.support.images import photograph
from tests.support.models import CAPTIONS, save_model

PICTURES = [photograph(1, (90, 60)), photograph(2, (50, 80))]


def places(tensors: Iterable[torch.Tensor]) -> set[int]:
    return {tensor.data_ptr() for tensor in tensors}


def test_parameters_lie_in_the_mapped_file(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters of a float32 file have the addresses of its mapped tensors: nothing was copied."""
    mapped: list[dict[str, torch.Tensor]] = []

    def remember(path: Path, **options: Any) -> dict[str, torch.Tensor]:
        mapped.append(mapped_tensors(path, **options))
        return mapped[-1]

    for module in (model_module, llm):
        monkeypatch.setattr(module, "mapped_tensors", remember)
    for tower in ("vision", "text"):
        parameters = places(build_module(resolve(f"dir:{tiny_model}"), tower).parameters())
        assert parameters == places(tensor for tensors in mapped for tensor in tensors.values())
        mapped.clear()


def test_float16_on_disk_gives_the_vectors_of_the_same_values_in_float32(tmp_path: Path) -> None:
    """In every file: the tower computes in float32, with values that were rounded once."""
    halves, whole = save_model(tmp_path / "halves"), save_model(tmp_path / "whole")
    for name in ("model.safetensors", "llm/model.safetensors"):
        rounded = {key: tensor.half() for key, tensor in load_file(halves / name).items()}
        save_file(rounded, halves / name)
        save_file({key: tensor.float() for key, tensor in rounded.items()}, whole / name)
    one, other = (load_encoder(f"dir:{folder}", runtime="torch", device="cpu") for folder in (halves, whole))
    np.testing.assert_array_equal(one.encode_images(PICTURES), other.encode_images(PICTURES))
    np.testing.assert_array_equal(one.encode_texts(CAPTIONS), other.encode_texts(CAPTIONS))


def test_a_module_without_memory_has_its_computed_tables() -> None:
    """Rotary tables are computed. A tower whose masks need values, such as Swin's, is built as usual. Modules that
    another thread builds meanwhile are not affected."""
    ensure_torchvision()
    import timm

    eva = without_memory(lambda: timm.create_model("eva02_tiny_patch14_224", pretrained=False, num_classes=0))
    assert all(parameter.is_meta for parameter in eva.parameters())
    real: Any = timm.create_model("eva02_tiny_patch14_224", pretrained=False, num_classes=0)
    buffers = dict(eva.named_buffers())
    assert buffers
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in real.named_buffers())
    swin = without_memory(lambda: timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=0))
    assert not any(tensor.is_meta for tensor in (*swin.parameters(), *swin.buffers()))
    made: list[torch.nn.Module] = []

    def build() -> torch.nn.Module:
        other = threading.Thread(target=lambda: made.append(torch.nn.Linear(2, 2)))
        other.start()
        other.join()
        return torch.nn.Linear(2, 2)

    assert all(parameter.is_meta for parameter in without_memory(build).parameters())
    assert not any(parameter.is_meta for parameter in made[0].parameters())
    assert not torch.nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close_and_keeps_the_adaptor_in_float32(tiny_model: Path, precision: Any) -> None:
    """The precision of a GPU, on the CPU: backbone and LLM are in half precision, normalisation and adaptor are not."""
    model, whole = resolve(f"dir:{tiny_model}"), load_encoder(f"dir:{tiny_model}", runtime="torch", device="cpu")
    place = Placement(precision=precision)
    vision, text = (build_module(model, name, place) for name in ("vision", "text"))
    assert {p.dtype for p in vision.parameters()} == {place.dtype}
    assert {b.dtype for b in vision.buffers()} == {torch.float32}
    assert {p.dtype for p in text.states.model.parameters()} == {place.dtype}  # type: ignore[union-attr]
    assert {p.dtype for p in text.adaptor.parameters()} == {torch.float32}  # type: ignore[union-attr]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 160, 160, 3), dtype=np.uint8)
    tokens = [torch.from_numpy(array) for array in model.tokenizer()(CAPTIONS)]
    with torch.inference_mode():
        images, captions = vision(torch.from_numpy(pixels)), text(*tokens)
    assert images.dtype == captions.dtype == torch.float32
    assert (images.numpy() * whole.encode_pixels(pixels)).sum(axis=1).min() > 0.999
    assert (captions.numpy() * whole.encode_texts(CAPTIONS)).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_the_parameter_count_of_a_tower_is_read_from_headers(tiny_model: Path, tower: TowerName) -> None:
    module = build_module(resolve(f"dir:{tiny_model}"), tower)
    assert tower_parameters(resolve(f"dir:{tiny_model}"), tower) == sum(p.numel() for p in module.parameters())
    assert tower_parameters(resolve("nano"), "vision") > 5e6  # type: ignore[operator]  # EfficientNet-Lite2: 6.1 million


B = 10**9


@pytest.mark.parametrize(
    ("parameters", "free", "quantize", "device"),
    [
        (8 * B, 24 * B, "none", "cuda"),  # 16 GB in half precision, and a fifth more: 19.2
        (8 * B, 19 * B, "none", "cpu"),
        (8 * B, 10 * B, "8bit", "cuda"),
        (8 * B, 9 * B, "8bit", "cpu"),
        (8 * B, 5 * B, "4bit", "cuda"),
        (8 * B, 4 * B, "4bit", "cpu"),
        (None, 1, "none", "cuda"),
    ],
)
def test_a_tower_goes_where_it_fits(parameters: int | None, free: int, quantize: Quantize, device: str) -> None:
    assert choose_device(parameters=parameters, free=free, quantize=quantize) == device


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A GPU as torch reports it: ``free`` bytes, and whether it has ``bf16``."""
    told = {"free": 24 * B, "bf16": True}
    monkeypatch.setattr(placement, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (told["free"], 24 * B))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: told["bf16"])
    return told  # type: ignore[return-value]


def test_the_llm_stays_on_the_cpu_where_only_the_vision_tower_fits(
    tiny_model: Path, card: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"vision": 300_000_000, "text": 8 * B}
    monkeypatch.setattr(placement, "tower_parameters", lambda model, name: sizes[name])
    model, card["free"] = resolve(f"dir:{tiny_model}"), 12 * B
    assert place_tower(model, "vision") == Placement(device="cuda", precision="bfloat16")
    assert caplog.messages == []
    assert place_tower(model, "text") == Placement(device="cpu", precision="float32")
    assert "its 8.0 billion parameters do not fit in the 12.0 GB" in caplog.text
    assert place_tower(model, "text", device="cuda").device == "cuda"
    card |= {"free": 24 * B, "bf16": False}
    assert place_tower(model, "text") == Placement(device="cuda", precision="float16")
    assert place_tower(model, "text", device="cpu") == Placement()
    assert (default_precision("cuda:1"), default_precision("mps"), default_precision("cpu")) == (
        "float16",
        "float16",
        "float32",
    )


def test_a_large_tower_is_not_compiled_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An export of 8 billion parameters for one query would fill memory and disk."""
    model = resolve(f"dir:{save_model(tmp_path / 'model', seed=7)}")
    monkeypatch.setattr(towers, "COMPILED_LIMIT", tower_parameters(model, "text"))
    caplog.set_level(logging.INFO, logger="llm2clip_search")
    load_tower(model, "vision", runtime="auto", device="cpu")
    assert "Compiling" not in caplog.text
    load_tower(model, "text", runtime="auto", device="cpu")
    assert "Compiling the text tower" in caplog.text
    load_tower(model, "vision", runtime="onnx", device="cpu")
    assert "Compiling the vision tower" in caplog.text


def test_quantising_needs_a_package(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is named. Images need neither it nor the LLM. ONNX and CLIP text towers cannot be quantised."""
    monkeypatch.setattr(placement, "QUANTIZERS", ("no_such_quantizer",))
    encoder = load_encoder(f"dir:{tiny_model}", runtime="torch", device="cpu", quantize="4bit")
    with pytest.raises(ModelError, match="Quantisation to 4bit needs bitsandbytes or torchao") as caught:
        encoder.encode_texts(["a"])
    assert "pip install bitsandbytes" in caught.value.hint
    assert encoder.encode_images(PICTURES).shape == (2, 16)
    monkeypatch.setattr(placement, "QUANTIZERS", ("json",))
    with pytest.raises(ModelError, match="Runtime 'onnx' cannot run an LLM quantised to 8bit"):
        load_encoder(f"dir:{tiny_model}", runtime="onnx", device="cpu", quantize="8bit").encode_texts(["a"])
    model = resolve(f"dir:{tiny_model}")
    classic = replace(model.config, text=replace(model.config.text, library="open_clip"))
    with pytest.raises(ModelError, match="Only an LLM can be quantised to 8bit"):
        load_tower(Model("x", classic, None), "text", runtime="torch", device="cpu", quantize="8bit")


@pytest.mark.parametrize(
    ("quantize", "wanted"), [("8bit", {"load_in_8bit": True}), ("4bit", {"load_in_4bit": True, "quant": "nf4"})]
)
def test_transformers_gets_a_quantisation_config(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, quantize: Quantize, wanted: dict[str, Any]
) -> None:
    """With a stub for bitsandbytes: transformers gets the configuration, and the device to load layers to."""
    ensure_torchvision()
    import transformers

    real, told = transformers.AutoModel.from_pretrained, {}
    version = importlib.metadata.version

    def stub(path: Path, **options: Any) -> Any:
        told.update(options)
        return real(path, dtype=options["dtype"], local_files_only=True)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "bitsandbytes" or None)
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "0.49.0" if n == "bitsandbytes" else version(n))
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", stub)
    model = resolve(f"dir:{tiny_model}")
    build_module(model, "text", Placement(precision="bfloat16", quantize=quantize))
    config = told["quantization_config"].to_dict()
    found = {key: config[key] for key in wanted if key in config} | {"quant": config["bnb_4bit_quant_type"]}
    assert {key: found[key] for key in wanted} == wanted
    assert told["device_map"] == {"": "cpu"}
    assert told["dtype"] == torch.bfloat16


def test_updates_cannot_be_merged_into_quantised_layers(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    layer = "text.lora.layers.0.self_attn.q_proj"
    save_file(
        {**tensors, f"{layer}.down": torch.ones(2, 32), f"{layer}.up": torch.ones(32, 2)}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match="cannot be merged into layers quantised to 8bit"):
        build_module(resolve(f"dir:{folder}"), "text", Placement(quantize="8bit"))


def test_images_are_indexed_without_the_text_tower(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LLM is pinned by commit and not on this machine: it is neither loaded nor fetched."""
    folder = save_model(tmp_path / "model")
    shutil.rmtree(folder / "llm")
    config = json.loads((folder / "config.json").read_text())
    config["text"]["weights"] = f"hf:nobody/an-8b-llm@{'5' * 40}"
    (folder / "config.json").write_text(json.dumps(config))
    loaded: list[str] = []

    def load(model: Model, name: TowerName, **options: Any) -> Tower:
        loaded.append(name)
        return load_tower(model, name, **options)

    monkeypatch.setattr(tower_encoder, "load_tower", load)
    encoder = load_encoder(f"dir:{folder}", runtime="torch", device="cpu")
    result = index_folder(photographs, encoder=encoder, index=tmp_path / "index")
    assert result.indexed == 12
    assert loaded == ["vision"]
    with pytest.raises(ModelError, match="hf:nobody/an-8b-llm"):
        encoder.encode_texts(["a"])


def test_an_llm_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    """transformers would initialise it randomly."""
    folder = save_model(tmp_path / "model")
    path = folder / "llm" / "model.safetensors"
    tensors = load_file(path)
    headed = {f"model.{name}": tensor for name, tensor in tensors.items()} | {"lm_head.weight": torch.zeros(320, 32)}
    encoder = load_encoder(f"dir:{folder}", runtime="torch", device="cpu")
    expected = encoder.encode_texts(CAPTIONS)
    save_file(headed, path)
    again = load_encoder(f"dir:{folder}", runtime="torch", device="cpu").encode_texts(CAPTIONS)
    np.testing.assert_array_equal(again, expected)
    save_file({name: t for name, t in tensors.items() if name != "layers.1.mlp.up_proj.weight"}, path)
    with pytest.raises(ModelError, match=r"LLM dir:llm do not fit: missing \['layers\.1\.mlp\.up_proj\.weight'\]"):
        load_encoder(f"dir:{folder}", runtime="torch", device="cpu").encode_texts(["a"])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_encoder(f"dir:{folder}", runtime="torch", device="cpu").encode_texts(["a"])
    own = folder / "model.safetensors"
    own.write_bytes(own.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model\.safetensors is not a readable safetensors file: its header claims"):
        tower_parameters(resolve(f"dir:{folder}"), "vision")


def test_several_files_are_one_llm(tmp_path: Path) -> None:
    """The files that the index names; others in the folder, such as Mistral's second format, are ignored."""
    folder = save_model(tmp_path / "model")
    expected = load_encoder(f"dir:{folder}", runtime="torch", device="cpu").encode_texts(CAPTIONS)
    path = folder / "llm" / "model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    files = {"a-1.safetensors": names[:5], "a-2.safetensors": names[5:]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, path.parent / file)
    save_file({"other": torch.zeros(1)}, path.parent / "consolidated.safetensors")
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    path.unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor an index"):
        load_encoder(f"dir:{folder}", runtime="torch", device="cpu").encode_texts(["a"])
    (path.parent / "model.safetensors.index.json").write_text(json.dumps(index))
    found = load_encoder(f"dir:{folder}", runtime="torch", device="cpu").encode_texts(CAPTIONS)
    np.testing.assert_array_equal(found, expected)
