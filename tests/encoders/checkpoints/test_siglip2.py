"""SigLIP 2 towers of the training repository compared with timm's ViT with attention pooling."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.checkpoints.convert import PIXELS, convert
from llm2clip_search.encoders.checkpoints.siglip2 import convert_siglip2, siglip2_to_checkpoint
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from tests.support.checkpoints import DIM, SIGLIP_WIDTH, Tensors, noise, normalised, siglip2_tensors


@torch.inference_mode()
def timms_features(tensors: Tensors, images: torch.Tensor) -> torch.Tensor:
    """Pooled features of timm's class, loaded strictly."""
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=28,
        patch_size=14,
        embed_dim=SIGLIP_WIDTH,
        depth=2,
        num_heads=2,
        mlp_ratio=200.5 / SIGLIP_WIDTH,
        class_token=False,
        global_pool="map",
        num_classes=0,
    ).eval()
    prefix = "visual.trunk."
    model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, strict=True)
    features: torch.Tensor = model(images)
    return features


@pytest.mark.parametrize("pixels", [None, "siglip"])
@torch.inference_mode()
def test_images_equal_timm(tmp_path: Path, llama: Path, pixels: str | None) -> None:
    """With the training repository's preprocessing and with Google's."""
    tensors = siglip2_tensors()
    torch.save(tensors, tmp_path / "published.pt")
    config = convert(
        tmp_path / "published.pt",
        tmp_path / "model",
        llm=f"dir:{llama}",
        pixels=None if pixels is None else PIXELS[pixels],
    )
    array = noise(3, 28)
    images = normalised(array) if pixels is None else torch.from_numpy(array).permute(0, 3, 1, 2) / 127.5 - 1
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_pixels(array)
    np.testing.assert_allclose(found, F.normalize(timms_features(tensors, images), dim=-1).numpy(), atol=1e-5)
    assert config.dim == SIGLIP_WIDTH
    assert config.vision.preprocess.resize == ("shortest" if pixels is None else "squash")
    assert config.text.adaptor is not None
    assert not config.text.adaptor.normalises


def test_a_linear_projection_is_read_and_written_back(tmp_path: Path, llama: Path) -> None:
    """``timm_proj`` "linear" of the training repository, to another width than the tower's."""
    tensors = siglip2_tensors(projected=True)
    torch.save(tensors, tmp_path / "published.pt")
    config = convert(tmp_path / "published.pt", tmp_path / "model", llm=f"dir:{llama}")
    assert config.dim == DIM != SIGLIP_WIDTH
    projected = timms_features(tensors, normalised(noise(3, 28))) @ tensors["visual.head.proj.weight"].T
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_pixels(noise(3, 28))
    np.testing.assert_allclose(found, F.normalize(projected, dim=-1).numpy(), atol=1e-5)
    back = siglip2_to_checkpoint(resolve(f"dir:{tmp_path / 'model'}").tensors("vision"))
    assert back.keys() == {name for name in tensors if name.startswith("visual.")}


@torch.inference_mode()
def test_images_equal_transformers(tmp_path: Path, llama: Path) -> None:
    """transformers names and groups the tensors of the same tower differently."""
    ensure_torchvision()
    import transformers

    tensors = siglip2_tensors()
    torch.save(tensors, tmp_path / "published.pt")
    convert(tmp_path / "published.pt", tmp_path / "model", llm=f"dir:{llama}")
    model = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(
            hidden_size=SIGLIP_WIDTH,
            intermediate_size=200,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
        )
    ).eval()
    renamed = in_transformers_names({n.removeprefix("visual.trunk."): t for n, t in tensors.items()})
    getattr(model, "vision_model", model).load_state_dict(renamed, strict=True)
    expected = F.normalize(model(pixel_values=normalised(noise(3, 28))).pooler_output, dim=-1)
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_pixels(noise(3, 28))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def in_transformers_names(tower: Tensors) -> Tensors:
    """Rename a tower's tensors from timm's names to those of `SiglipVisionModel`."""
    names = {
        "patch_embed.proj": "embeddings.patch_embedding",
        "norm": "post_layernorm",
        "attn_pool.proj": "head.attention.out_proj",
        "attn_pool.norm": "head.layernorm",
        "attn_pool.mlp.fc1": "head.mlp.fc1",
        "attn_pool.mlp.fc2": "head.mlp.fc2",
    }
    renamed = {
        "embeddings.position_embedding.weight": tower["pos_embed"][0],
        "head.probe": tower["attn_pool.latent"],
    }
    for part in ("weight", "bias"):
        renamed[f"head.attention.in_proj_{part}"] = torch.cat([tower[f"attn_pool.{n}.{part}"] for n in ("q", "kv")])
        renamed |= {f"{theirs}.{part}": tower[f"{timms}.{part}"] for timms, theirs in names.items()}
        for block in range(2):
            here, there = f"blocks.{block}", f"encoder.layers.{block}"
            for name, third in zip("qkv", tower[f"{here}.attn.qkv.{part}"].chunk(3), strict=True):
                renamed[f"{there}.self_attn.{name}_proj.{part}"] = third
            for timms, theirs in (
                ("attn.proj", "self_attn.out_proj"),
                ("norm1", "layer_norm1"),
                ("norm2", "layer_norm2"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ):
                renamed[f"{there}.{theirs}.{part}"] = tower[f"{here}.{timms}.{part}"]
    return renamed


def test_the_published_size_is_timms_so400m() -> None:
    ensure_torchvision()
    import timm

    with torch.device("meta"):
        model = timm.create_model("vit_so400m_patch14_siglip_224", pretrained=False, num_classes=0)
    state = {f"backbone.{name}": t for name, t in model.state_dict().items()}
    found = convert_siglip2(siglip2_to_checkpoint(state))
    assert (found.config.architecture, found.config.options, found.dim) == ("vit_so400m_patch14_siglip_224", {}, 1152)
    assert found.tensors.keys() == state.keys()


def test_the_scale_and_bias_of_its_loss_are_kept(tmp_path: Path, llama: Path) -> None:
    """They are stored outside the towers, which do not use them; the vision tower has no projection."""
    from safetensors.torch import load_file

    torch.save(siglip2_tensors(), tmp_path / "published.pt")
    convert(tmp_path / "published.pt", tmp_path / "model", llm=f"dir:{llama}")
    kept = load_file(tmp_path / "model" / "model.safetensors")
    assert torch.equal(kept["logit_scale"], torch.tensor(4.7))
    assert torch.equal(kept["logit_bias"], torch.tensor(-16.0))
    assert not [n for n in resolve(f"dir:{tmp_path / 'model'}").tensors("vision") if n.startswith("projection")]


def test_towers_that_do_not_fit_are_refused() -> None:
    tensors = siglip2_tensors()
    del tensors["visual.trunk.attn_pool.latent"]
    with pytest.raises(ModelError, match=r"missing 1 \(attn_pool\.latent\)"):
        convert_siglip2(tensors)
    wide = {"visual.head.proj.weight": torch.ones(DIM, 127)}
    with pytest.raises(ModelError, match=r"projection\.weight of the projection .* is \[24, 127\], but \[24, 128\]"):
        convert_siglip2(siglip2_tensors() | wide)
    with pytest.raises(ModelError, match=r"missing .*; unexpected 1 \(blocks\.0\.attn\.q_norm\.weight\)"):
        convert_siglip2(tensors | {"visual.trunk.blocks.0.attn.q_norm.weight": torch.ones(64)})
