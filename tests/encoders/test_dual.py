"""Models of CLIP, SigLIP and open_clip give the same vectors as their own libraries, preprocessing included."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.config import AdaptorConfig, PreprocessConfig
from llm2clip_search.encoders.dual import SIGLIP2_VOCABULARY
from llm2clip_search.encoders.images import to_pixels
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from tests.support.dual import save_dual
from tests.support.images import photograph
from tests.support.models import save_model

TEXTS = ["a dog", "two children play in the water"]
PICTURES = [photograph(1, (90, 60)), photograph(2, (50, 80))]


def unit(value: Any) -> np.ndarray:
    """Depending on its version, transformers returns a tensor or an output that contains it."""
    tensor = value if isinstance(value, torch.Tensor) else value.pooler_output
    vectors: np.ndarray = torch.nn.functional.normalize(tensor, dim=-1).numpy()
    return vectors


@pytest.mark.parametrize(("kind", "dim"), [("clip", 24), ("siglip", 32)])
@torch.inference_mode()
def test_transformers_dual_encoders(tmp_path: Path, kind: str, dim: int) -> None:
    """The same vectors as the library's get_image_features and get_text_features on its own input."""
    model = save_dual(tmp_path / "model", kind)
    encoder = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu")
    assert (encoder.dim, encoder.max_tokens) == (dim, 16)
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(tmp_path / "model")(
        TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    expected = unit(model.get_text_features(input_ids=tokens["input_ids"]))
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), expected, atol=1e-5)
    pixels = np.stack([to_pixels(picture, encoder.preprocess) for picture in PICTURES]) / 255.0
    values = torch.from_numpy((pixels - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]).permute(0, 3, 1, 2).float()
    expected = unit(model.get_image_features(pixel_values=values))
    np.testing.assert_allclose(encoder.encode_images(PICTURES), expected, atol=1e-5)
    onnx = load_encoder(f"dir:{tmp_path / 'model'}", runtime="onnx", device="cpu")
    assert (onnx.encode_images(PICTURES) * expected).sum(axis=1).min() > 0.9999
    assert (onnx.encode_texts(TEXTS) * encoder.encode_texts(TEXTS)).sum(axis=1).min() > 0.9999


@torch.inference_mode()
def test_siglip_2_reads_lower_case(tmp_path: Path) -> None:
    """The vocabulary identifies it, not the folder's name, and the fingerprint includes lower-casing."""
    folders = {"siglip2-by-name-only": 320, "model": SIGLIP2_VOCABULARY}
    for name, vocabulary in folders.items():
        save_dual(tmp_path / name, "siglip", vocabulary=vocabulary)
    one, two = (load_encoder(f"dir:{tmp_path / name}", runtime="torch", device="cpu") for name in folders)
    texts = ["A Black DOG", "a black dog"]
    assert (one.encode_texts(texts)[0] != one.encode_texts(texts)[1]).any()
    np.testing.assert_array_equal(two.encode_texts(texts)[0], two.encode_texts(texts)[1])
    np.testing.assert_array_equal(two.encode_texts(texts[:1]), two.encode_texts(texts[1:]))
    assert two.count_tokens(texts[:1]) == two.count_tokens(texts[1:])
    model = resolve(f"dir:{tmp_path / 'model'}")
    assert model.config.text.lower_case
    as_written = replace(model, config=replace(model.config, text=replace(model.config.text, lower_case=False)))
    assert as_written.identity.fingerprint != model.identity.fingerprint
    assert as_written.identity.weights_sha256 == model.identity.weights_sha256


@torch.inference_mode()
def test_open_clip_models(tmp_path: Path) -> None:
    """The same vectors as open_clip's encode_image and encode_text after its own preprocessing."""
    ensure_torchvision()
    import open_clip

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
    }
    (tmp_path / "tiny-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-test").eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    encoder = load_encoder(f"open_clip:tiny-test/{tmp_path / 'weights.safetensors'}", runtime="torch", device="cpu")
    preprocess = open_clip.image_transform(32, is_train=False)
    expected = unit(model.encode_image(torch.stack([preprocess(picture) for picture in PICTURES])))
    np.testing.assert_allclose(encoder.encode_images(PICTURES), expected, atol=1e-5)
    onnx = load_encoder(encoder.name, runtime="onnx", device="cpu")  # both towers compile
    assert (onnx.encode_images(PICTURES) * expected).sum(axis=1).min() > 0.9999
    expected = unit(model.encode_text(open_clip.get_tokenizer("tiny-test")(TEXTS)))
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), expected, atol=1e-5)
    assert (onnx.encode_texts(TEXTS) * expected).sum(axis=1).min() > 0.9999
    assert encoder.count_tokens(["a dog", "dog " * 100]) == [4, 102]
    with pytest.raises(ModelError, match="could not be loaded"):
        load_encoder("open_clip:tiny-test/nowhere", runtime="torch", device="cpu").encode_texts(["a"])
    with pytest.raises(ModelError, match="names no weights"):
        load_encoder("open_clip:tiny-test", runtime="torch", device="cpu").encode_texts(["a"])


@torch.inference_mode()
def test_a_dinov2_vision_tower(tmp_path: Path) -> None:
    """A vision model of transformers without a text tower, followed by a projection trained here."""
    ensure_torchvision()
    from safetensors.torch import load_file
    from transformers import Dinov2Config, Dinov2Model

    folder = save_model(tmp_path / "model")
    torch.manual_seed(0)
    dino = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14)
    ).eval()
    dino.save_pretrained(folder / "dino")
    tensors = {n: t for n, t in load_file(folder / "model.safetensors").items() if n.startswith("text.")}
    projection = torch.nn.Linear(32, 16)
    tensors |= {f"vision.projection.{name}": tensor for name, tensor in projection.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["vision"] |= {"library": "transformers", "architecture": "", "weights": "dir:dino"}
    config["vision"]["preprocess"] |= {"height": 28, "width": 28, "resize": "squash"}
    (folder / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(f"dir:{folder}", runtime="torch", device="cpu")
    pixels = torch.from_numpy(np.stack([to_pixels(p, encoder.preprocess) for p in PICTURES]))
    values = (pixels.permute(0, 3, 1, 2) / 255.0 - 0.5) / 0.5
    expected = unit(projection(dino(pixel_values=values).pooler_output))
    np.testing.assert_allclose(encoder.encode_images(PICTURES), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.integers(1, 80),
    extra=st.integers(0, 40),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
)
def test_pixels_equal_torchvisions(width: int, height: int, size: int, extra: int, interpolation: Any) -> None:
    """Resizing the shorter side and cropping the centre are equal to the bit, for any shape."""
    ensure_torchvision()
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    picture = photograph(width, (width, height))
    reference = Compose([Resize(size + extra, InterpolationMode(interpolation)), CenterCrop(size)])
    config = PreprocessConfig(height=size, width=size, resize_to=size + extra, interpolation=interpolation)
    np.testing.assert_array_equal(to_pixels(picture, config), np.asarray(reference(picture)))
    squash = PreprocessConfig(height=size, width=size + 1, resize="squash", interpolation=interpolation)
    method = Image.Resampling[interpolation.upper()]
    np.testing.assert_array_equal(to_pixels(picture, squash), np.asarray(picture.resize((size + 1, size), method)))


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = save_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    moved = {name.replace("adaptor.norm", "adaptor.nrm"): tensor for name, tensor in tensors.items()}
    save_file(moved, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing \['norm\.bias', 'norm\.weight'\], unexpected \['nrm"):
        load_encoder(f"dir:{folder}", runtime="torch").encode_texts(["a"])
    wide = Adaptor(32, 20, AdaptorConfig(blocks=1)).state_dict()
    save_file({**tensors, **{f"text.adaptor.{n}": t for n, t in wide.items()}}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"has shape \[20\], but \[16\] is|has shape \[20, 32\], but \[16, 32\] is"):
        load_encoder(f"dir:{folder}", runtime="torch").encode_texts(["a"])
