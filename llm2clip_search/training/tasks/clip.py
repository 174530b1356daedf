"""Stage 2: train a vision tower and an adaptor on images and stored caption embeddings with the CLIP loss.

The LLM does not run in this stage (Huang et al., section 3.2). Caption embeddings come from a caption store, so the
cost of a step is that of its images, however large the LLM is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from llm2clip_search.base.identity import json_sha256
from llm2clip_search.base.progress import Progress
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.placement import TowerName
from llm2clip_search.encoders.querybank import QuerybankNorm
from llm2clip_search.evaluation.metrics import RetrievalRanks, retrieval_ranks
from llm2clip_search.training.data.image_captions import ImageBatch, ImageCaptionSampler
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.gradcache import backward_in_parts
from llm2clip_search.training.runtime.micro_batches import MicroBatches
from llm2clip_search.training.runtime.parameter_groups import ParameterGroup
from llm2clip_search.training.runtime.seeds import generator, seed_torch
from llm2clip_search.training.tasks.anchored_heads import AnchoredHeads
from llm2clip_search.training.tasks.clip_data import ClipData, Dev, DevVectors
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.distillation import Distillation, distillation_loss
from llm2clip_search.training.tasks.hard_negative_mining import mined_neighbours
from llm2clip_search.training.tasks.losses import clip_loss, require_negatives, shared_positives, siglip_loss
from llm2clip_search.training.tasks.projection_heads import ProjectionHeads
from llm2clip_search.training.tasks.start_model import backbone_tensors, load_heads
from llm2clip_search.training.tasks.training_querybank import draw_querybank, fit_querybank, own_querybank
from llm2clip_search.training.tasks.vision_features import VisionFeatures, open_vision
from llm2clip_search.training.tasks.vision_training import trained_groups, trained_tensors

STATISTICS_IMAGES = 1024
"""Number of images that the statistics of vision features are computed from."""


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
        start: Model | None = None,
        vision: VisionFeatures | None = None,
    ) -> None:
        """Load the vision tower and set up the heads.

        Args:
            scratch: folder for cached views, which are of no use after training.
            start: the model to begin from; None for published base weights and fresh heads.
            vision: the tower as another task has opened it, for the same recipe and data but for what follows the
                tower; only of a frozen tower, whose features stay the same. By default it is opened here.
        """
        captioned, captions, store = data.captioned, data.captions, data.store
        self.start = start
        self.recipe, self.store, self.dev, self.world = recipe, store, data.dev, world
        self._progress = progress
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
        self.ranks: dict[str, RetrievalRanks] = {}
        """Ranks of the last evaluation, by split and language: ``val/en``."""
        self.evaluated: DevVectors | None = None
        """The vectors of the last evaluation, of the first split in its first language."""
        self.samples_per_step = self.data.batch_size
        self.micro_batches = MicroBatches(size=recipe.micro_batch, cached=recipe.gradient_cache)
        self.caption_ids = captions["caption_id"].to_numpy()
        self.positions = store.positions(self.caption_ids)
        self.is_long = np.array(captions["length"].to_pylist()) == "long"
        model = recipe.model
        self.vision = vision or open_vision(recipe, data, world=world, start=start)
        self.vision_groups = trained_groups(self.vision.tower.backbone, recipe.vision)
        sampled = captioned.image_ids[:STATISTICS_IMAGES]
        with self.vision.reporting(progress, "images for the statistics", len(sampled)):
            sample = self.vision.features_of(sampled, keep=recipe.vision.mode == "frozen")
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
        )
        if start is not None:
            load_heads(self.heads, start)
        self.heads.to(world.device)
        self._first_heads = {name: each.detach().clone() for name, each in self.heads.named_parameters()}
        self.anchored = AnchoredHeads(recipe.anchor, self.heads) if start and recipe.anchor else None
        if recipe.kept_views:
            self._cache_views(scratch, progress)
        if start is not None and recipe.hard_negatives is not None:
            neighbours = mined_neighbours(
                recipe.hard_negatives,
                vision=self.vision,
                heads=self.heads,
                embed=self._embed_rows,
                caption_ids=self.caption_ids,
                rows=self.data.drawn_rows,
                model=start.identity.fingerprint,
                scratch=scratch,
                world=world,
                progress=progress,
            )
            self.data.add_hard_negatives(neighbours, recipe.hard_negatives.share)

    def _cache_views(self, scratch: Path, progress: Progress) -> None:
        recipe = self.recipe
        inputs = [recipe.kept_views, self.vision.pixels.seed, asdict(recipe.augmentation), asdict(recipe.vision)]
        inputs += [self.start.identity.fingerprint] if self.start else []
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
        anchored = self.anchored
        originals: dict[int, torch.Tensor] = {}
        before: dict[int, torch.Tensor] = {}

        def encode(part: int) -> torch.Tensor:
            seed_torch(self.recipe.loop.seed, step, "image dropout", int(parts[part][0]))
            outputs = self.vision.prefix_outputs(batch, parts[part], step)
            if part + 1 < len(parts):
                self.vision.begin(batch, parts[part + 1], step)
            else:
                self._begin(step + 1)
            if keep is not None and keep.vision and part not in originals:
                originals[part] = F.normalize(self.vision.original_features(outputs), dim=-1)
            if anchored and anchored.anchor.images and part not in before:
                before[part] = anchored.image_vectors(self.vision.original_features(outputs))
            return self.heads.image_vectors(self.vision.features(outputs))

        def loss_of(images: torch.Tensor) -> torch.Tensor:
            # The adaptor runs as part of the loss, because its graph is small; gradient caching is for the images.
            seed_torch(self.recipe.loop.seed, step, "caption dropout", own.start)
            everyone = self.world.gather(images, count)
            vectors = [self.world.gather(self.heads.caption_vectors(embedded), count) for embedded in captions]
            losses = [self._loss(everyone, v, rows) for v, rows in zip(vectors, batch.captions.T, strict=True)]
            loss = torch.stack(losses).mean()

            def gathered(by_part: Mapping[int, torch.Tensor]) -> torch.Tensor:
                return self.world.gather(torch.cat([by_part[part] for part in range(len(parts))]), count)

            if keep is not None and keep.vision:
                loss = loss + keep.vision * distillation_loss(everyone, gathered(originals), keep.structure)
            if anchored:
                former = gathered(before) if before else None
                loss = loss + anchored.loss(everyone, former, vectors, captions, lambda v: self.world.gather(v, count))
            return loss

        loss = backward_in_parts(encode, len(parts), loss_of, cache=self.micro_batches.cached)
        return {"loss": float(loss), "temperature": float(1.0 / self.heads.scale.detach())}

    def _batch(self, step: int) -> ImageBatch:
        """The batch of a step; the last one is kept, because `_begin` draws it before its step."""
        if self._drawn is None or self._drawn[0] != step:
            self._drawn = step, self.data.draw(step)
        return self._drawn[1]

    def _parts(self, batch: ImageBatch) -> list[np.ndarray]:
        """The rows of a batch in each of this rank's micro-batches."""
        count, own = len(batch.images), self.world.slice(len(batch.images))
        number = self.world.num_micro_batches(count, size=self.micro_batches.size)
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

        It is the mean over the splits that select, each by its first language, so that a large split does not outweigh
        the others.
        """
        bank = min(self.recipe.querybank_size, len(self.vision.captioned.image_ids))
        total = sum(len(dev.image_ids) for dev in self.dev) + bank * bool(self.dev and self.recipe.model.querybank)
        with self.vision.reporting(self._progress, "images for the evaluation", total):
            return self._recalls()

    def _recalls(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        norms = self._querybank() if self.dev else {}
        for dev in self.dev:
            images, captions = self._dev_vectors(dev, dev.captions, norms)
            for lang, (vectors, image_of) in captions.items():
                self.ranks[f"{dev.name}/{lang}"] = ranks = retrieval_ranks(images, vectors, image_of)
                if dev is self.dev[0] and lang == next(iter(dev.captions)):
                    self.evaluated = DevVectors(dev=dev, lang=lang, images=images, captions=vectors, image_of=image_of)
                recalls = ranks.recalls()
                figures[f"{dev.name}/{lang}/mean_recall"] = sum(recalls.values()) / len(recalls)
                figures |= {f"{dev.name}/{lang}/{name}": value for name, value in recalls.items()}
        if not figures:
            return {}
        choosing = [dev for dev in self.dev if dev.selects]
        first = [figures[f"{dev.name}/{next(iter(dev.captions))}/mean_recall"] for dev in choosing]
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
        """Querybank normalisation of both towers for the current weights; empty if the model has none.

        With its first weights, the model that training begins from is as it was, its bank included: a new bank would
        hide in the metrics before the first step how much of their change comes from training.
        """
        recipe, captioned = self.recipe, self.vision.captioned
        if not recipe.model.querybank:
            return {}
        if self.start is not None and all(
            torch.equal(each, self._first_heads[name]) for name, each in self.heads.named_parameters()
        ):
            return own_querybank(self.start, device=self.world.device)
        self.heads.eval()
        chosen, rows = draw_querybank(
            captioned.caption_rows, self.is_long, size=recipe.querybank_size, seed=recipe.loop.seed
        )
        ids = [captioned.image_ids[image] for image in chosen]
        return fit_querybank(
            recipe.model.querybank,
            images=self.heads.image_vectors(self.vision.features_of(ids, keep=True)),
            captions=self._embed_rows(rows),
            scale=float(self.heads.scale),
            start=self.start,
        )

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

    def dev_vectors(self) -> DevVectors | None:
        """Vectors of the first split in its first language for the current weights; None without a dev split."""
        if not self.dev:
            return None
        images, by_lang = self._dev_vectors(self.dev[0], list(self.dev[0].captions)[:1], self._querybank())
        ((lang, (captions, image_of)),) = by_lang.items()
        return DevVectors(dev=self.dev[0], lang=lang, images=images, captions=captions, image_of=image_of)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Tensors for the model folder: heads and trained parts of the backbone, matrices in float16; collective."""
        changed = trained_tensors(self.vision.tower.backbone)
        inherited = backbone_tensors(self.start) if self.start else {}
        float16 = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in changed.items()}
        kept = {f"vision.backbone.{name}": tensor.cpu().contiguous() for name, tensor in float16.items()}
        tensors = self.heads.tensors() | inherited | kept
        for norm in self._querybank().values():
            tensors |= norm.tensors()
        return tensors
