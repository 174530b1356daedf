"""A CLIP model of open_clip that is small enough for tests."""

import json
from pathlib import Path

from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

ARCHITECTURE = {
    "embed_dim": 20,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def save_open_clip(folder: Path, architecture: str) -> Path:
    """Register the architecture under a name and save random weights; returns their file."""
    ensure_torchvision()
    import open_clip
    import torch
    from safetensors.torch import save_file

    (folder / f"{architecture}.json").write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    weights = folder / f"{architecture}.safetensors"
    save_file(open_clip.create_model(architecture).state_dict(), weights)
    return weights
