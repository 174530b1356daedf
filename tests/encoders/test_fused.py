"""A text tower that fuses an LLM's state with CLIP's text embedding equals its parts combined by hand."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional as F

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.config import AdaptorConfig, ModelConfig, TextConfig
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from tests.support.dual import save_dual
from tests.support.models import CAPTIONS, save_model

TEXTS = ["a dog", *CAPTIONS, ""]
CLIP = TextConfig(library="transformers", weights="dir:clip", max_tokens=16)


def fuse(folder: Path, clip: TextConfig, clip_width: int) -> dict[str, torch.Tensor]:
    """Turn a tiny model's text tower into a fused one; returns its adaptor's tensors."""
    torch.manual_seed(3)
    adaptor = {
        f"text.adaptor.{n}": t for n, t in Adaptor(32 + clip_width, 16, AdaptorConfig(blocks=1)).state_dict().items()
    }
    save_file(load_file(folder / "model.safetensors") | adaptor, folder / "model.safetensors")
    configure(folder, clip=asdict(clip))
    return {name.removeprefix("text.adaptor."): tensor for name, tensor in adaptor.items()}


def configure(folder: Path, **text: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text"] |= text
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The tiny Llama fused with the text tower of a tiny CLIP of transformers."""
    folder = save_model(tmp_path_factory.mktemp("fused") / "model")
    save_dual(folder / "clip", "clip")
    return folder, fuse(folder, CLIP, 24)


def llama_state(folder: Path, text: str) -> torch.Tensor:
    """The state of transformers' Llama with full attention: the normalised mean over the caption's tokens."""
    from transformers import LlamaModel

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[:23]
    model = LlamaModel.from_pretrained(folder / "llm").eval()
    size = len(ids) + 1
    states = model(input_ids=torch.tensor([[0, *ids]]), attention_mask=torch.zeros(1, 1, size, size)).last_hidden_state
    return F.normalize((states[0, 1:] if ids else states[0]).mean(dim=0), dim=0)


def adapt(w: dict[str, torch.Tensor], x: torch.Tensor) -> np.ndarray:
    """One block of the adaptor, written out."""

    def norm(v: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(v, v.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(v: torch.Tensor, name: str) -> torch.Tensor:
        return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = x / x.norm(dim=-1, keepdim=True)
    x = x + linear(F.gelu(linear(norm(x, "blocks.0.norm"), "blocks.0.expand")), "blocks.0.contract")
    vectors: np.ndarray = F.normalize(linear(norm(x, "norm"), "projection"), dim=-1).numpy()
    return vectors


@torch.inference_mode()
def test_equal_to_transformers_modules(fused: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """Both runtimes agree to 1e-5, for captions of various lengths and an empty one."""
    folder, adaptor = fused
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    tokens = AutoTokenizer.from_pretrained(folder / "clip")(
        TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    clip = CLIPTextModelWithProjection.from_pretrained(folder / "clip", projection_dim=24).eval()
    embedded = F.normalize(clip(input_ids=tokens["input_ids"]).text_embeds, dim=-1)
    states = torch.stack([llama_state(folder, text) for text in TEXTS])
    expected = adapt(adaptor, torch.cat([states, embedded], dim=-1))
    for runtime in ("torch", "onnx"):
        encoder = load_encoder(f"dir:{folder}", runtime=runtime, device="cpu")
        np.testing.assert_allclose(encoder.encode_texts(TEXTS), expected, atol=1e-5)
        np.testing.assert_allclose(encoder.encode_texts(TEXTS[:1]), expected[:1], atol=1e-5)


def test_the_llm_reads_what_clip_truncates(fused: tuple[Path, dict[str, torch.Tensor]]) -> None:
    encoder = load_encoder(f"dir:{fused[0]}", runtime="torch", device="cpu")
    plain = load_encoder(f"dir:{fused[0] / 'clip'}", runtime="torch", device="cpu")
    texts = ["zxzxzxzxzxzxzxzx" + end for end in ("zxz", "qjq")]
    assert np.array_equal(*plain.encode_texts(texts))
    assert (encoder.encode_texts(texts)[0] != encoder.encode_texts(texts)[1]).any()
    assert encoder.max_tokens == 24
    assert encoder.count_tokens(texts) == [20, 20]


@torch.inference_mode()
def test_an_open_clip_text_tower(tmp_path: Path) -> None:
    ensure_torchvision()
    import open_clip

    architecture = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
    }
    (tmp_path / "tiny-fused.json").write_text(json.dumps(architecture))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-fused").eval()
    weights = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), weights)
    folder = save_model(tmp_path / "model")
    adaptor = fuse(
        folder, TextConfig(library="open_clip", architecture="tiny-fused", weights=str(weights), max_tokens=77), 24
    )
    embedded = F.normalize(model.encode_text(open_clip.get_tokenizer("tiny-fused")(TEXTS)), dim=-1)
    states = torch.stack([llama_state(folder, text) for text in TEXTS])
    expected = adapt(adaptor, torch.cat([states, embedded], dim=-1))
    for runtime in ("torch", "onnx"):
        encoder = load_encoder(f"dir:{folder}", runtime=runtime, device="cpu")
        np.testing.assert_allclose(encoder.encode_texts(TEXTS), expected, atol=1e-5)


def test_the_fingerprint_covers_the_clip_tower(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    plain = resolve(f"dir:{folder}").identity.fingerprint
    save_dual(folder / "clip", "clip")
    assert resolve(f"dir:{folder}").identity.fingerprint == plain
    configure(folder, clip=asdict(CLIP))
    seen = {plain, resolve(f"dir:{folder}").identity.fingerprint}
    configure(folder, clip=asdict(CLIP) | {"max_tokens": 12})
    seen.add(resolve(f"dir:{folder}").identity.fingerprint)
    tensors = load_file(folder / "clip" / "model.safetensors")
    tensors["text_projection.weight"] += 1.0
    save_file(tensors, folder / "clip" / "model.safetensors", metadata={"format": "pt"})
    seen.add(resolve(f"dir:{folder}").identity.fingerprint)
    assert len(seen) == 4


def test_models_without_a_clip_tower_keep_their_fingerprint(tmp_path: Path) -> None:
    """Configurations written before the option existed can be read, and have the fingerprints of the first release."""
    folder = save_model(tmp_path / "model")
    before = resolve(f"dir:{folder}").identity.fingerprint
    config = json.loads((folder / "config.json").read_text())
    assert config["text"].pop("clip") is None
    del config["text"]["standardised"]
    (folder / "config.json").write_text(json.dumps(config))
    assert resolve(f"dir:{folder}").identity.fingerprint == before
    assert resolve("open_clip:ViT-B-32/openai").identity.fingerprint == "e1775a3761732256"


def test_a_configuration_survives_a_round_trip(tmp_path: Path, fused: tuple[Path, dict[str, torch.Tensor]]) -> None:
    config = ModelConfig.read(fused[0] / "config.json")
    assert config.text.clip == CLIP
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert ModelConfig.read(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"library": "llm"}, "dir:clip is an LLM, but a CLIP text tower comes from open_clip or transformers"),
        ({"weights": None, "library": "open_clip"}, "A text tower needs 'weights'"),
        ({"surprise": 1}, "does not describe a model: .*surprise"),
    ],
)
def test_towers_that_cannot_be_fused_are_named(tmp_path: Path, clip: dict[str, Any], message: str) -> None:
    from llm2clip_search.encoders.towers import build_module

    folder = save_model(tmp_path / "model")
    configure(folder, clip=asdict(CLIP) | clip)
    with pytest.raises(ModelError, match=message):
        build_module(resolve(f"dir:{folder}"), "text")
