"""Averages of models: their values, and the models that have none."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.average import average_models
from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.errors import ModelError
from tests.support.images import photograph
from tests.support.models import CAPTIONS, add_querybank, save_model


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three models from the same initial weights, with querybanks of the same images and captions, and one LLM."""
    first = save_model(tmp_path / "a")
    torch.manual_seed(1)
    add_querybank(first, strength=0.5)
    folders = [first]
    for number, name in enumerate("bc"):
        folders.append(_changed(first, tmp_path / name, partial(_shaken, seed=number)))
        config = json.loads((first / "config.json").read_text())
        config["text"]["weights"] = f"dir:{first / 'llm'}"
        config |= {"licence": f"licence {name}", "training_data": ["Flickr8k", name]}
        (folders[-1] / "config.json").write_text(json.dumps(config))
    return folders


def _changed(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    config = json.loads((source / "config.json").read_text())
    config["text"]["weights"] = f"dir:{(source / 'llm').resolve()}"
    (folder / "config.json").write_text(json.dumps(config))
    save_file(change(load_file(source / "model.safetensors")), folder / "model.safetensors")
    return folder


def _shaken(tensors: dict[str, torch.Tensor], *, seed: int) -> dict[str, torch.Tensor]:
    """What another run could have ended with: every value moved a little, and banks still of unit vectors."""
    draws = torch.Generator().manual_seed(seed)
    out = {}
    for name, tensor in tensors.items():
        moved = tensor.float() * (1.0 + 0.1 * torch.randn(tensor.shape, generator=draws))
        moved = torch.nn.functional.normalize(moved, dim=1) if name.endswith(".bank") else moved
        out[name] = moved.to(tensor.dtype)
    return out


def _average(folders: list[Path], out: Path) -> dict[str, torch.Tensor]:
    average_models([resolve(f"dir:{folder}") for folder in folders], out)
    return load_file(out / "model.safetensors")


def test_weights_are_averaged_and_the_querybank_is_fitted_again(runs: list[Path], tmp_path: Path) -> None:
    found = _average(runs, tmp_path / "out")
    parts = [load_file(folder / "model.safetensors") for folder in runs]
    assert found.keys() == parts[0].keys()
    for name, tensor in found.items():
        if ".querybank." not in name:
            expected = np.mean([part[name].numpy().astype(np.float64) for part in parts], axis=0)
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-5, atol=1e-7)
            assert tensor.dtype == parts[0][name].dtype
    scale = np.exp(np.mean([np.log(float(part["vision.querybank.scale"])) for part in parts]))
    for tower, other in (("vision", "text"), ("text", "vision")):
        bank = np.mean([part[f"{tower}.querybank.bank"].float().numpy() for part in parts], axis=0)
        bank /= np.linalg.norm(bank, axis=1, keepdims=True)
        np.testing.assert_allclose(found[f"{tower}.querybank.bank"].float().numpy(), bank, atol=1e-3)
        np.testing.assert_allclose(float(found[f"{tower}.querybank.scale"]), scale, rtol=1e-6)
        own = found[f"{other}.querybank.bank"].float().numpy()
        hubs = np.log(np.exp(scale * own @ bank.T).mean(axis=1)) / scale
        np.testing.assert_allclose(float(found[f"{tower}.querybank.offset"]), hubs.mean(), atol=1e-3)


def test_the_average_of_equal_models_embeds_as_they_do(runs: list[Path], tmp_path: Path) -> None:
    average_models([resolve(f"dir:{runs[0]}")] * 3, tmp_path / "out")
    one, average = (load_encoder(f"dir:{f}", runtime="torch", device="cpu") for f in (runs[0], tmp_path / "out"))
    images = [photograph(number) for number in range(3)]
    np.testing.assert_allclose(average.encode_images(images), one.encode_images(images), atol=1e-3)
    np.testing.assert_allclose(average.encode_texts(CAPTIONS), one.encode_texts(CAPTIONS), atol=1e-3)


def test_its_configuration_and_card_name_everything_that_went_in(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "NOTICE").write_text("terms")
    (runs[2] / "LICENSE.txt").write_text("other terms")
    config = average_models([resolve(f"dir:{folder}") for folder in runs], tmp_path / "out", name="soup")
    assert config == ModelConfig.read(tmp_path / "out" / "config.json")
    assert (config.name, config.calibration) == ("soup", None)
    assert config.licence == "unknown; licence b; licence c"
    assert config.training_data == ("Flickr8k", "b", "c")
    assert (tmp_path / "out" / "NOTICE").read_text() == "terms"
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "other terms"
    card = (tmp_path / "out" / "README.md").read_text()
    for folder in runs:
        assert f"| dir:{folder} | {resolve(f'dir:{folder}').identity.fingerprint} |" in card


def _drawn_apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(9)
    name = "vision.projection.weight"
    return tensors | {name: torch.randn(tensors[name].shape, generator=draws)}


def _other_bank(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"text.querybank.bank": tensors["text.querybank.bank"].flip(0)}


def _larger_bank(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"text.querybank.bank": tensors["text.querybank.bank"].repeat(2, 1)}


def _other_llm(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"text.lora.layers.0.mlp.up_proj.down": torch.ones(1, 32)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drawn_apart, "were trained apart: the cosine of their values of vision.projection.weight is"),
        (_other_bank, "have querybanks of different images: the cosine of their values of text.querybank.bank is"),
        (_larger_bank, r"Tensor text.querybank.bank of .* is \[6, 16\] and \[12, 16\]"),
        (_other_llm, "Tensor text.lora.layers.0.mlp.up_proj.down of .* is missing"),
    ],
)
def test_models_that_do_not_go_together_are_refused(
    runs: list[Path],
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    said: str,
) -> None:
    other = _changed(runs[0], tmp_path / "other", change)
    with pytest.raises(ModelError, match=said):
        _average([runs[0], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_low_rank_updates_have_to_be_equal(runs: list[Path], tmp_path: Path) -> None:
    update = "text.lora.layers.0.mlp.up_proj"

    def updated(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        return lambda tensors: (
            tensors | {f"{update}.down": torch.ones(1, 32), f"{update}.up": torch.full((64, 1), value)}
        )

    folders = [
        _changed(runs[0], tmp_path / name, updated(value)) for name, value in (("x", 1.0), ("y", 1.0), ("z", 2.0))
    ]
    found = _average(folders[:2], tmp_path / "out")
    assert torch.equal(found[f"{update}.up"], torch.ones(64, 1))
    with pytest.raises(ModelError, match=rf"different LLMs \(tensor {update}.up\)"):
        _average(folders, tmp_path / "out2")


def test_other_configurations_and_single_models_are_refused(runs: list[Path], tmp_path: Path) -> None:
    config = json.loads((runs[1] / "config.json").read_text())
    config["vision"]["preprocess"]["resize"] = "squash"
    (runs[1] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"differ in vision\.preprocess\.resize: "):
        _average(runs, tmp_path / "out")
    with pytest.raises(ModelError, match="two or more models, not of 1"):
        _average(runs[:1], tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        _average(runs[:1] * 2, tmp_path / "there")
