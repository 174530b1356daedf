"""Stage 2: train a vision tower and an adaptor on images and stored caption embeddings with the CLIP loss.

The LLM does not run in this stage (Huang et al., section 3.2). Caption embeddings come from a caption store, so the
cost of a step is that of its images, however large the LLM is.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from llm2clip_search.base.identity import json_sha256
from llm2clip_search.base.progress import Progress
from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.placement import TowerName
from llm2clip_search.encoders.querybank import QuerybankNorm
from llm2clip_search.encoders.vision import build_vision_tower
from llm2clip_search.evaluation.metrics import retrieval_recalls
from llm2clip_search.training.data.augmentation import Augmentation
from llm2clip_search.training.data.image_captions import ImageBatch, ImageCaptionSampler
from llm2clip_search.training.data.image_pixels import ImagePixels
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.gradcache import backward_in_parts
from llm2clip_search.training.runtime.loop import LoopRecipe, ParameterGroup
from llm2clip_search.training.runtime.plots import Similarities
from llm2clip_search.training.runtime.seeds import generator, seed_torch
from llm2clip_search.training.runtime.sharding import distribute_module
from llm2clip_search.training.tasks.clip_data import ClipData, Dev
from llm2clip_search.training.tasks.distillation import Distillation, distillation_loss, require_clip_space
from llm2clip_search.training.tasks.losses import clip_loss, require_negatives, shared_positives, siglip_loss
from llm2clip_search.training.tasks.projection_heads import ProjectionHeads
from llm2clip_search.training.tasks.vision_features import VisionFeatures
from llm2clip_search.training.tasks.vision_training import (
    VisionTraining,
    blocks_of,
    mark_trained,
    trained_groups,
    trained_tensors,
)

STATISTICS_IMAGES = 1024
"""Number of images that the statistics of vision features are computed from."""


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """Stage 2, except for the data and the LLM."""

    model: ModelConfig
    """The model to train; the LLM of its text tower is replaced by that of the caption store."""
    loop: LoopRecipe
    batch_size: int
    """Images per step, over all ranks."""
    micro_batch: int
    """Images in one forward pass of the vision tower."""
    gradient_cache: bool = False
    """Embed twice and keep the graph of only one micro-batch in memory; see `gradcache`."""
    loss: Literal["clip", "siglip"] = "clip"
    temperature: float = 0.07
    """Initial temperature; it is learned, with a minimum of 0.01."""
    captions_per_image: int = 1
    """Captions per image and step. Each is compared in a contrastive batch of its own; the images are embedded once
    for all of them."""
    long_ratio: float = 0.5
    """Probability of a long caption for images with captions of both length classes."""
    lang_weights: Mapping[str, float] = field(default_factory=dict)
    """Sampling weights of captions by language; languages not listed have weight 1."""
    vision: VisionTraining = field(default_factory=VisionTraining)
    keep: Distillation | None = None
    """Distillation that preserves CLIP's knowledge; None for none."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    kept_views: int = 0
    """Cached views per image: augmented views that pass through the frozen prefix of the vision tower once, before
    training. Each step uses one of them. 0 draws a new view every time and runs the whole tower."""
    vision_dropout: float = 0.0
    """Dropout on the vision tower's features."""
    text_dropout: float = 0.0
    """Dropout in the adaptor's blocks and before its projection."""
    querybank_size: int = 2000
    """Size of the querybank, if the model has one: training images, with one caption each, a long one if there is
    any. Long captions gain most from the querybank; banks of short or mixed captions help them less."""
    caption_noise: float = 0.0
    """Standard deviation of Gaussian noise on caption embeddings, relative to their own standard deviation."""
    bf16: bool = False
    max_missing: float = 0.01
    """Largest accepted fraction of images without captions, and of captioned images that are missing; both are
    skipped."""

    def __post_init__(self) -> None:
        if self.model.querybank and self.querybank_size < 1:
            raise ValueError(f"querybank_size is {self.querybank_size}, but the model's querybank needs at least 1")
        if self.keep is not None:
            require_clip_space(self.model, self.keep, self.loop.steps)


class ClipTask:
    """The task of stage 2; see `loop.Task`."""

    def __init__(
        self,
        recipe: ClipRecipe,
        data: ClipData,
        *,
        world: World,
        scratch: Path,
        progress: Progress,
    ) -> None:
        """Load the vision tower and set up the heads.

        Args:
            scratch: folder for cached views, which are of no use after training.
        """
        captioned, captions, store = data.captioned, data.captions, data.store
        self.recipe, self.store, self.dev, self.world = recipe, store, data.dev, world
        self.data = ImageCaptionSampler(
            captioned,
            captions,
            batch_size=recipe.batch_size,
            captions_per_image=recipe.captions_per_image,
            long_ratio=recipe.long_ratio,
            lang_weights=recipe.lang_weights,
            seed=recipe.loop.seed,
        )
        self._drawn: tuple[int, ImageBatch] | None = None
        self.samples_per_step = self.data.batch_size
        self.caption_ids = captions["caption_id"].to_numpy()
        self.positions = store.positions(self.caption_ids)
        self.is_long = np.array(captions["length"].to_pylist()) == "long"
        model = recipe.model
        without_projection = replace(model.vision, projection=False)
        tower = build_vision_tower(without_projection, dim=model.tower_dim, folder=None, tensors={}).to(world.device)
        mark_trained(tower.backbone, recipe.vision, recipe.loop.seed)
        distils = recipe.keep is not None and recipe.keep.vision > 0.0
        original = copy.deepcopy(tower.backbone) if distils else None  # before sharding, which prevents copies
        distribute_module(tower.backbone, blocks_of(tower.backbone), world)
        self.vision_groups = trained_groups(tower.backbone, recipe.vision)
        pixels = ImagePixels(
            data.files, model.vision.preprocess, recipe.augmentation, captions["caption"].to_pylist(), recipe.loop.seed
        )
        self.vision = VisionFeatures(tower, captioned, pixels, micro_batch=recipe.micro_batch, bf16=recipe.bf16)
        if original is not None:
            self.vision.keep_original(original)
        sample = self.vision.features_of(captioned.image_ids[:STATISTICS_IMAGES])
        self.caption_width = store.info.width - (0 if model.text.clip else store.info.clip_width)
        assert model.text.adaptor is not None, "a recipe's model has an adaptor"
        torch.manual_seed(recipe.loop.seed)
        self.heads = ProjectionHeads(
            sample,
            self.caption_width,
            model.tower_dim,
            model.text.adaptor,
            temperature=recipe.temperature,
            projects=model.vision.projection,
            vision_dropout=recipe.vision_dropout,
            text_dropout=recipe.text_dropout,
        ).to(world.device)
        if recipe.kept_views:
            self._cache_views(scratch, progress)

    def _cache_views(self, scratch: Path, progress: Progress) -> None:
        recipe = self.recipe
        inputs = [recipe.kept_views, recipe.loop.seed, asdict(recipe.augmentation), asdict(recipe.vision)]
        name = json_sha256([*inputs, asdict(recipe.model.vision), self.vision.captioned.image_ids])[:16]
        path = scratch / f"views-{name}.npy"
        if self.world.is_main:
            self.vision.cache_views(recipe.kept_views, path, progress)
        self.world.barrier()
        self.vision.cache_views(recipe.kept_views, path, progress)

    def groups(self) -> list[ParameterGroup]:
        heads = dict(self.heads.named_parameters(prefix="heads"))
        # Only the gathered loss uses these, so every rank computes their complete gradient.
        complete = {name: heads.pop(name) for name in ("heads.log_scale", "heads.bias")}
        return [
            *self.vision_groups,
            ParameterGroup(parameters=heads),
            ParameterGroup(parameters=complete, complete=True),
        ]

    def backward(self, step: int) -> dict[str, float]:
        batch = self._batch(step)
        count, own = len(batch.images), self.world.slice(len(batch.images))
        require_negatives(torch.from_numpy(batch.images))
        parts = self._parts(batch)
        captions = self._stored_embeddings(batch, own, step)
        self.heads.train()
        keep = self.recipe.keep
        if keep is not None and step < keep.text_steps:
            return self._distill_clip_texts(keep, captions, batch, own, step)
        originals: dict[int, torch.Tensor] = {}

        def encode(part: int) -> torch.Tensor:
            seed_torch(self.recipe.loop.seed, step, "image dropout", int(parts[part][0]))
            outputs = self.vision.prefix_outputs(batch, parts[part], step)
            if part + 1 < len(parts):
                self.vision.begin(batch, parts[part + 1], step)
            else:
                self._begin(step + 1)
            if keep is not None and keep.vision and part not in originals:
                originals[part] = F.normalize(self.vision.original_features(outputs), dim=-1)
            return self.heads.image_vectors(self.vision.features(outputs))

        def loss_of(images: torch.Tensor) -> torch.Tensor:
            # The adaptor runs as part of the loss, because its graph is small; gradient caching is for the images.
            seed_torch(self.recipe.loop.seed, step, "caption dropout", own.start)
            everyone = self.world.gather(images, count)
            losses = [
                self._loss(everyone, self.world.gather(self.heads.caption_vectors(embedded), count), rows)
                for embedded, rows in zip(captions, batch.captions.T, strict=True)
            ]
            loss = torch.stack(losses).mean()
            if keep is not None and keep.vision:
                before = torch.cat([originals[part] for part in range(len(parts))])
                original = self.world.gather(before, count)
                loss = loss + keep.vision * distillation_loss(everyone, original, keep.structure)
            return loss

        loss = backward_in_parts(encode, len(parts), loss_of, cache=self.recipe.gradient_cache)
        return {"loss": float(loss), "temperature": float(1.0 / self.heads.scale.detach())}

    def _batch(self, step: int) -> ImageBatch:
        """The batch of a step; the last one is kept, because `_begin` draws it before its step."""
        if self._drawn is None or self._drawn[0] != step:
            self._drawn = step, self.data.draw(step)
        return self._drawn[1]

    def _parts(self, batch: ImageBatch) -> list[np.ndarray]:
        """The rows of a batch in each of this rank's micro-batches."""
        count, own = len(batch.images), self.world.slice(len(batch.images))
        number = self.world.num_micro_batches(count, size=self.recipe.micro_batch)
        return np.array_split(np.arange(own.start, own.stop), number)

    def _begin(self, step: int) -> None:
        """Begin to decode the first images of a step while the one before is computed."""
        if step < self.recipe.loop.steps:
            batch = self._batch(step)
            self.vision.begin(batch, self._parts(batch)[0], step)

    def _distill_clip_texts(
        self, keep: Distillation, captions: list[torch.Tensor], batch: ImageBatch, own: slice, step: int
    ) -> dict[str, float]:
        """A warm-up step: train only the adaptor, towards the embeddings of CLIP's text tower."""
        count = len(batch.images)
        seed_torch(self.recipe.loop.seed, step, "caption dropout", own.start)
        losses = []
        for embedded, rows in zip(captions, batch.captions[own].T, strict=True):
            stored = torch.from_numpy(self.store.embeddings(self.positions[rows])[:, -self.store.info.clip_width :])
            clip = F.normalize(stored.float().to(self.world.device), dim=-1)
            learnt = self.world.gather(self.heads.caption_vectors(embedded), count)
            losses.append(distillation_loss(learnt, self.world.gather(clip, count), keep.structure))
        loss = torch.stack(losses).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": float(loss.detach()), "temperature": float(1.0 / self.heads.scale.detach())}

    def _loss(self, images: torch.Tensor, captions: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """The contrastive loss, in which equal captions of two images are not negatives of each other."""
        same = shared_positives(torch.from_numpy(self.caption_ids[rows])).to(images.device)
        if self.recipe.loss == "siglip":
            return siglip_loss(images, captions, self.heads.scale, self.heads.bias, same)
        return clip_loss(images, captions, self.heads.scale, same)

    def _stored_embeddings(self, batch: ImageBatch, own: slice, step: int) -> list[torch.Tensor]:
        """Stored embeddings of this rank's captions: a tensor ``[n, width]`` for each of the captions per image."""
        out = []
        for number, rows in enumerate(batch.captions[own].T):
            vectors = torch.from_numpy(self.store.embeddings(self.positions[rows])[:, : self.caption_width]).float()
            if self.recipe.caption_noise:
                noise = generator(self.recipe.loop.seed, step, "caption noise", number, own.start)
                normal = torch.from_numpy(noise.standard_normal(vectors.shape, dtype=np.float32))
                vectors = vectors + self.recipe.caption_noise * vectors.std(dim=1, keepdim=True) * normal
            out.append(vectors.to(self.world.device))
        return out

    def evaluate(self) -> dict[str, float]:
        """Recalls by dev split and language, and ``mean_recall``, which comes first and selects checkpoints.

        It is the mean over the splits, each by its first language, so that a large split does not outweigh the others.
        """
        figures: dict[str, float] = {}
        norms = self._querybank() if self.dev else {}
        for dev in self.dev:
            images, captions = self._dev_vectors(dev, dev.captions, norms)
            for lang, (vectors, image_of) in captions.items():
                recalls = retrieval_recalls(images, vectors, image_of)
                figures[f"{dev.name}/{lang}/mean_recall"] = sum(recalls.values()) / len(recalls)
                figures |= {f"{dev.name}/{lang}/{name}": value for name, value in recalls.items()}
        if not figures:
            return {}
        first = [figures[f"{dev.name}/{next(iter(dev.captions))}/mean_recall"] for dev in self.dev]
        return {"mean_recall": sum(first) / len(first)} | figures

    @torch.no_grad()
    def embed_dev_images(self, dev: Dev) -> np.ndarray:
        """Embed a split's images, without querybank normalisation: float32 ``[n, tower_dim]``, L2-normalised."""
        self.heads.eval()
        features = self.vision.features_of(dev.image_ids, dev.files, keep=True)
        vectors: np.ndarray = self.heads.image_vectors(features).cpu().numpy()
        return vectors

    def embed_dev_captions(self, dev: Dev, lang: str) -> tuple[np.ndarray, np.ndarray]:
        """Embed a split's captions in a language, without querybank normalisation.

        Returns:
            float32 ``[n, tower_dim]``, L2-normalised, and int64 ``[n]``, the index of each caption's image.
        """
        embedded, image_of = dev.captions[lang]
        return self._embed_stored(embedded).cpu().numpy(), image_of

    def _embed_rows(self, rows: np.ndarray) -> torch.Tensor:
        """Embed training captions, given by their rows in the caption table: float32 ``[n, tower_dim]``."""
        return self._embed_stored(self.store.embeddings(self.positions[rows]))

    @torch.no_grad()
    def _embed_stored(self, embedded: np.ndarray) -> torch.Tensor:
        """Map stored embeddings ``[n, store width]`` to float32 ``[n, tower_dim]``, L2-normalised."""
        self.heads.eval()
        own = torch.from_numpy(embedded[:, : self.caption_width]).float()
        return self.heads.caption_vectors(own.to(self.world.device))

    @torch.no_grad()
    def _querybank(self) -> dict[TowerName, QuerybankNorm]:
        """Querybank normalisation of both towers for the current weights; empty if the model has none."""
        strength, captioned = self.recipe.model.querybank, self.vision.captioned
        if not strength:
            return {}
        self.heads.eval()
        draws, size = generator(self.recipe.loop.seed, 0, "querybank"), self.recipe.querybank_size
        chosen = draws.permutation(len(captioned.image_ids))[:size]
        captions = self._embed_rows(np.array([self._bank_caption(draws, int(image)) for image in chosen]))
        features = self.vision.features_of([captioned.image_ids[image] for image in chosen], keep=True)
        images = self.heads.image_vectors(features)
        scale = float(self.heads.scale)
        return {
            "vision": QuerybankNorm.fit("vision", strength, own=images, bank=captions, scale=scale),
            "text": QuerybankNorm.fit("text", strength, own=captions, bank=images, scale=scale),
        }

    def _bank_caption(self, draws: np.random.Generator, image: int) -> int:
        """Draw the row of one of an image's captions, a long one if there is any."""
        rows = self.vision.captioned.caption_rows[image]
        long = rows[self.is_long[rows]]
        return int(draws.choice(long if len(long) else rows))

    def _dev_vectors(
        self, dev: Dev, langs: Iterable[str], norms: Mapping[TowerName, QuerybankNorm]
    ) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Vectors of a split as the finished encoder returns them, with querybank normalisation.

        Returns:
            The images' vectors, and by language the captions' vectors with the index of each caption's image.
        """

        def normalised(tower: TowerName, vectors: np.ndarray) -> np.ndarray:
            if not norms:
                return vectors
            out: np.ndarray = norms[tower](torch.from_numpy(vectors).to(self.world.device)).cpu().numpy()
            return out

        captions = {lang: self.embed_dev_captions(dev, lang) for lang in langs}
        return normalised("vision", self.embed_dev_images(dev)), {
            lang: (normalised("text", vectors), image_of) for lang, (vectors, image_of) in captions.items()
        }

    def similarities(self) -> Similarities | None:
        """Similarities of the first split's images with captions of its first language; None without a dev split."""
        if not self.dev:
            return None
        images, by_lang = self._dev_vectors(self.dev[0], list(self.dev[0].captions)[:1], self._querybank())
        ((captions, image_of),) = by_lang.values()
        return Similarities.between(captions, images, image_of, np.arange(len(images)))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Tensors for the model folder: heads and trained parts of the backbone, matrices in float16; collective."""
        changed = trained_tensors(self.vision.tower.backbone)
        float16 = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in changed.items()}
        kept = {f"vision.backbone.{name}": tensor.cpu().contiguous() for name, tensor in float16.items()}
        tensors = self.heads.tensors() | kept
        for norm in self._querybank().values():
            tensors |= norm.tensors()
        return tensors
