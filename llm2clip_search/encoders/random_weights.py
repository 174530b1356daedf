"""Checkpoints with random weights, for measurements of speed: it does not depend on the values, and no hub is asked."""

from pathlib import Path
from typing import Any

import torch

from llm2clip_search.encoders.torchvision_ops import ensure_torchvision


def write_random_weights(architecture: str, path: Path) -> Any:
    """Write a safetensors file of one of open_clip's architectures, the same each time; returns the model."""
    ensure_torchvision()
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model(architecture).eval()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return model
