"""Bidirectional attention, pooling over the caption only, and embeddings that do not depend on the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.config import AdaptorConfig, TextConfig
from llm2clip_search.encoders.llm import CaptionLLM, load_llm
from llm2clip_search.encoders.text import LLMTextTower
from llm2clip_search.encoders.tokenization import LLMTokenizer
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from tests.support.models import CAPTIONS, save_tokenizer

FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 4}),
    "qwen2": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "gemma": ("GemmaConfig", {"head_dim": 8}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 4}),
    "gemma3_text": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 4}),
    "smollm3": ("SmolLM3Config", {"pad_token_id": 0}),
}


def tiny(family: str) -> Any:
    """A decoder of transformers with random weights."""
    ensure_torchvision()
    import transformers

    name, extra = FAMILIES[family]
    config = getattr(transformers, name)(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        **extra,
    )
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(config).eval()


def text_config(**changes: Any) -> TextConfig:
    return TextConfig(**{"library": "llm", "weights": None, "max_tokens": 64, **changes})


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.inference_mode()
def test_a_later_token_changes_an_earlier_state_only_when_bidirectional(family: str) -> None:
    """This includes tokens beyond the sliding window of four that some families have."""
    model = tiny(family)
    ids = torch.randint(1, 300, (1, 10))
    changed = ids.clone()
    changed[0, 9] = (ids[0, 9] + 7) % 300
    mask = torch.ones_like(ids)
    for attention, moves in (("bidirectional", True), ("causal", False)):
        llm = CaptionLLM(model, text_config(attention=attention))
        difference = (llm.states(ids, mask) - llm.states(changed, mask))[0].abs().amax(dim=-1)
        assert bool(difference[0] > 1e-4) is moves, (attention, difference)
        assert float(difference[9]) > 1e-4


@torch.inference_mode()
def test_states_equal_an_explicit_full_attention() -> None:
    """Compared with a Llama computed here from the same weights, without transformers' attention code."""
    model = tiny("llama")
    ids = torch.randint(1, 300, (1, 7))
    expected = plain_llama(model, ids[0])
    found = CaptionLLM(model, text_config()).states(ids, torch.ones_like(ids))[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    causal = CaptionLLM(model, text_config(attention="causal")).states(ids, torch.ones_like(ids))
    torch.testing.assert_close(causal, model(input_ids=ids).last_hidden_state, atol=1e-5, rtol=1e-4)


def plain_llama(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """RMSNorm, rotary attention over all tokens, SwiGLU; grouped keys and values (Touvron et al. 2023)."""
    length, heads, size = len(ids), 4, 8
    inverse = 1.0 / (10000.0 ** (torch.arange(0, size, 2) / size))
    angle = torch.arange(length)[:, None] * inverse
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

    def norm(layer: Any, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = layer.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return scaled

    def rotate(x: torch.Tensor) -> torch.Tensor:
        return x * cos + torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1) * sin

    x = model.embed_tokens.weight[ids]
    for layer in model.layers:
        h, a = norm(layer.input_layernorm, x), layer.self_attn
        q = rotate((h @ a.q_proj.weight.T).view(length, heads, size).transpose(0, 1))
        k = rotate((h @ a.k_proj.weight.T).view(length, 2, size).transpose(0, 1)).repeat_interleave(2, 0)
        v = (h @ a.v_proj.weight.T).view(length, 2, size).transpose(0, 1).repeat_interleave(2, 0)
        mixed = torch.softmax(q @ k.transpose(1, 2) / size**0.5, -1) @ v
        x = x + mixed.transpose(0, 1).reshape(length, -1) @ a.o_proj.weight.T
        h, m = norm(layer.post_attention_layernorm, x), layer.mlp
        x = x + (torch.nn.functional.silu(h @ m.gate_proj.weight.T) * (h @ m.up_proj.weight.T)) @ m.down_proj.weight.T
    return norm(model.norm, x)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("instruction", ["", "Find a picture: "])
@torch.inference_mode()
def test_padding_and_neighbours_change_nothing(tmp_path: Path, pooling: str, attention: str, instruction: str) -> None:
    """Embeddings alone, in one batch, and in a batch with a much longer caption differ by at most 1e-5."""
    save_tokenizer(tmp_path)
    config = text_config(pooling=pooling, attention=attention, instruction=instruction)
    tokenizer = LLMTokenizer(tmp_path, config)
    torch.manual_seed(0)
    tower = LLMTextTower(CaptionLLM(tiny("llama"), config), Adaptor(32, 16, AdaptorConfig(blocks=2))).eval()

    def embed(captions: list[str]) -> np.ndarray:
        vectors: np.ndarray = tower(*(torch.from_numpy(array) for array in tokenizer(captions))).numpy()
        return vectors

    alone = np.concatenate([embed([caption]) for caption in CAPTIONS])
    assert np.abs(embed(CAPTIONS) - alone).max() <= 1e-5
    assert np.abs(embed([*CAPTIONS, "very long " * 30])[:-1] - alone).max() <= 1e-5
    assert np.abs(np.linalg.norm(alone, axis=1) - 1.0).max() < 1e-5
    if pooling == "mean":
        bare = LLMTokenizer(tmp_path, text_config())
        pooled = tokenizer(["a dog"]).pooling_mask.sum()
        assert pooled == bare(["a dog"]).pooling_mask.sum()  # the instruction is read, not pooled
        if instruction:
            assert tokenizer(["a dog"]).ids.shape[1] > bare(["a dog"]).ids.shape[1]


@torch.inference_mode()
def test_intermediate_states_equal_those_of_transformers() -> None:
    """Pooling after a block removes the blocks after it, and returns the state of the whole model there."""
    ids, mask = torch.randint(1, 300, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    expected = tiny("llama")(input_ids=ids, output_hidden_states=True).hidden_states
    cut = CaptionLLM(tiny("llama"), text_config(attention="causal", hidden_layers=(1,)))
    assert len(cut.model.layers) == 1
    torch.testing.assert_close(cut.states(ids, mask), expected[1], atol=1e-5, rtol=1e-4)
    both = CaptionLLM(tiny("llama"), text_config(attention="causal", hidden_layers=(1, -1)))
    assert both.width == 64
    torch.testing.assert_close(
        both(ids, mask, mask), torch.cat([expected[1], expected[2]], -1).mean(1), atol=1e-5, rtol=1e-4
    )


def test_the_adaptor_is_that_of_the_paper() -> None:
    """Computed in numpy: unit length, LayerNorm - Linear - GELU - Linear with a residual, LayerNorm, Linear."""
    from math import erf

    torch.manual_seed(0)
    adaptor = Adaptor(8, 4, AdaptorConfig(blocks=3, expansion=2))
    for parameter in adaptor.parameters():
        torch.nn.init.normal_(parameter)
    w = {name: tensor.numpy().astype(np.float64) for name, tensor in adaptor.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(5, 8))

    def layer_norm(v: np.ndarray, name: str) -> np.ndarray:
        scaled = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)
        out: np.ndarray = scaled * w[f"{name}.weight"] + w[f"{name}.bias"]
        return out

    gelu = np.vectorize(lambda v: 0.5 * v * (1.0 + erf(v / 2.0**0.5)))
    h = x / np.linalg.norm(x, axis=1, keepdims=True)
    for number in range(3):
        b = f"blocks.{number}"
        inner = gelu(layer_norm(h, f"{b}.norm") @ w[f"{b}.expand.weight"].T + w[f"{b}.expand.bias"])
        h = h + inner @ w[f"{b}.contract.weight"].T + w[f"{b}.contract.bias"]
    expected = layer_norm(h, "norm") @ w["projection.weight"].T + w["projection.bias"]
    found = adaptor(torch.from_numpy(x).float()).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_other_models_are_refused_as_llms(tmp_path: Path) -> None:
    ensure_torchvision()
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'bert' model; supported LLMs are llama"):
        load_llm(f"dir:{tmp_path}")
