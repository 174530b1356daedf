"""Train the projection and the adaptor of two frozen towers with the CLIP loss.

The towers run once over the data; what is trained sees only their pooled features, so that a large
batch fits anywhere and an epoch takes a second.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from llm2clip_search.benchmarks.flickr8k import Captions, iter_images, read_captions
from llm2clip_search.benchmarks.metrics import retrieval_recalls
from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.images import to_pixels
from llm2clip_search.encoders.llm import CaptionLLM, load_llm, save_tokenizer
from llm2clip_search.encoders.tokenization import LLMTokenizer
from llm2clip_search.encoders.vision import VisionTower, build_vision_tower
from llm2clip_search.errors import ModelError

Report = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and how much there is."""


@dataclass(frozen=True, kw_only=True)
class HeadsRecipe:
    """What decides a run; the same recipe on the same data gives the same heads."""

    model: ModelConfig
    epochs: int
    batch_size: int
    """Images a step, each with one of its captions drawn at random."""
    learning_rate: float
    """Peak of a one-cycle schedule with a tenth of warm-up."""
    weight_decay: float
    vision_dropout: float
    """On the vision tower's features."""
    text_dropout: float
    """In the adaptor's blocks and before its projection."""
    temperature: float = 0.07
    """At the start; it is learnt, and at least 0.01."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Features:
    """A split through the frozen towers."""

    images: torch.Tensor
    """float32 ``[n_images, width]``."""
    captions: torch.Tensor
    """float32 ``[n_captions, width]``, pooled states."""
    image_of: torch.Tensor
    """int64 ``[n_captions]``, rows of ``images``."""


def train_heads(
    recipe: HeadsRecipe, *, data: Path, out: Path, langs: Sequence[str] = ("en",), report: Report
) -> dict[str, float]:
    """Train on Flickr8k's train split and write a model folder; returns recalls on its dev split.

    Args:
        data: folder of ``flickr8k-{train,dev}-NNN.tar`` and ``captions.csv.gz``.
        out: the model folder to write: ``config.json``, ``model.safetensors``, ``tokenizer.json``.
        langs: languages of the captions that are trained on.

    Raises:
        CorpusError: data that is not there.
        ModelError: weights that cannot be fetched, or a loss that is no number.
    """
    assert recipe.model.text.weights is not None, "an LLM text tower names its weights"
    out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(recipe.model.text.weights, out)
    train = extract(recipe.model, data, split="train", langs=langs, tokenizer=out, report=report)
    dev = extract(recipe.model, data, split="dev", langs=("en",), tokenizer=out, report=report)
    torch.manual_seed(recipe.seed)
    heads = Heads(recipe, train)
    recalls = heads.fit(train, dev, report)
    heads.save(out)
    return recalls


class Heads:
    """A linear projection for images, an adaptor for captions, and the temperature between them."""

    def __init__(self, recipe: HeadsRecipe, train: Features) -> None:
        config, adaptor = recipe.model, recipe.model.text.adaptor
        if adaptor is None or not config.vision.projection:
            raise ModelError(f"Recipe {config.name!r} trains heads, but its model has no adaptor or no projection.")
        self.recipe = recipe
        self.projection = nn.Linear(train.images.shape[1], config.dim)
        self.adaptor = Adaptor(train.captions.shape[1], config.dim, adaptor)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1.0 / recipe.temperature)))
        self.mean, self.std = train.images.mean(0), train.images.std(0) + 1e-3
        if self.adaptor.standardised:
            self.adaptor.input_mean.copy_(train.captions.mean(0))
            self.adaptor.input_std.copy_(train.captions.std(0) + 1e-4)

    def fit(self, train: Features, dev: Features, report: Report) -> dict[str, float]:
        """Run the recipe; returns recalls on ``dev``."""
        recipe, count = self.recipe, len(train.images)
        batch = min(recipe.batch_size, count)
        steps = recipe.epochs * (count // batch)
        decayed = [*self.projection.parameters(), *self.adaptor.parameters()]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": [self.log_scale], "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=steps + 1, pct_start=0.1
        )
        by_image = torch.argsort(train.image_of, stable=True)
        starts = torch.searchsorted(train.image_of[by_image], torch.arange(count + 1))
        have = starts[1:] - starts[:-1]
        if int(have.min()) == 0:
            raise ModelError(f"{int((have == 0).sum())} of {count} training images have no caption.")
        images = (train.images - self.mean) / self.std
        step = 0
        for _ in range(recipe.epochs):
            order = torch.randperm(count)
            for first in range(0, count - batch + 1, batch):
                rows = order[first : first + batch]
                drawn = by_image[starts[rows] + (torch.rand(len(rows)) * have[rows]).long()]
                loss = self._loss(images[rows], train.captions[drawn])
                if not torch.isfinite(loss):
                    raise ModelError(f"The loss is {loss.item()} at step {step}; nothing was written.")
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                step += 1
            report(f"training, loss {loss.item():.3f}", step, steps)
        return self.evaluate(dev)

    def _loss(self, images: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """Symmetric InfoNCE over the batch (Radford et al. 2021, section 2.3)."""
        image = F.normalize(self.projection(F.dropout(images, self.recipe.vision_dropout)), dim=-1)
        caption = F.normalize(self._adapt(captions, self.recipe.text_dropout), dim=-1)
        logits = self.log_scale.exp().clamp(max=100.0) * caption @ image.T
        own = torch.arange(len(logits))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2.0

    def _adapt(self, captions: torch.Tensor, dropout: float) -> torch.Tensor:
        """`Adaptor.forward` with dropout on each branch and before the projection."""
        adaptor = self.adaptor
        x = adaptor.normalise_input(captions)
        for block in adaptor.blocks:
            x = x + F.dropout(block(x) - x, dropout)
        projected: torch.Tensor = adaptor.projection(F.dropout(adaptor.norm(x), dropout))
        return projected

    @torch.inference_mode()
    def evaluate(self, features: Features) -> dict[str, float]:
        """Recalls of the heads as they are."""
        images = F.normalize(self.projection((features.images - self.mean) / self.std), dim=-1)
        captions = F.normalize(self.adaptor(features.captions), dim=-1)
        return retrieval_recalls(images.numpy(), captions.numpy(), features.image_of.numpy())

    def save(self, out: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; tensors in half precision, scaling folded in."""
        from safetensors.torch import save_file

        weight = self.projection.weight / self.std
        tensors = {
            "vision.projection.weight": weight,
            "vision.projection.bias": self.projection.bias - weight @ self.mean,
            **{f"text.adaptor.{name}": tensor for name, tensor in self.adaptor.state_dict().items()},
        }
        # Statistics of the states span five orders of magnitude: they stay in single precision.
        exact = ("text.adaptor.input_mean", "text.adaptor.input_std", "vision.projection.bias")
        save_file(
            {
                name: (tensor.detach() if name in exact else tensor.detach().half()).contiguous()
                for name, tensor in tensors.items()
            },
            out / "model.safetensors",
        )
        (out / "config.json").write_text(json.dumps(self.recipe.model.to_dict(), indent=1) + "\n", encoding="utf-8")


def extract(
    config: ModelConfig, data: Path, *, split: str, langs: Sequence[str], tokenizer: Path, report: Report
) -> Features:
    """Run the frozen towers over a split."""
    captions = [read_captions(data, split=split, lang=lang) for lang in langs]
    texts = Captions(
        texts=[text for part in captions for text in part.texts],
        image_ids=[image for part in captions for image in part.image_ids],
    )
    names, images = _image_features(config, data, split, report)
    return Features(
        images=images,
        captions=_caption_features(config, texts.texts, tokenizer, report),
        image_of=torch.from_numpy(texts.rows_in(names)),
    )


@torch.inference_mode()
def _image_features(config: ModelConfig, data: Path, split: str, report: Report) -> tuple[list[str], torch.Tensor]:
    """Backbone features, before any projection, with the images' ids."""
    backbone = build_vision_tower(_without_projection(config).vision, dim=config.dim, folder=None, tensors={})
    names: list[str] = []
    parts: list[torch.Tensor] = []
    batch: list[np.ndarray] = []

    def flush(tower: VisionTower) -> None:
        parts.append(tower.features(torch.from_numpy(np.stack(batch))))
        batch.clear()
        report(f"images of {split}", len(names), 0)

    for name, image in iter_images(data, split=split):
        names.append(name)
        batch.append(to_pixels(image, config.vision.preprocess))
        if len(batch) == 64:
            flush(backbone)
    if batch:
        flush(backbone)
    return names, torch.cat(parts)


def _without_projection(config: ModelConfig) -> ModelConfig:
    return replace(config, vision=replace(config.vision, projection=False))


@torch.inference_mode()
def _caption_features(config: ModelConfig, texts: Sequence[str], tokenizer: Path, report: Report) -> torch.Tensor:
    """Pooled states, batches by length."""
    assert config.text.weights is not None, "an LLM text tower names its weights"
    tokenize = LLMTokenizer(tokenizer, config.text)
    llm = CaptionLLM(load_llm(config.text.weights), config.text).eval()
    out = torch.empty(len(texts), llm.width)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for start in range(0, len(order), 128):
        rows = order[start : start + 128]
        tokens = tokenize([texts[row] for row in rows])
        out[torch.from_numpy(rows)] = llm(*(torch.from_numpy(array) for array in tokens))
        report("captions", min(start + 128, len(texts)), len(texts))
    return out
