"""Plain ViTs of the training repository compared with open_clip's tower, whose names they have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.checkpoints.convert import convert, convert_tensors
from llm2clip_search.encoders.checkpoints.layouts import PublishedCheckpoint
from llm2clip_search.encoders.checkpoints.plain_vit import (
    ARCHITECTURES,
    Activation,
    convert_plain_vit,
    plain_vit_to_checkpoint,
)
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from tests.support.checkpoints import DIM, LAYOUTS, MEAN, Tensors, noise, normalised, vit_tensors, without
from tests.support.commands import RunCli


@torch.inference_mode()
def reference(tensors: Tensors, pixels: np.ndarray, activation: Activation) -> np.ndarray:
    """open_clip's tower, loaded strictly under the published names."""
    ensure_torchvision()
    from open_clip.transformer import QuickGELU, VisionTransformer

    model: Any = VisionTransformer(
        image_size=24,
        patch_size=8,
        width=128,
        layers=2,
        heads=2,
        mlp_ratio=4.0,
        output_dim=DIM,
        act_layer=QuickGELU if activation == "quick_gelu" else nn.GELU,
    ).eval()
    visual = {name.removeprefix("visual."): t for name, t in tensors.items() if name.startswith("visual.")}
    model.load_state_dict(visual, strict=True)
    found: np.ndarray = F.normalize(model(normalised(pixels)), dim=-1).numpy()
    return found


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_images_equal_open_clip(
    tmp_path: Path, llama: Path, activation: Activation, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = vit_tensors()
    torch.save({"state_dict": tensors, "epoch": 1}, tmp_path / "epoch_1.pt")
    config = convert(tmp_path / "epoch_1.pt", tmp_path / "model", llm=f"dir:{llama}", activation=activation)
    assert (config.dim, config.vision.preprocess.height, config.vision.preprocess.mean) == (DIM, 24, MEAN)
    assert not caplog.messages
    pixels = noise(3, 24)
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_pixels(pixels)
    np.testing.assert_allclose(found, reference(tensors, pixels, activation), atol=1e-5)
    other: Activation = "gelu" if activation == "quick_gelu" else "quick_gelu"
    assert np.abs(found - reference(tensors, pixels, other)).max() > 1e-3


def test_the_command_notes_which_activation_was_taken(run_cli: RunCli, tmp_path: Path, llama: Path) -> None:
    """Unless it was chosen; where there is nothing to choose, the option is refused."""
    torch.save(vit_tensors(), tmp_path / "x.pt")
    done = run_cli("models", "convert", "x.pt", "one", "--llm", f"dir:{llama}")
    assert done.returncode == 0, done.stderr
    assert "quick_gelu was taken" in " ".join(done.stderr.split())
    found = load_encoder(f"dir:{tmp_path / 'one'}", runtime="torch", device="cpu").encode_pixels(noise(2, 24))
    np.testing.assert_allclose(found, reference(vit_tensors(), noise(2, 24), "quick_gelu"), atol=1e-5)
    done = run_cli("models", "convert", "x.pt", "two", "--llm", f"dir:{llama}", "--activation", "gelu")
    assert (done.returncode, done.stderr) == (0, "")
    for layout in ("eva02", "siglip2"):
        torch.save(LAYOUTS[layout](), tmp_path / "y.pt")
        done = run_cli("models", "convert", "y.pt", "three", "--llm", f"dir:{llama}", "--activation", "gelu")
        assert done.returncode == 1
        assert f"a vision tower of layout {layout} has none to choose" in " ".join(done.stderr.split())
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize(
    ("width", "blocks", "patch", "side", "name"),
    [
        (768, 12, 16, 224, "vit_base_patch16_clip{}_224"),
        (1024, 24, 14, 224, "vit_large_patch14_clip{}_224"),
        (1024, 24, 14, 336, "vit_large_patch14_clip{}_336"),
    ],
)
def test_the_repositorys_configurations_are_timms_architectures(
    width: int, blocks: int, patch: int, side: int, name: str, activation: Activation
) -> None:
    """OpenaiCLIP-B-16, L-14 and L-14-336 at full size, without memory."""
    ensure_torchvision()
    from open_clip.transformer import VisionTransformer

    with torch.device("meta"):
        model = VisionTransformer(
            image_size=side,
            patch_size=patch,
            width=width,
            layers=blocks,
            heads=width // 64,
            mlp_ratio=4.0,
            output_dim=1280,
        )
    found = convert_plain_vit({f"visual.{n}": t for n, t in model.state_dict().items()}, activation)
    assert found.config.architecture == name.format("_quickgelu" if activation == "quick_gelu" else "")
    assert found.config.architecture in ARCHITECTURES[activation].values()
    assert (found.config.options, found.dim, found.config.preprocess.height) == ({}, 1280, side)


def test_a_projection_with_a_bias_is_not_written() -> None:
    found = convert_plain_vit(vit_tensors(), "gelu")
    with pytest.raises(ModelError, match="projection has a bias"):
        plain_vit_to_checkpoint(dict(found.tensors) | {"projection.bias": torch.zeros(DIM)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.proj": None}, "lacks proj"),
        ({"visual.proj": torch.zeros(64, DIM)}, "visual.proj has 64 input dimensions, but the tower has 128"),
        ({"visual.ln_pre.bias": None}, r"missing 1 \(norm_pre\.bias\)"),
        ({"visual.transformer.resblocks.1.ls_1.gamma": torch.ones(128)}, r"unexpected 1 \(blocks\.1\.ls_1\.gamma\)"),
        ({"visual.attnpool.probe": torch.ones(1)}, r"unexpected 1 \(attnpool\.probe\)"),
        ({"visual.positional_embedding": torch.zeros(9, 128)}, "8 patch positions, which do not make a square grid"),
    ],
)
def test_towers_that_do_not_fit_are_refused(change: dict[str, torch.Tensor | None], message: str) -> None:
    tensors = without(vit_tensors(), *change) | {name: t for name, t in change.items() if t is not None}
    with pytest.raises(ModelError, match=message):
        convert_tensors(PublishedCheckpoint(tensors=tensors, config={}))
