"""EVA01 towers and EVA02's bigE compared with plain torch: fused projections, a GELU MLP, post-norm in bigE."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.checkpoints.convert import convert
from llm2clip_search.encoders.checkpoints.eva02 import convert_eva02, eva02_to_checkpoint
from llm2clip_search.encoders.checkpoints.layouts import openai_pixels
from llm2clip_search.encoders.config import VisionConfig
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.vision import build_vision_tower
from llm2clip_search.errors import ModelError
from tests.support.checkpoints import DIM, Tensors, eva01_tensors, noise, normalised


@torch.inference_mode()
def plain_eva01(tensors: Tensors, images: torch.Tensor, *, post_norm: bool = False) -> torch.Tensor:
    """Fang et al., arXiv 2211.07636: a ViT whose keys have no bias; with ``post_norm``, a LayerNorm after each part."""
    get = {name.removeprefix("visual."): tensor for name, tensor in tensors.items()}

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], get[f"{name}.weight"], get[f"{name}.bias"], eps=1e-6)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, get[f"{name}.weight"], get[f"{name}.bias"])

    def attention(at: str, x: torch.Tensor) -> torch.Tensor:
        weights = get[f"{at}.qkv.weight"].chunk(3)
        biases = get[f"{at}.q_bias"], None, get[f"{at}.v_bias"]
        parts = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        q, k, v = (part.reshape(*x.shape[:2], 2, 64).transpose(1, 2) for part in parts)
        mixed = torch.softmax(q @ k.mT / 8, dim=-1) @ v
        return linear(f"{at}.proj", mixed.transpose(1, 2).flatten(2))

    def mlp(at: str, x: torch.Tensor) -> torch.Tensor:
        return linear(f"{at}.fc2", F.gelu(linear(f"{at}.fc1", x)))

    x = F.conv2d(images, get["patch_embed.proj.weight"], get["patch_embed.proj.bias"], stride=16).flatten(2).mT
    x = torch.cat([get["cls_token"].expand(len(x), -1, -1), x], dim=1) + get["pos_embed"]
    for block in range(2):
        at = f"blocks.{block}"
        for number, (part, name) in enumerate(((attention, "attn"), (mlp, "mlp")), start=1):
            scale = get.get(f"{at}.gamma_{number}", torch.tensor(1.0))
            ln = f"{at}.norm{number}"
            branch = norm(ln, part(f"{at}.{name}", x)) if post_norm else part(f"{at}.{name}", norm(ln, x))
            x = x + scale * branch
    return F.normalize(linear("head", norm("norm", x)[:, 0]), dim=-1)


@pytest.mark.parametrize("scaled", [False, True])
def test_images_equal_plain_torch_and_names_convert_back(
    tmp_path: Path, llama: Path, scaled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Both with and without scaled blocks (``ls_init_value``, EVA01-B's)."""
    tensors = eva01_tensors(scaled=scaled)
    torch.save(tensors, tmp_path / "published.pt")
    config = convert(tmp_path / "published.pt", tmp_path / "model", llm=f"dir:{llama}")
    assert config.dim == DIM
    (note,) = caplog.messages
    assert "are read as EVA01's, before attention" in note
    pixels = noise(3, 48)
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_pixels(pixels)
    np.testing.assert_allclose(found, plain_eva01(tensors, normalised(pixels)).numpy(), atol=1e-5)
    model = resolve(f"dir:{tmp_path / 'model'}")
    back = eva02_to_checkpoint(model.tensors("vision"), model.config.vision)
    vision = {name: tensor for name, tensor in tensors.items() if name.startswith("visual.")}
    assert back.keys() == vision.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in vision.items())


@torch.inference_mode()
def test_big_es_architecture_computes_its_norms_after_attention_and_mlp() -> None:
    """timm's architecture that is chosen for bigE, at a size that fits a test."""
    tensors = eva01_tensors()
    sizes = {"img_size": 48, "patch_size": 16, "embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 500.5 / 128}
    config = VisionConfig(
        library="timm",
        architecture="eva02_enormous_patch14_clip_224",
        weights=None,
        projection=True,
        options=sizes,
        preprocess=openai_pixels(48),
    )
    vision = {name.removeprefix("visual."): t for name, t in tensors.items() if name.startswith("visual.")}
    ours = {f"projection.{n[5:]}" if n.startswith("head.") else f"backbone.{n}": t for n, t in vision.items()}
    tower = build_vision_tower(config, dim=DIM, folder=None, tensors=ours)
    pixels = noise(3, 48)
    expected = plain_eva01(tensors, normalised(pixels), post_norm=True)
    np.testing.assert_allclose(tower(torch.from_numpy(pixels)).numpy(), expected.numpy(), atol=1e-5)
    assert (plain_eva01(tensors, normalised(pixels)) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("eva_giant_patch14_clip_224", {}),
        ("eva02_enormous_patch14_clip_224", {}),
        ("eva02_enormous_patch14_clip_224", {"img_size": 336}),
    ],
)
def test_sizes_of_the_repositorys_configurations_are_timms_architectures(
    architecture: str, change: dict[str, Any]
) -> None:
    """EVA01-CLIP-g-14 and EVA02-CLIP-bigE-14 at full size, without memory; another image size stays post-norm."""
    ensure_torchvision()
    import timm

    with torch.device("meta"):
        model: Any = timm.create_model(architecture, pretrained=False, num_classes=1280, **change)
    state = {f"backbone.{name}": t for name, t in model.state_dict().items() if not name.startswith("head.")}
    state |= {f"projection.{name}": t for name, t in model.head.state_dict().items()}
    config = VisionConfig(
        library="timm", architecture=architecture, weights=None, projection=True, preprocess=openai_pixels(224)
    )
    found = convert_eva02(eva02_to_checkpoint(state, config))
    assert (found.config.architecture, found.notes) == (architecture, ())
    assert found.config.options.get("img_size") == change.get("img_size")
    heads = found.config.options.get("num_heads")
    assert heads in (None, model.blocks[0].attn.num_heads)
    assert found.tensors.keys() == state.keys()


def test_mixtures_of_both_kinds_are_refused() -> None:
    """An inner LayerNorm beside a fused projection, as the repository's ``subln`` never makes."""
    turned = {"visual.rope.freqs_cos": torch.ones(9, 64), "visual.rope.freqs_sin": torch.zeros(9, 64)}
    with pytest.raises(ModelError, match="fused projections, as EVA01, and rotary positions, as EVA02"):
        convert_eva02(eva01_tensors() | turned)
    with pytest.raises(ModelError, match=r"unexpected 1 \(blocks\.0\.attn\.inner_attn_ln\.weight\)"):
        convert_eva02(eva01_tensors() | {"visual.blocks.0.attn.inner_attn_ln.weight": torch.ones(128)})
