"""OpenAI towers of the Hugging Face layout compared with transformers' CLIPVisionModel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.checkpoints.convert import convert
from llm2clip_search.encoders.checkpoints.openai_clip import openai_to_checkpoint
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from tests.support.checkpoints import MEAN, OPENAI_CONFIG, STD, Tensors, noise, openai_tensors, save_openai


@torch.inference_mode()
def reference(tensors: Tensors, pixels: np.ndarray) -> np.ndarray:
    """transformers' tower, loaded strictly under its own names, and a projection without bias."""
    ensure_torchvision()
    import transformers

    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**OPENAI_CONFIG["vision_config"])).eval()
    tower = {n.removeprefix("vision_model."): t.float() for n, t in tensors.items() if n.startswith("vision_model.")}
    getattr(model, "vision_model", model).load_state_dict(tower, strict=True)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        STD
    )[:, None, None]
    embedded = model(pixel_values=images).pooler_output @ tensors["visual_projection.weight"].float().T
    found: np.ndarray = (embedded / embedded.norm(dim=-1, keepdim=True)).numpy()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_images_equal_transformers(tmp_path: Path, llama: Path, dtype: torch.dtype) -> None:
    """Half precision affects stored values only: both compute in float32 with the same values."""
    tensors = save_openai(tmp_path / "published", dtype=dtype)
    config = convert(tmp_path / "published", tmp_path / "model", llm=f"dir:{llama}")
    assert (config.dim, config.vision.preprocess.height, config.vision.preprocess.resize) == (24, 12, "shortest")
    assert (config.vision.preprocess.mean, config.vision.preprocess.std) == (MEAN, STD)
    assert config.vision.preprocess.crop_rounding == "down"  # as transformers' processor of OpenAI's models crops
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_pixels(noise(3, 12))
    np.testing.assert_allclose(found, reference(tensors, noise(3, 12)), atol=1e-5)


def test_a_single_file_and_old_position_ids_are_accepted(tmp_path: Path, llama: Path) -> None:
    """Without ``config.json``, heads are 64 wide, as in all OpenAI towers; position_ids are not parameters."""
    save_openai(tmp_path / "published")
    tensors = openai_tensors() | {"vision_model.embeddings.position_ids": torch.arange(10)[None]}
    save_file(tensors, tmp_path / "published" / "model.safetensors")
    convert(tmp_path / "published", tmp_path / "model", llm=f"dir:{llama}")
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_pixels(noise(2, 12))
    np.testing.assert_allclose(found, reference(openai_tensors(), noise(2, 12)), atol=1e-5)
    with pytest.raises(ModelError, match="width 16 cannot have 0 attention heads"):
        convert(tmp_path / "published" / "model.safetensors", tmp_path / "lone", llm=f"dir:{llama}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "siglip"}, "config.json describes a 'siglip' model"),
        ({"vision_config": {"hidden_size": 20}}, "vision_config.hidden_size 20, but the tensors have 16"),
        ({"vision_config": {"image_size": 16}}, "vision_config.image_size 16, but the tensors have 12"),
        ({"vision_config": {"num_attention_heads": 3}}, "width 16 cannot have 3 attention heads"),
        ({"projection_dim": 1280}, r"has projection_dim 1280, but visual_projection\.weight has 24"),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    tmp_path: Path, llama: Path, change: dict[str, object], message: str
) -> None:
    import json

    save_openai(tmp_path / "published")
    (tmp_path / "published" / "config.json").write_text(json.dumps({**OPENAI_CONFIG, **change}))
    with pytest.raises(ModelError, match=message):
        convert(tmp_path / "published", tmp_path / "model", llm=f"dir:{llama}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published"]


def test_the_published_names_can_be_restored(tmp_path: Path, llama: Path) -> None:
    from llm2clip_search.encoders.registry import resolve

    tensors = save_openai(tmp_path / "published")
    convert(tmp_path / "published", tmp_path / "model", llm=f"dir:{llama}")
    back = openai_to_checkpoint(resolve(f"dir:{tmp_path / 'model'}").tensors("vision"))
    wanted = {name for name in tensors if name.startswith("vis")}
    assert back.keys() == wanted
    assert all(torch.equal(back[name], tensors[name]) for name in wanted)
