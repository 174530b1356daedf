"""What tests share: a tiny model with the real towers' shape, random weights and no download."""

import json
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: threads of their own would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm2clip_search.encoders import Encoder, load_encoder
from llm2clip_search.encoders.config import AdaptorConfig, ModelConfig, PreprocessConfig, TextConfig, VisionConfig
from llm2clip_search.encoders.registry import resolve

CAPTIONS = [
    "A black dog runs through the snow.",
    "Two children play in the shallow water of a lake.",
    "A man in a red jacket climbs a wet rock.",
    "Ein kleines Mädchen geht in ein Holzhaus.",
    "一个小女孩走进木屋。",
]

RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def offline_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled towers of tiny models go to a scratch cache; the hub is never asked."""
    os.environ["LLM2CLIP_CACHE"] = os.environ.get("LLM2CLIP_TEST_CACHE") or str(tmp_path_factory.mktemp("cache"))
    os.environ["HF_HUB_OFFLINE"] = "1"


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE that knows every byte, so that no text is out of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def save_llm(folder: Path) -> None:
    """A two-block Llama of transformers' own making."""
    import torch

    from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    LlamaModel(config).save_pretrained(folder)


def save_model(folder: Path, *, seed: int = 0) -> Path:
    """A model folder: timm's smallest ViT, the tiny Llama, random heads."""
    import torch
    from safetensors.torch import save_file

    from llm2clip_search.encoders.adaptor import Adaptor
    from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    import timm

    folder.mkdir(parents=True, exist_ok=True)
    save_llm(folder / "llm")
    save_tokenizer(folder)
    torch.manual_seed(seed)
    backbone = timm.create_model("test_vit", pretrained=False, num_classes=0)
    adaptor = Adaptor(32, 16, AdaptorConfig(blocks=1))
    projection = torch.nn.Linear(64, 16)
    tensors = {f"vision.backbone.{n}": t for n, t in backbone.state_dict().items()}
    tensors |= {f"vision.projection.{n}": t for n, t in projection.state_dict().items()}
    tensors |= {f"text.adaptor.{n}": t for n, t in adaptor.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = ModelConfig(
        name=f"dir:{folder}",
        dim=16,
        vision=VisionConfig(
            library="timm",
            architecture="test_vit",
            weights=None,
            projection=True,
            preprocess=PreprocessConfig(height=160, width=160),
        ),
        text=TextConfig(library="llm", weights="dir:llm", max_tokens=24, adaptor=AdaptorConfig(blocks=1)),
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose towers are real and small."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_encoder(tiny_model: Path) -> Encoder:
    """The tiny model in torch, ready."""
    return load_encoder(f"dir:{tiny_model}", runtime="torch", device="cpu")


def photograph(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A smooth picture that no other seed gives: coloured gradients, so that codecs keep its gist."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of twelve images in two subfolders."""
    folder = tmp_path / "images"
    for number in range(12):
        place = folder / ("2024" if number % 2 else "2023")
        place.mkdir(parents=True, exist_ok=True)
        photograph(number, size=(64 + 4 * number, 48)).save(place / f"photo-{number:02d}.png")
    return folder


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """The real command in a subprocess, in the test's own folder."""

    def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from llm2clip_search.cli.app import main; main()", *map(str, arguments)],
            cwd=cwd or tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "COLUMNS": "200"},
        )

    return run


class ColourEncoder(Encoder):
    """Stands in for the towers where only what is around them is tested: an image is its coarse colours,
    a caption a hash of its words. Counts what it embeds."""

    def __init__(self, model: Path, dim: int = 16) -> None:
        super().__init__(resolve(f"dir:{model}"), runtime="torch", device="cpu")
        self.dim = dim
        self.embedded = 0

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        self.embedded += len(pixels)
        if len(pixels) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        coarse = pixels[:, 20::40, 20::40, :].reshape(len(pixels), -1).astype(np.float32)[:, : self.dim] - 127.5
        unit: np.ndarray = coarse / np.maximum(np.linalg.norm(coarse, axis=1, keepdims=True), 1e-6)
        return unit

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        rows = [np.random.default_rng(sum(text.encode())).normal(size=self.dim) for text in texts]
        vectors = np.array(rows, dtype=np.float32).reshape(-1, self.dim)
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@pytest.fixture
def colours(tiny_model: Path) -> ColourEncoder:
    """A fresh counting encoder."""
    return ColourEncoder(tiny_model)
