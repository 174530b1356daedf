"""What a caption-tuned LLM has in addition to its base weights: low-rank updates and statistics of its states."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.config import AdaptorConfig, TextConfig
from llm2clip_search.encoders.llm import CaptionLLM, load_llm
from llm2clip_search.encoders.lora import merge_lora
from llm2clip_search.encoders.tokenization import LLMTokenizer
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from llm2clip_search.training.tasks.lora import LoraRecipe, add_lora, lora_tensors, merged_lora
from tests.support.models import CAPTIONS, save_llm, save_model

RECIPE = LoraRecipe(rank=3, alpha=12, targets=("q_proj", "o_proj", "down_proj"))


def updated(folder: Path) -> torch.nn.Module:
    """The tiny Llama with non-zero updates, as after training."""
    model: torch.nn.Module = load_llm(f"dir:{folder}")
    add_lora(model, RECIPE, seed=1)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@torch.no_grad()
def test_merged_weights_equal_those_of_peft(tmp_path: Path) -> None:
    """Both ways to merge, compared with ``merge`` of PEFT's layers; half precision costs three digits."""
    ensure_torchvision()
    from peft.tuners.lora import LoraLayer

    save_llm(tmp_path)
    model = updated(tmp_path)
    tensors, by_training = lora_tensors(model), merged_lora(model)
    layers: dict[str, Any] = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    exact: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        exact[f"{name}.down"] = layer.lora_A["default"].weight.clone()
        exact[f"{name}.up"] = layer.lora_B["default"].weight * (RECIPE.alpha / RECIPE.rank)
        layer.merge()
    assert len(layers) == 6
    assert tensors.keys() == exact.keys()
    assert by_training.keys() == {f"{name}.weight" for name in layers}
    base = load_llm(f"dir:{tmp_path}").state_dict()
    for source, tolerance in ((exact, 1e-6), (tensors, 2e-3)):
        found = load_llm(f"dir:{tmp_path}")
        merge_lora(found, source)
        for name, weight in found.state_dict().items():
            layer = layers.get(name.removesuffix(".weight"))
            expected = layer.base_layer.weight if layer else base[name]
            torch.testing.assert_close(weight, expected, atol=tolerance, rtol=0)
            if layer:
                assert (weight - base[name]).abs().max() > 0.05
                torch.testing.assert_close(by_training[name], expected, atol=1e-6, rtol=0)


DOWN, UP = torch.zeros(2, 32), torch.zeros(32, 2)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"layers.7.mlp.up_proj.down": DOWN}, r"update of layers\.7\.mlp\.up_proj, which the LLM does not have"),
        ({"layers.0.self_attn.q_proj.down": DOWN}, r"update of layers\.0\.self_attn\.q_proj lacks its up tensor"),
        ({"layers.0.self_attn.q_proj.up": UP}, "lacks its down tensor"),
        (
            {"layers.0.self_attn.q_proj.down": DOWN[:, :31], "layers.0.self_attn.q_proj.up": UP},
            r"is \[32, 2\] times \[2, 31\], but its weight is \[32, 32\]",
        ),
        (
            {"layers.0.self_attn.q_proj.down": DOWN[:1], "layers.0.self_attn.q_proj.up": UP},
            r"is \[32, 2\] times \[1, 32\], but",
        ),
        (
            {f"layers.0.self_attn.q_proj.{part}": t for part, t in (("down", DOWN), ("up", UP), ("bias", UP))},
            r"Unexpected tensors among the low-rank updates: \['layers\.0\.self_attn\.q_proj\.bias'\]",
        ),
    ],
)
def test_updates_that_do_not_fit_are_named(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    save_llm(tmp_path)
    with pytest.raises(ModelError, match=message):
        merge_lora(load_llm(f"dir:{tmp_path}"), tensors)


def tuned_model(folder: Path) -> dict[str, torch.Tensor]:
    """The tiny model with updates and statistics; returns its tensors."""
    save_model(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors |= {f"text.lora.{name}": tensor for name, tensor in lora_tensors(updated(folder / "llm")).items()}
    tensors |= {"text.states.mean": torch.randn(32), "text.states.std": torch.rand(32) + 0.5}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["text"]["standardised"] = True
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


@torch.inference_mode()
def test_states_are_standardised_by_the_folders_statistics(tmp_path: Path) -> None:
    """A model folder compared with its parts combined by hand, with the statistics applied in numpy."""
    tensors = tuned_model(tmp_path / "model")
    config = TextConfig(library="llm", weights=None, max_tokens=24)
    llm = CaptionLLM(load_llm(f"dir:{tmp_path / 'model' / 'llm'}"), config)
    with torch.no_grad():
        merge_lora(llm.model, {n.removeprefix("text.lora."): t for n, t in tensors.items() if ".lora." in n})
    states = llm(*map(torch.from_numpy, LLMTokenizer(tmp_path / "model", config)(CAPTIONS))).numpy()
    states = (states - tensors["text.states.mean"].numpy()) / tensors["text.states.std"].numpy()
    adaptor = Adaptor(32, 16, AdaptorConfig(blocks=1))
    adaptor.load_state_dict({n.removeprefix("text.adaptor."): t for n, t in tensors.items() if "adaptor" in n})
    mapped = adaptor(torch.from_numpy(states)).numpy()
    expected = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
    reference = f"dir:{tmp_path / 'model'}"
    found = load_encoder(reference, runtime="torch", device="cpu").encode_texts(CAPTIONS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    onnx = load_encoder(reference, runtime="onnx", device="cpu").encode_texts(CAPTIONS)
    np.testing.assert_allclose(onnx, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text.states.mean": None}, r"Tensor text\.states\.mean is missing, but shape \[32\] is needed"),
        ({"text.states.std": torch.ones(31)}, r"Tensor text\.states\.std is \[31\], but shape \[32\] is needed"),
    ],
)
def test_statistics_that_do_not_fit_are_named(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors: dict[str, torch.Tensor | None] = {**tuned_model(tmp_path / "model"), **change}
    save_file({n: t for n, t in tensors.items() if t is not None}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_texts(["a"])
