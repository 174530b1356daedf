"""Tiny random checkpoints under the published key names, and what they should compute, in plain torch.

Nothing here uses the converter: names and formulas are written out from the layouts as published.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from llm2clip_search.encoders.checkpoints.layouts import LayoutName
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from tests.support.models import CAPTIONS

Tensors = dict[str, torch.Tensor]


class Draw(Protocol):
    """Random tensors of a shape."""

    def __call__(self, *shape: int) -> torch.Tensor: ...


HEADER = "<|start_header_id|>user<|end_header_id|>\n\n"
SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LLAMA_3_WORDS = "|".join(
    [
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
"""What Llama 3's tokenizer never merges across: line breaks are one piece, however many."""
DIM = 24
"""Width of the shared space; SigLIP 2 has another."""
HIDDEN = 32
"""Width of the tiny LLM."""
SIGLIP_WIDTH = 128


def save_llama(folder: Path, *, hidden: int = HIDDEN) -> Path:
    """A two-block Llama and a tokenizer that splits texts as Llama 3's, has its special tokens and adds its BOS."""

    ensure_torchvision()
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    LlamaModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [*CAPTIONS, *["\n\n\n", "\n\n"] * 50],
        trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet),
    )
    begin = SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def save_openai(folder: Path, *, dtype: torch.dtype = torch.float32, hidden: int = HIDDEN) -> Tensors:
    """The Hugging Face layout: a folder with ``config.json`` and ``model.safetensors``."""
    tensors = {name: tensor.to(dtype) for name, tensor in openai_tensors(hidden=hidden).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(OPENAI_CONFIG))
    return tensors


OPENAI_CONFIG: dict[str, Any] = {
    "architectures": ["LLM2CLIPModel"],
    "auto_map": {"AutoModel": "modeling_clip.LLM2CLIPModel"},
    "model_type": "clip",
    "projection_dim": DIM,
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 4,
        "image_size": 12,
        "projection_dim": DIM,
        "model_type": "clip_vision_model",
    },
}


def openai_tensors(*, hidden: int = HIDDEN) -> Tensors:
    """``vision_model.*``, ``visual_projection.weight``, ``text_adapter.adaptor.*``, ``logit_scale``."""
    draw = drawer(2)
    tensors = {
        "vision_model.embeddings.class_embedding": draw(16),
        "vision_model.embeddings.patch_embedding.weight": draw(16, 3, 4, 4),
        "vision_model.embeddings.position_embedding.weight": draw(10, 16),
        "visual_projection.weight": draw(DIM, 16),
        "logit_scale": torch.tensor(4.6052),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        tensors |= norm_tensors(f"vision_model.{norm}", 16, draw)
    for block in range(2):
        prefix = f"vision_model.encoder.layers.{block}"
        for layer in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= linear_tensors(f"{prefix}.self_attn.{layer}", 16, 16, draw)
        tensors |= norm_tensors(f"{prefix}.layer_norm1", 16, draw) | norm_tensors(f"{prefix}.layer_norm2", 16, draw)
        tensors |= linear_tensors(f"{prefix}.mlp.fc1", 16, 40, draw)
        tensors |= linear_tensors(f"{prefix}.mlp.fc2", 40, 16, draw)
    return tensors | adaptor_tensors("text_adapter.adaptor", hidden, DIM)


def eva02_tensors(*, hidden: int = HIDDEN, rope: bool = True, container: str = "text.text_adaptor") -> Tensors:
    """``visual.*`` of an EVA02 with two blocks of width 32, 16-pixel patches of a 48-pixel image; two heads, or with a
    width of 128 if they are not shown by rotary angles, because heads are then 64 wide.

    Args:
        rope: whether it has rotary positions.
        container: prefix of the adaptor's keys.
    """
    draw, width = drawer(3), 32 if rope else 128
    inner = int(width * 2.6667)
    tensors = {
        "visual.cls_token": draw(1, 1, width),
        "visual.pos_embed": draw(1, 10, width),
        "visual.patch_embed.proj.weight": draw(width, 3, 16, 16),
        "visual.patch_embed.proj.bias": draw(width),
        "logit_scale": torch.tensor(4.6052),
    }
    angles = {"freqs_cos": rotary_angles(3, 16).cos(), "freqs_sin": rotary_angles(3, 16).sin()} if rope else {}
    tensors |= {f"visual.rope.{name}": angle for name, angle in angles.items()}
    for block in range(2):
        prefix = f"visual.blocks.{block}"
        tensors |= {f"{prefix}.attn.rope.{name}": angle.clone() for name, angle in angles.items()}
        for layer, bias in (("q_proj", True), ("k_proj", False), ("v_proj", True), ("proj", True)):
            tensors |= linear_tensors(f"{prefix}.attn.{layer}", width, width, draw, bias=bias)
        tensors |= norm_tensors(f"{prefix}.attn.inner_attn_ln", width, draw)
        tensors |= norm_tensors(f"{prefix}.norm1", width, draw) | norm_tensors(f"{prefix}.norm2", width, draw)
        tensors |= linear_tensors(f"{prefix}.mlp.w1", width, inner, draw)
        tensors |= linear_tensors(f"{prefix}.mlp.w2", width, inner, draw)
        tensors |= norm_tensors(f"{prefix}.mlp.ffn_ln", inner, draw)
        tensors |= linear_tensors(f"{prefix}.mlp.w3", inner, width, draw)
    tensors |= norm_tensors("visual.norm", width, draw) | linear_tensors("visual.head", width, DIM, draw)
    return tensors | adaptor_tensors(container, hidden, DIM)


def rotary_angles(side: int, head_width: int) -> torch.Tensor:
    """EVA02's axial angles ``[side * side, head_width]``: positions scaled to a grid of 16, each angle twice."""
    half = head_width // 2
    rates = 10000.0 ** (-torch.arange(0, half, 2) / half)
    line = (torch.arange(side) / side * 16)[:, None] * rates
    line = line.repeat_interleave(2, dim=-1)
    rows, columns = line[:, None].expand(side, side, half), line[None].expand(side, side, half)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, head_width)


def siglip2_tensors(
    *, hidden: int = HIDDEN, projected: bool = False, container: str = "text.text_proj.text_adaptor"
) -> Tensors:
    """``visual.trunk.*`` in timm's names: two blocks of width 128, attention pooling, 14-pixel patches of 28.

    Args:
        projected: whether a linear layer to `DIM` follows (``timm_proj`` "linear").
        container: prefix of the adaptor's keys.
    """
    draw, width = drawer(4), SIGLIP_WIDTH
    tensors = {
        "visual.trunk.pos_embed": draw(1, 4, width),
        "visual.trunk.patch_embed.proj.weight": draw(width, 3, 14, 14),
        "visual.trunk.patch_embed.proj.bias": draw(width),
        "visual.trunk.attn_pool.latent": draw(1, 1, width),
        "logit_scale": torch.tensor(4.7),
        "logit_bias": torch.tensor(-16.0),
    }
    pool = "visual.trunk.attn_pool"
    tensors |= norm_tensors("visual.trunk.norm", width, draw) | norm_tensors(f"{pool}.norm", width, draw)
    tensors |= linear_tensors(f"{pool}.q", width, width, draw) | linear_tensors(f"{pool}.kv", width, 2 * width, draw)
    tensors |= linear_tensors(f"{pool}.proj", width, width, draw)
    for block, prefix in [(0, "visual.trunk.blocks.0"), (1, "visual.trunk.blocks.1"), (None, pool)]:
        tensors |= linear_tensors(f"{prefix}.mlp.fc1", width, 200, draw)
        tensors |= linear_tensors(f"{prefix}.mlp.fc2", 200, width, draw)
        if block is not None:
            tensors |= norm_tensors(f"{prefix}.norm1", width, draw) | norm_tensors(f"{prefix}.norm2", width, draw)
            tensors |= linear_tensors(f"{prefix}.attn.qkv", width, 3 * width, draw)
            tensors |= linear_tensors(f"{prefix}.attn.proj", width, width, draw)
    if projected:
        tensors |= linear_tensors("visual.head.proj", width, DIM, draw, bias=False)
    return tensors | adaptor_tensors(container, hidden, DIM if projected else width)


def vit_tensors(*, hidden: int = HIDDEN, container: str = "text.text_adaptor") -> Tensors:
    """``visual.transformer.resblocks.*``: a plain ViT of two blocks, width 128, 8-pixel patches of a 24-pixel image."""
    draw, width = drawer(6), 128
    tensors = {
        "visual.class_embedding": draw(width),
        "visual.positional_embedding": draw(10, width),
        "visual.proj": draw(width, DIM),
        "visual.conv1.weight": draw(width, 3, 8, 8),
        "logit_scale": torch.tensor(4.6052),
    }
    for block in range(2):
        prefix = f"visual.transformer.resblocks.{block}"
        tensors |= norm_tensors(f"{prefix}.ln_1", width, draw) | norm_tensors(f"{prefix}.ln_2", width, draw)
        tensors |= {f"{prefix}.attn.in_proj_weight": draw(3 * width, width)}
        tensors |= {f"{prefix}.attn.in_proj_bias": draw(3 * width)}
        tensors |= linear_tensors(f"{prefix}.attn.out_proj", width, width, draw)
        tensors |= linear_tensors(f"{prefix}.mlp.c_fc", width, 4 * width, draw)
        tensors |= linear_tensors(f"{prefix}.mlp.c_proj", 4 * width, width, draw)
    tensors |= norm_tensors("visual.ln_pre", width, draw) | norm_tensors("visual.ln_post", width, draw)
    return tensors | adaptor_tensors(container, hidden, DIM)


def eva01_tensors(*, hidden: int = HIDDEN, scaled: bool = False) -> Tensors:
    """``visual.*`` of an EVA01: like `eva02_tensors` of width 128, with fused projections and an MLP of two layers.

    Args:
        scaled: whether each part of a block is scaled (``ls_init_value``).
    """
    draw, width = drawer(7), 128
    tensors = {
        "visual.cls_token": draw(1, 1, width),
        "visual.pos_embed": draw(1, 10, width),
        "visual.patch_embed.proj.weight": draw(width, 3, 16, 16),
        "visual.patch_embed.proj.bias": draw(width),
        "logit_scale": torch.tensor(4.6052),
    }
    for block in range(2):
        prefix = f"visual.blocks.{block}"
        if scaled:
            tensors |= {f"{prefix}.gamma_1": draw(width), f"{prefix}.gamma_2": draw(width)}
        tensors |= {f"{prefix}.attn.q_bias": draw(width), f"{prefix}.attn.v_bias": draw(width)}
        tensors |= linear_tensors(f"{prefix}.attn.qkv", width, 3 * width, draw, bias=False)
        tensors |= linear_tensors(f"{prefix}.attn.proj", width, width, draw)
        tensors |= norm_tensors(f"{prefix}.norm1", width, draw) | norm_tensors(f"{prefix}.norm2", width, draw)
        tensors |= linear_tensors(f"{prefix}.mlp.fc1", width, 500, draw)
        tensors |= linear_tensors(f"{prefix}.mlp.fc2", 500, width, draw)
    tensors |= norm_tensors("visual.norm", width, draw) | linear_tensors("visual.head", width, DIM, draw)
    return tensors | adaptor_tensors("text.text_adaptor", hidden, DIM)


def adaptor_tensors(container: str, hidden: int, dim: int, draw: Draw | None = None) -> Tensors:
    """Four residual blocks, a LayerNorm and a linear layer under the published names."""
    draw = draw or drawer(5)
    tensors: Tensors = {}
    for block in range(4):
        tensors |= linear_tensors(f"{container}.{block}.fn.0", hidden, 2 * hidden, draw)
        tensors |= linear_tensors(f"{container}.{block}.fn.3", 2 * hidden, hidden, draw)
        tensors |= norm_tensors(f"{container}.{block}.ln", hidden, draw)
    return tensors | norm_tensors(f"{container}.4", hidden, draw) | linear_tensors(f"{container}.5", hidden, dim, draw)


def plain_adaptor(tensors: Tensors, container: str, states: torch.Tensor, *, normalises: bool) -> torch.Tensor:
    """The adaptor as the paper describes it; returns unit vectors."""

    def get(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors[f"{container}.{name}.weight"].float(), tensors[f"{container}.{name}.bias"].float()

    x = states / states.norm(dim=-1, keepdim=True) if normalises else states
    for block in range(4):
        branch = F.layer_norm(x, x.shape[-1:], *get(f"{block}.ln"))
        x = x + F.linear(F.gelu(F.linear(branch, *get(f"{block}.fn.0"))), *get(f"{block}.fn.3"))
    x = F.linear(F.layer_norm(x, x.shape[-1:], *get("4")), *get("5"))
    unit: torch.Tensor = x / x.norm(dim=-1, keepdim=True)
    return unit


def drawer(seed: int) -> Draw:
    """Returns a function that draws random tensors, small enough that no activation saturates."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    return draw


def linear_tensors(name: str, inputs: int, outputs: int, draw: Draw, *, bias: bool = True) -> Tensors:
    tensors = {f"{name}.weight": draw(outputs, inputs)}
    return tensors | {f"{name}.bias": draw(outputs)} if bias else tensors


def norm_tensors(name: str, width: int, draw: Draw) -> Tensors:
    return {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}


def renamed(tensors: Tensors, *changes: tuple[str, str]) -> Tensors:
    """Replace parts of key names."""
    for old, new in changes:
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    return tensors


def without(tensors: Tensors, *names: str) -> Tensors:
    """Leave out some tensors."""
    return {name: tensor for name, tensor in tensors.items() if name not in names}


LAYOUTS: dict[LayoutName, Callable[[], Tensors]] = {
    "openai": openai_tensors,
    "eva02": eva02_tensors,
    "siglip2": siglip2_tensors,
    "vit": vit_tensors,
}
"""Every published layout, and a function that makes a checkpoint of it."""


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def noise(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def normalised(pixels: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
