"""Bounds of what a model's configuration may state: a few digits in a file must not take hours, or all memory.

A tower is built before its tensors are compared with it, without memory for its parameters, but each layer takes time,
and each table of positions takes memory. No published model comes near these bounds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm2clip_search.base.files import open_regular
from llm2clip_search.errors import ModelError

LARGEST_CONFIG = 16 << 20
"""Bytes of a config.json that are read."""
_LAYERS, _WIDTH, _PIXELS, _TOKENS = 2_000, 1 << 20, 1 << 14, 1 << 24
LARGEST: Mapping[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "layers", "depth", "depths", "blocks"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "num_local_experts"), _LAYERS),
    **dict.fromkeys(("hidden_size", "intermediate_size", "head_dim", "projection_dim", "projection_size"), _WIDTH),
    **dict.fromkeys(("dim", "width", "embed_dim", "n_embd", "d_model", "num_classes"), _WIDTH),
    **dict.fromkeys(("image_size", "img_size", "patch_size", "num_channels", "in_chans"), _PIXELS),
    **dict.fromkeys(("height", "resize_to"), _PIXELS),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions", "max_tokens"), _TOKENS),
    **dict.fromkeys(("block_count", "head_count", "head_count_kv", "expert_count"), _LAYERS),
    **dict.fromkeys(("embedding_length", "feed_forward_length", "key_length", "value_length"), _WIDTH),
    "context_length": _TOKENS,
    "expansion": 1_000,
    "mlp_ratio": 1_000,
}
"""By the names that transformers, timm, GGUF files and this project give them, wherever they stand."""


def check_sizes(raw: Any, path: Path) -> None:
    """Refuse a configuration with sizes beyond `LARGEST`.

    Args:
        raw: what JSON holds.
        path: where it comes from, for the error.

    Raises:
        ModelError: a size is negative, too large or not a number; the message has its name and both numbers.
    """
    waiting = [raw]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            for name, value in each.items():
                if name in LARGEST:
                    _check(name, value, path)
            waiting += each.values()
        elif isinstance(each, list | tuple):
            waiting += each


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a transformers folder, whose sizes are within `LARGEST`.

    Raises:
        ModelError: it cannot be read, is no JSON object, or states a size beyond that.
    """
    try:
        with open_regular(path) as file:
            raw = json.loads(file.read(LARGEST_CONFIG))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or type(error).__name__}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path} is not a configuration of a model: it holds a {type(raw).__name__}.")
    check_sizes(raw, path)
    return raw


def _check(name: str, value: Any, path: Path) -> None:
    for each in value if isinstance(value, list | tuple) else [value]:
        if each is None or isinstance(each, Mapping | list | tuple):
            continue
        if not isinstance(each, int | float) or not 0 <= each <= LARGEST[name]:
            raise ModelError(f"{path} states {name} = {each!r:.40}, but it is a number from 0 to {LARGEST[name]:,}.")
