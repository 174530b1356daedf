"""A tiny model folder with real towers and random weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm2clip_search.encoders.config import AdaptorConfig, ModelConfig, PreprocessConfig, TextConfig, VisionConfig

CAPTIONS = [
    "A black dog runs through the snow.",
    "Two children play in the shallow water of a lake.",
    "A man in a red jacket climbs a wet rock.",
    "Ein kleines Mädchen geht in ein Holzhaus.",
    "一个小女孩走进木屋。",
]


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE with all bytes, so that no text is out of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def save_llm(folder: Path, *, width: int = 32) -> None:
    """A two-block Llama, saved by transformers."""
    import torch

    from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    LlamaModel(config).save_pretrained(folder)


def save_model(
    folder: Path, *, seed: int = 0, width: int = 32, architecture: str = "test_vit", side: int | None = None
) -> Path:
    """A model folder with one of timm's smallest towers, the tiny Llama of some width, and random heads.

    Args:
        side: of the images that a ViT is built for, if not the architecture's own.
    """
    import torch
    from safetensors.torch import save_file

    from llm2clip_search.encoders.adaptor import Adaptor
    from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    import timm

    folder.mkdir(parents=True, exist_ok=True)
    save_llm(folder / "llm", width=width)
    save_tokenizer(folder)
    torch.manual_seed(seed)
    options: dict[str, Any] = {"img_size": side} if side else {}
    backbone: Any = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    adaptor = Adaptor(width, 16, AdaptorConfig(blocks=1))
    projection = torch.nn.Linear(backbone.num_features, 16)
    tensors = {f"vision.backbone.{n}": t for n, t in backbone.state_dict().items()}
    tensors |= {f"vision.projection.{n}": t for n, t in projection.state_dict().items()}
    tensors |= {f"text.adaptor.{n}": t for n, t in adaptor.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = ModelConfig(
        name=f"dir:{folder}",
        dim=16,
        vision=VisionConfig(
            library="timm",
            architecture=architecture,
            weights=None,
            options=options,
            projection=True,
            preprocess=PreprocessConfig(height=side or 160, width=side or 160),
        ),
        text=TextConfig(library="llm", weights="dir:llm", max_tokens=24, adaptor=AdaptorConfig(blocks=1)),
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def add_querybank(folder: Path, *, strength: float, size: int = 6) -> None:
    """Give a model of `save_model` querybank normalisation of both towers, with random banks."""
    import torch
    from safetensors.torch import load_file, save_file

    from llm2clip_search.encoders.querybank import QuerybankNorm

    config = ModelConfig.read(folder / "config.json")
    images, captions = torch.nn.functional.normalize(torch.randn(2, size, config.dim), dim=2)
    tensors = load_file(folder / "model.safetensors")
    for norm in (
        QuerybankNorm.fit("vision", strength, own=images, bank=captions, scale=20.0),
        QuerybankNorm.fit("text", strength, own=captions, bank=images, scale=20.0),
    ):
        tensors |= norm.tensors()
    save_file(tensors, folder / "model.safetensors")
    changed = replace(config, dim=config.dim + 2, querybank=strength)
    (folder / "config.json").write_text(json.dumps(changed.to_dict()))
