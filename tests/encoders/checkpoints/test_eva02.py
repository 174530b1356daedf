"""EVA02 towers of the training repository compared with timm's, and with EVA02 written in plain torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.checkpoints.convert import convert
from llm2clip_search.encoders.checkpoints.eva02 import convert_eva02, eva02_to_checkpoint, to_timm
from llm2clip_search.encoders.checkpoints.layouts import openai_pixels
from llm2clip_search.encoders.config import VisionConfig
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from tests.support.checkpoints import MEAN, Tensors, eva02_tensors, noise, normalised, rotary_angles


@torch.inference_mode()
def plain_eva02(tensors: Tensors, images: torch.Tensor) -> torch.Tensor:
    """Fang et al., arXiv 2303.11331: pre-norm blocks, rotary attention except for the class token, a LayerNorm after
    the heads, SwiGLU with an inner LayerNorm; the class token's state goes through the head. Without angles among the
    tensors, attention is not rotary."""
    rope = "visual.rope.freqs_cos" in tensors
    get = {name.removeprefix("visual."): tensor for name, tensor in tensors.items()}
    cos, sin = rotary_angles(3, 16).cos(), rotary_angles(3, 16).sin()

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], get[f"{name}.weight"], get[f"{name}.bias"], eps=1e-6)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, get[f"{name}.weight"], get.get(f"{name}.bias"))

    def rotate(x: torch.Tensor) -> torch.Tensor:
        if not rope:
            return x
        patches = x[:, :, 1:]
        turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
        return torch.cat([x[:, :, :1], patches * cos + turned * sin], dim=2)

    x = F.conv2d(images, get["patch_embed.proj.weight"], get["patch_embed.proj.bias"], stride=16).flatten(2).mT
    x = torch.cat([get["cls_token"].expand(len(x), -1, -1), x], dim=1) + get["pos_embed"]
    for block in range(2):
        at = f"blocks.{block}"
        h = norm(f"{at}.norm1", x)
        q, k, v = (linear(f"{at}.attn.{n}_proj", h).reshape(*h.shape[:2], 2, -1).transpose(1, 2) for n in "qkv")
        mixed = torch.softmax(rotate(q) @ rotate(k).mT / q.shape[-1] ** 0.5, dim=-1) @ v
        x = x + linear(f"{at}.attn.proj", norm(f"{at}.attn.inner_attn_ln", mixed.transpose(1, 2).flatten(2)))
        h = norm(f"{at}.norm2", x)
        gated = F.silu(linear(f"{at}.mlp.w1", h)) * linear(f"{at}.mlp.w2", h)
        x = x + linear(f"{at}.mlp.w3", norm(f"{at}.mlp.ffn_ln", gated))
    return F.normalize(linear("head", norm("norm", x)[:, 0]), dim=-1)


@torch.inference_mode()
def timms_eva02(tensors: Tensors, images: torch.Tensor) -> torch.Tensor:
    """timm's class of the same sizes, loaded with timm's reader of EVA checkpoints."""
    ensure_torchvision()
    from timm.models.eva import Eva, checkpoint_filter_fn

    model: Any = Eva(
        img_size=48,
        patch_size=16,
        num_classes=24,
        global_pool="token",
        embed_dim=32,
        depth=2,
        num_heads=2,
        qkv_fused=False,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
    ).eval()
    model.load_state_dict(checkpoint_filter_fn(dict(tensors), model), strict=True)
    return F.normalize(model(images), dim=-1)


def test_images_equal_timm_and_plain_torch(tmp_path: Path, llama: Path) -> None:
    tensors = eva02_tensors()
    torch.save(tensors, tmp_path / "published.pt")
    config = convert(tmp_path / "published.pt", tmp_path / "model", llm=f"dir:{llama}")
    assert (config.dim, config.vision.preprocess.height, config.vision.preprocess.mean) == (24, 48, MEAN)
    pixels = noise(3, 48)
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_pixels(pixels)
    np.testing.assert_allclose(found, plain_eva02(tensors, normalised(pixels)).numpy(), atol=1e-5)
    np.testing.assert_allclose(found, timms_eva02(tensors, normalised(pixels)).numpy(), atol=1e-5)
    compiled = load_encoder(f"dir:{tmp_path / 'model'}", runtime="onnx", device="cpu").encode_pixels(pixels)
    np.testing.assert_allclose(compiled, found, atol=1e-4)


def test_a_tower_without_rotary_positions_is_read_as_one_and_written_back(
    tmp_path: Path, llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``rope`` is false by default in the training repository; such a state dict has no angles."""
    tensors = eva02_tensors(rope=False)
    torch.save(tensors, tmp_path / "published.pt")
    convert(tmp_path / "published.pt", tmp_path / "model", llm=f"dir:{llama}")
    assert caplog.messages == ["The tower has no visual.rope.freqs_*, so it is read as one without rotary positions."]
    pixels = noise(3, 48)
    expected = plain_eva02(tensors, normalised(pixels)).numpy()
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_pixels(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    model = resolve(f"dir:{tmp_path / 'model'}")
    back = eva02_to_checkpoint(model.tensors("vision"), model.config.vision)
    assert back.keys() == {name for name in tensors if name.startswith("visual.")}
    # The same tensors with angles are another tower.
    turned = {
        f"visual.rope.freqs_{name}": f(rotary_angles(3, 64)) for name, f in (("cos", torch.cos), ("sin", torch.sin))
    }
    torch.save(tensors | turned, tmp_path / "turned.pt")
    convert(tmp_path / "turned.pt", tmp_path / "turned", llm=f"dir:{llama}")
    other = load_encoder(f"dir:{tmp_path / 'turned'}", runtime="torch", device="cpu").encode_pixels(pixels)
    assert np.abs(other - found).max() > 1e-3


def test_a_published_size_without_rotary_positions_keeps_its_architecture() -> None:
    """At full size, without memory."""
    ensure_torchvision()
    import timm

    with torch.device("meta"):
        model: Any = timm.create_model("eva02_base_patch16_clip_224", pretrained=False, num_classes=1280)
    state = {f"backbone.{name}": t for name, t in model.state_dict().items() if not name.startswith("head.")}
    state |= {f"projection.{name}": t for name, t in model.head.state_dict().items()}
    flat = VisionConfig(
        library="timm",
        architecture="eva02_base_patch16_clip_224",
        weights=None,
        projection=True,
        options={"use_rot_pos_emb": False},
        preprocess=openai_pixels(224),
    )
    assert convert_eva02(eva02_to_checkpoint(state, flat)).config == flat


@torch.inference_mode()
def test_half_precision_and_lone_biases_are_read(tmp_path: Path, llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    """EVA-CLIP's q_bias, all in float16, with DistributedDataParallel's prefix and a training loop's wrapper."""
    tensors = {name: tensor.half() for name, tensor in eva02_tensors().items()}
    spelled = {
        name.replace("q_proj.bias", "q_bias").replace("v_proj.bias", "v_bias"): tensor
        for name, tensor in tensors.items()
    }
    torch.save({"epoch": 4, "state_dict": {f"module.{n}": t for n, t in spelled.items()}}, tmp_path / "published.pt")
    convert(tmp_path / "published.pt", tmp_path / "model", llm=f"dir:{llama}")
    assert caplog.messages == ["4 biases are named q_bias and v_bias; q_proj.bias was expected."]
    model = resolve(f"dir:{tmp_path / 'model'}")
    assert {tensor.dtype for tensor in model.tensors("vision").values()} == {torch.float16}
    found = load_encoder(model.reference, runtime="torch", device="cpu").encode_pixels(noise(2, 48))
    expected = plain_eva02({name: t.float() for name, t in tensors.items()}, normalised(noise(2, 48)))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "width", "side", "patch"),
    [
        ("eva02_base_patch16_clip_224", 768, 224, 16),
        ("eva02_large_patch14_clip_224", 1024, 224, 14),
        ("eva02_large_patch14_clip_336", 1024, 336, 14),
    ],
)
def test_published_sizes_are_timms_architectures(architecture: str, width: int, side: int, patch: int) -> None:
    """Names and shapes of the real towers, without memory: timm's, renamed to the published ones."""
    ensure_torchvision()
    import timm

    with torch.device("meta"):
        model: Any = timm.create_model(architecture, pretrained=False, num_classes=1280)
    state = {f"backbone.{name}": t for name, t in model.state_dict().items() if not name.startswith("head.")}
    state |= {f"projection.{name}": t for name, t in model.head.state_dict().items()}
    config = VisionConfig(
        library="timm", architecture=architecture, weights=None, projection=True, preprocess=openai_pixels(side)
    )
    published = eva02_to_checkpoint(state, config)
    assert "visual.blocks.0.mlp.ffn_ln.weight" in published
    found = convert_eva02(published)
    assert found.config == config
    assert (found.dim, model.embed_dim) == (1280, width)
    assert published["visual.patch_embed.proj.weight"].shape[-1] == patch
    assert found.tensors.keys() == state.keys()


def test_names_can_be_converted_back() -> None:
    tensors = eva02_tensors()
    vision = {name: t for name, t in tensors.items() if name.startswith("visual.")}
    found = convert_eva02(tensors)
    back = eva02_to_checkpoint(found.tensors, found.config)
    assert back.keys() == vision.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in vision.items())
    assert to_timm("blocks.3.mlp.w3.bias", fused=False) == "blocks.3.mlp.fc2.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.rope.freqs_cos": torch.zeros(9, 16)}, "differs from the rotary angles of timm's EVA02 by up to 1.0"),
        ({"visual.rope.freqs_sin": torch.zeros(16, 16)}, r"is \[16, 16\], but its tower needs \[9, 16\]"),
        ({"visual.blocks.1.mlp.w1.weight": None}, r"missing 1 \(blocks\.1\.mlp\.fc1_g\.weight\)"),
        ({"visual.blocks.1.attn.gate": torch.ones(1)}, r"unexpected 1 \(blocks\.1\.attn\.gate\)"),
        ({"visual.blocks.0.mlp.w1.weight": None}, "neither an EVA01 nor an EVA02 with SwiGLU"),
        ({"visual.head.bias": None}, r"lacks head\.bias"),
        ({"visual.head.weight": torch.zeros(24, 31)}, "has 31 input dimensions, but the tower has 32"),
        ({"visual.pos_embed": torch.zeros(1, 9, 32)}, "8 patch positions, which do not make a square grid"),
        ({"visual.norm.weight": torch.zeros(31)}, r"norm\.weight of the .* is \[31\], but \[32\] is needed"),
    ],
)
def test_towers_that_do_not_fit_are_refused(change: dict[str, torch.Tensor | None], message: str) -> None:
    tensors = {n: t for n, t in {**eva02_tensors(), **change}.items() if t is not None}
    with pytest.raises(ModelError, match=message):
        convert_eva02(tensors)
