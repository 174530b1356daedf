"""Exports read by the libraries they are for, and a round trip through every published layout."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.checkpoints.convert import convert
from llm2clip_search.encoders.checkpoints.layouts import read_checkpoint
from llm2clip_search.encoders.checkpoints.peft_lora import read_peft
from llm2clip_search.encoders.checkpoints.write import write_checkpoint
from llm2clip_search.encoders.export import Target, export_model
from llm2clip_search.encoders.images import to_pixels
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from tests.support.checkpoints import Tensors, eva01_tensors, eva02_tensors, save_openai, siglip2_tensors, vit_tensors
from tests.support.dual import save_dual
from tests.support.images import photograph
from tests.support.models import CAPTIONS

PICTURES = [photograph(1, (90, 60)), photograph(2, (50, 81)), photograph(3, (12, 15))]


STATE_DICTS: dict[str, Callable[[], Tensors]] = {
    "eva02": eva02_tensors,
    "siglip2": siglip2_tensors,
    "vit": vit_tensors,
    "eva01": eva01_tensors,
    "eva02 without rope": partial(eva02_tensors, rope=False),
    "siglip2 with a projection": partial(siglip2_tensors, projected=True),
}


def published(folder: Path, layout: str, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint as its authors publish it: a folder for OpenAI's towers, a pickled state dict for the others."""
    if layout == "openai":
        save_openai(folder / "published", dtype=dtype)
        return folder / "published"
    tensors = STATE_DICTS[layout]()
    torch.save({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "published.pt")
    return folder / "published.pt"


def converted(folder: Path, layout: str, llama: Path, dtype: torch.dtype = torch.float32) -> Model:
    convert(published(folder, layout, dtype), folder / "model", llm=f"dir:{llama}")
    return resolve(f"dir:{folder / 'model'}")


def differing(one: Tensors, other: Tensors) -> list[str]:
    """Names that only one has, or whose tensors differ in dtype, shape or any bit."""
    same = {
        name
        for name in one.keys() & other.keys()
        if one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name]
        .contiguous()
        .view(torch.uint8 if one[name].dim() else one[name].dtype)
        .equal(other[name].contiguous().view(torch.uint8 if one[name].dim() else one[name].dtype))
    }
    return sorted((one.keys() | other.keys()) - same)


@pytest.mark.parametrize("layout", ["openai", *STATE_DICTS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_round_trip_keeps_every_bit(tmp_path: Path, llama: Path, layout: str, dtype: torch.dtype) -> None:
    """Published, converted, exported: the same names and bits; converted again: the same model folder."""
    model = converted(tmp_path, layout, llama, dtype)
    done = export_model(model, tmp_path / "back", to="llm2clip")
    source = tmp_path / ("published" if layout == "openai" else "published.pt")
    before, after = (dict(read_checkpoint(path).tensors) for path in (source, tmp_path / "back"))
    assert differing(before, after) == []
    assert (
        f"layout {layout.partition(' ')[0].replace('eva01', 'eva02')}, {len(before)} tensors, for the LLM dir:"
        in done.embeds
    )
    convert(tmp_path / "back", tmp_path / "again", llm=f"dir:{llama}")
    assert resolve(f"dir:{tmp_path / 'again'}").config.vision == model.config.vision
    assert resolve(f"dir:{tmp_path / 'again'}").identity.fingerprint == model.identity.fingerprint


def test_a_checkpoint_of_the_training_repository_is_read_without_its_code(tmp_path: Path, llama: Path) -> None:
    """It is a plain mapping of tensors without a shared storage."""
    export_model(converted(tmp_path, "eva02", llama), tmp_path / "back", to="llm2clip")
    state = torch.load(tmp_path / "back" / "model.pt", weights_only=True)
    assert differing(state, eva02_tensors()) == []
    assert (tmp_path / "back" / "model.pt").stat().st_size < 2 * sum(tensor.nbytes for tensor in state.values())


def test_preprocessing_other_than_the_layouts_is_written(tmp_path: Path, llama: Path) -> None:
    """SigLIP's squash resize with a tower of the siglip2 layout, for which readers would otherwise crop."""
    from llm2clip_search.encoders.checkpoints.siglip2 import siglip_pixels

    convert(published(tmp_path, "siglip2"), tmp_path / "model", llm=f"dir:{llama}", pixels=siglip_pixels)
    model = resolve(f"dir:{tmp_path / 'model'}")
    export_model(model, tmp_path / "back", to="llm2clip")
    convert(tmp_path / "back", tmp_path / "again", llm=f"dir:{llama}")
    assert resolve(f"dir:{tmp_path / 'again'}").identity.fingerprint == model.identity.fingerprint


def test_low_rank_updates_survive_a_round_trip_through_pefts_format(tmp_path: Path, llama: Path) -> None:
    """Two ranks, so that the settings list an exception; ``up`` already includes the scale."""
    model = converted(tmp_path, "siglip2", llama)
    path = tmp_path / "model" / "model.safetensors"
    draw = torch.Generator().manual_seed(0)
    updates = {
        f"layers.{block}.self_attn.q_proj.{half}": torch.randn(*shape, generator=draw)
        for block, rank in ((0, 2), (1, 3))
        for half, shape in (("down", (rank, 32)), ("up", (32, rank)))
    }
    save_file(load_file(path) | {f"text.lora.{name}": tensor for name, tensor in updates.items()}, path)
    export_model(model, tmp_path / "back", to="llm2clip")
    assert differing(read_peft(tmp_path / "back" / "llm"), updates) == []
    convert(tmp_path / "back", tmp_path / "again", llm=f"dir:{llama}")
    one, other = (
        load_encoder(f"dir:{tmp_path / name}", runtime="torch", device="cpu").encode_texts(CAPTIONS)
        for name in ("model", "again")
    )
    np.testing.assert_array_equal(one, other)


@torch.inference_mode()
def embed(folder: Path, images: list[Image.Image]) -> np.ndarray:
    """Embed with nothing but classes and processors of transformers."""
    ensure_torchvision()
    import transformers

    tower, report = transformers.CLIPVisionModelWithProjection.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    values = transformers.CLIPImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
    embedded = tower.float()(pixel_values=values).image_embeds
    found: np.ndarray = torch.nn.functional.normalize(embedded, dim=-1).numpy()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_transformers_reads_a_converted_tower(tmp_path: Path, llama: Path, dtype: torch.dtype) -> None:
    """The same embeddings from image to vector, pixels included; the file holds the published bits."""
    model = converted(tmp_path, "openai", llama, dtype)
    done = export_model(model, tmp_path / "tower", to="transformers")
    assert set(done.files) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    expected = load_encoder(model.reference, runtime="torch", device="cpu").encode_images(PICTURES)
    np.testing.assert_allclose(embed(tmp_path / "tower", PICTURES), expected, atol=1e-5)
    source = {n: t for n, t in load_file(tmp_path / "published" / "model.safetensors").items() if n.startswith("vis")}
    assert differing(load_file(tmp_path / "tower" / "model.safetensors"), source) == []


@torch.inference_mode()
def test_a_multimodal_llm_can_take_the_tower(tmp_path: Path, llama: Path) -> None:
    """Models such as LLaVA read patch states of ``CLIPVisionModel``; the projection is not used."""
    model = converted(tmp_path, "openai", llama)
    export_model(model, tmp_path / "tower", to="transformers")
    import transformers

    tower, report = transformers.CLIPVisionModel.from_pretrained(tmp_path / "tower", output_loading_info=True)
    assert not report["missing_keys"]
    pixels = np.stack([to_pixels(image, model.config.vision.preprocess) for image in PICTURES])
    from llm2clip_search.encoders.towers import build_module

    ours: Any = build_module(model, "vision")
    normalised = ours.normalise(torch.from_numpy(pixels))
    expected = ours.backbone.model(pixel_values=normalised, output_hidden_states=True).hidden_states[-2]
    found = tower(pixel_values=normalised, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(found, expected)


def test_transformers_reads_the_tower_of_its_own_clip(tmp_path: Path) -> None:
    """A folder of the whole dual encoder is exported as one with only its vision tower."""
    save_dual(tmp_path / "clip", "clip")
    export_model(resolve(f"dir:{tmp_path / 'clip'}"), tmp_path / "tower", to="transformers")
    expected = load_encoder(f"dir:{tmp_path / 'clip'}", runtime="torch", device="cpu").encode_images(PICTURES)
    np.testing.assert_allclose(embed(tmp_path / "tower", PICTURES), expected, atol=1e-5)


@pytest.mark.parametrize(("layout", "tower"), [("eva02", "vision"), ("openai", "text")])
def test_onnx_runs_as_its_json_describes(tmp_path: Path, llama: Path, layout: str, tower: Any) -> None:
    """Only the two files are used, on another batch than the traced one."""
    import onnxruntime

    model = converted(tmp_path, layout, llama)
    done = export_model(model, tmp_path / "onnx", to="onnx", tower=tower)
    about = json.loads((tmp_path / "onnx" / f"{tower}.json").read_text())
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / f"{tower}.onnx", providers=["CPUExecutionProvider"])
    encoder = load_encoder(model.reference, runtime="torch", device="cpu")
    if tower == "vision":
        (name,) = about["inputs"]
        count, height, width, channels = about["inputs"][name]["shape"]
        assert (count, height, width, channels) == ("n", 48, 48, 3)
        pixels = np.random.default_rng(0).integers(0, 256, (5, height, width, 3), dtype=np.uint8)
        inputs, expected = {name: pixels}, encoder.encode_pixels(pixels)
    else:
        assert (tmp_path / "onnx" / "tokenizer.json").exists()
        inputs, expected = model.tokenizer()(CAPTIONS)._asdict(), encoder.encode_texts(CAPTIONS)
        assert list(about["inputs"]) == list(inputs)
        assert about["tokens"]["suffix"] == "<|eot_id|>"
    found = session.run([about["output"]["name"]], inputs)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape[1] == about["output"]["shape"][1]
    assert set(done.files) >= {f"{tower}.onnx", f"{tower}.json"}


@pytest.mark.parametrize(
    ("layout", "to", "message"),
    [
        ("eva02", "transformers", "eva02_base_patch16_clip_224 of timm, but .* only ViTs of OpenAI's"),
        ("siglip2", "transformers", "vit_so400m_patch14_siglip_224 of timm, but .* only ViTs of OpenAI's"),
    ],
)
def test_a_tower_of_another_architecture_is_refused(
    tmp_path: Path, llama: Path, layout: str, to: Target, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        export_model(converted(tmp_path, layout, llama), tmp_path / "out", to=to)
    assert not list(tmp_path.glob("*out*"))


def test_what_a_published_layout_cannot_hold_is_refused(tmp_path: Path, llama: Path, tiny_model: Path) -> None:
    """Another tower or text path, with which readers would silently compute other embeddings."""
    model, out = converted(tmp_path, "openai", llama), tmp_path / "out"
    text, vision = model.config.text, model.config.vision
    for config, message in (
        (replace(model.config, text=replace(text, instruction="")), "has instruction '', but"),
        (replace(model.config, text=replace(text, max_tokens=77)), "has max_tokens 77, but .* assume 512"),
        (replace(model.config, text=replace(text, attention="causal")), "has attention 'causal'"),
        (replace(model.config, vision=replace(vision, weights="hf:a/b")), r"published elsewhere \(hf:a/b\)"),
        (replace(model.config, vision=replace(vision, projection=False)), "a CLIP ViT of transformers without a proj"),
        (replace(model.config, querybank=0.5), "end in querybank normalisation, which no LLM2CLIP layout can hold"),
    ):
        with pytest.raises(ModelError, match=message):
            export_model(replace(model, config=config), out, to="llm2clip")
    with pytest.raises(ModelError, match="test_vit of timm, but the LLM2CLIP layouts hold"):
        export_model(resolve(f"dir:{tiny_model}"), out, to="llm2clip")
    with pytest.raises(ModelError, match=r"test_vit of timm, but .* only ViTs of OpenAI's"):
        export_model(resolve(f"dir:{tiny_model}"), out, to="transformers")
    with pytest.raises(ModelError, match="querybank normalisation, which transformers' CLIPVisionModel"):
        export_model(replace(model, config=replace(model.config, querybank=0.5)), out, to="transformers")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "vision.projection.bias": torch.ones(24)}, path)
    with pytest.raises(ModelError, match="has a bias, which CLIPVisionModelWithProjection cannot hold"):
        export_model(model, out, to="transformers")
    save_file({**tensors, "vision.projection.bias": torch.zeros(24)}, path)  # a zero bias has no effect and is left out
    export_model(model, tmp_path / "zero", to="transformers")
    del tensors["vision.backbone.model.post_layernorm.bias"]
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"missing 1 \(vision_model\.post_layernorm\.bias\)"):
        export_model(model, out, to="transformers")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("to", ["transformers", "onnx", "llm2clip"])
def test_a_truncated_file_leaves_nothing(tmp_path: Path, llama: Path, to: Target) -> None:
    model = converted(tmp_path, "openai", llama)
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        export_model(model, tmp_path / "out", to=to)
    assert not list(tmp_path.glob("*out*"))


def test_a_destination_that_exists_is_left_alone(tmp_path: Path, llama: Path) -> None:
    model = converted(tmp_path, "openai", llama)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(ModelError, match="out exists already"):
        export_model(model, tmp_path / "out", to="llm2clip")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("layout", "to"), [("openai", "transformers"), ("openai", "llm2clip"), ("eva02", "llm2clip"), ("openai", "onnx")]
)
def test_no_room_for_a_file_leaves_nothing(tmp_path: Path, llama: Path, layout: str, to: Target) -> None:
    """With a real limit on file sizes, in its own process: writing stops in the middle."""
    model = converted(tmp_path, layout, llama)
    if to == "onnx":
        export_model(model, tmp_path / "compiled", to="onnx")  # so that only the copy is left to do
    code = (
        "import resource, sys; from pathlib import Path;"
        "from llm2clip_search.encoders.registry import resolve;"
        "from llm2clip_search.encoders.export import export_model;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "export_model(resolve(sys.argv[1]), Path(sys.argv[2]), to=sys.argv[3])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, model.reference, str(tmp_path / "out"), to],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("llm2clip_search.errors.ModelError:"), done.stderr
    assert "out could not be written" in last
    assert "nothing of it is left" in last
    assert not list(tmp_path.glob("*out*"))


def test_a_full_disk_is_called_that(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = converted(tmp_path, "openai", llama)
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ModelError, match="out could not be written: the disk is full; nothing of it is left"):
        export_model(model, tmp_path / "out", to="transformers")
    assert not list(tmp_path.glob("*out*"))


def test_a_model_without_a_scale_gets_the_limit_of_training(tmp_path: Path, llama: Path) -> None:
    """Models trained here do not store it: search does not need it, but readers of the layout do."""
    model = converted(tmp_path, "openai", llama)
    path = tmp_path / "model" / "model.safetensors"
    save_file({name: t for name, t in load_file(path).items() if name != "logit_scale"}, path)
    write_checkpoint(model, tmp_path)
    assert float(load_file(tmp_path / "model.safetensors")["logit_scale"].exp()) == pytest.approx(100.0, rel=1e-4)
