"""Features of images, in training and on dev, with cached outputs of the tower's frozen prefix.

A cached view only has to pass through the trained blocks. `nano` trains the last two of seven stages, so its steps
skip the first five, which work on the largest feature maps.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from llm2clip_search.base.files import remove_leftovers, replaced_file
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.towers import PIXELS_AT_ONCE
from llm2clip_search.encoders.vision import VisionTower, build_vision_tower
from llm2clip_search.training.data.image_captions import CaptionedImages, ImageBatch
from llm2clip_search.training.data.image_pixels import AugmentedPixels, ImagePixels
from llm2clip_search.training.data.image_set import ImageSet
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.mixed_precision import autocast
from llm2clip_search.training.runtime.seeds import generator
from llm2clip_search.training.runtime.sharding import distribute_module
from llm2clip_search.training.tasks.clip_data import ClipData
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.vision_training import blocks_of, mark_trained, split_backbone


def open_vision(recipe: ClipRecipe, data: ClipData, *, world: World, start: Model | None) -> "VisionFeatures":
    """Load the vision tower of a recipe and mark what is trained of it.

    Args:
        start: the model to begin from; None for published base weights.

    Raises:
        ModelError: weights cannot be fetched, or do not have what is to be trained.
    """
    model = recipe.model
    tower = build_vision_tower(
        replace(model.vision, projection=False),
        dim=model.tower_dim,
        folder=start.folder if start else None,
        tensors=start.tensors("vision") if start else {},
    ).to(world.device)
    mark_trained(tower.backbone, recipe.vision, recipe.loop.seed)
    distils = bool((recipe.keep and recipe.keep.vision) or (start and recipe.anchor and recipe.anchor.images))
    original = copy.deepcopy(tower.backbone) if distils else None  # before sharding, which prevents copies
    distribute_module(tower.backbone, blocks_of(tower.backbone), world)
    texts, seed = data.captions["caption"].to_pylist(), recipe.loop.seed
    pixels = ImagePixels(
        data.files,
        model.vision.preprocess,
        recipe.augmentation,
        texts,
        seed,
        threads=world.threads,
        isolate=tower.mean.device.type == "cuda",
    )
    features = VisionFeatures(
        tower, data.captioned, pixels, micro_batch=recipe.micro_batch, bf16=recipe.bf16, world=world
    )
    if original is not None:
        features.keep_original(original)
    return features


class VisionFeatures:
    """Runs a vision tower on images given by id."""

    def __init__(
        self,
        tower: VisionTower,
        captioned: CaptionedImages,
        pixels: ImagePixels,
        *,
        micro_batch: int,
        bf16: bool,
        world: World = World(),
    ) -> None:
        self.tower, self.captioned, self.pixels = tower, captioned, pixels
        self.bf16, self.world = bf16, world
        self.device = tower.mean.device
        size = pixels.preprocess
        few = max(1, PIXELS_AT_ONCE // (size.height * size.width))
        self.at_once = min(micro_batch, few) if self.device.type == "cpu" else micro_batch
        """Images in a forward pass without a backward pass. More are not faster on a CPU, and take gigabytes."""
        self._prefix: nn.Module = nn.Identity()
        self._rest: nn.Module = tower.backbone
        self._original: nn.Module | None = None
        self._views: np.ndarray | None = None
        self._progress: Progress = no_progress
        self._task, self._done, self._total = "", 0, 0
        self._begun: dict[tuple[int, int, int], AugmentedPixels] = {}
        self._cached: dict[tuple[str, bool], torch.Tensor] = {}
        """By id for training images, and by content for others: sets may have different images with one id."""
        if not any(parameter.requires_grad for parameter in tower.backbone.parameters()):
            self._prefix, self._rest = tower.backbone, nn.Identity()
            self._original = nn.Identity()  # a frozen tower is what it was
            return
        sample = tower.normalise(self._tensor(pixels.plain(captioned.image_ids[:2])))
        if parts := split_backbone(tower.backbone, sample):
            self._prefix, self._rest = parts

    @torch.no_grad()
    def cache_views(self, views: int, path: Path, progress: Progress) -> None:
        """Use cached views of every training image, stored in ``path``.

        They are the outputs of the frozen prefix, float16. For a tower that cannot be split into a frozen prefix and
        the rest they are pixels, uint8, which saves decoding and augmenting.

        The file is written if it does not exist; an existing one is used without checks, so its name has to identify
        the images, the tower and the augmentation.
        """
        if not path.exists():
            remove_leftovers(path)
            with replaced_file(path) as temporary:
                self._write_views(views, temporary, progress)
        self._views = np.load(path, mmap_mode="r")

    def _write_views(self, views: int, path: Path, progress: Progress) -> None:
        ids, caption_rows = self.captioned.image_ids, self.captioned.caption_rows
        out: np.memmap | None = None
        for start in range(0, len(ids) * views, self.at_once):
            flat = np.arange(start, min(start + self.at_once, len(ids) * views))
            images, numbers = np.divmod(flat, views)
            pixels = self.pixels.augmented(
                [ids[image] for image in images], [caption_rows[image] for image in images], 0, flat.tolist()
            ).wait()
            if self._rest is not self.tower.backbone:
                prefix = self._run(self._prefix, self.tower.normalise(self._tensor(pixels)))
                pixels = prefix.half().cpu().numpy()
            if out is None:
                shape = (len(ids), views, *pixels.shape[1:])
                out = np.lib.format.open_memmap(path, mode="w+", dtype=pixels.dtype, shape=shape)
            out[images, numbers] = pixels
            progress("views", int(flat[-1]) + 1, len(ids) * views, {})
        assert out is not None, "there are images"
        out.flush()

    @torch.no_grad()
    def features_of(
        self, image_ids: Sequence[str], files: ImageSet | None = None, *, keep: bool = False
    ) -> torch.Tensor:
        """Features float32 ``[n, width]`` of images without augmentation; ``keep`` caches the prefix outputs.

        Each rank computes its share, and all get all rows: all ranks have to call this.
        """
        count = len(image_ids)
        is_shared = self.world.size <= count
        own = self.world.slice(count) if is_shared else slice(0, count)
        contents = files.content_hashes if files is not None else None
        out = []
        for rows in self._parts(count, own):
            part = [image_ids[row] for row in rows]
            keys = [(image, True) if contents is None else (contents[image], False) for image in part]
            cached = [self._cached[key] for key in keys if key in self._cached]
            if len(cached) == len(part):
                x = torch.stack(cached).to(self.device)
            else:
                x = self._run(self._prefix, self.tower.normalise(self._tensor(self.pixels.plain(part, files))))
            if keep and self._rest is not self.tower.backbone:
                self._cached |= dict(zip(keys, x.cpu(), strict=True))
            out.append(self._finish(self._rest, x))
            self._report(len(part) * count // max(1, own.stop - own.start))
        return self.world.gather(torch.cat(out), count) if is_shared else torch.cat(out)

    def _parts(self, count: int, own: slice) -> list[np.ndarray]:
        """The rows of each forward pass; a sharded tower needs as many of them on every rank."""
        rows = np.arange(own.start, own.stop)
        if len(rows) < count:
            return np.array_split(rows, self.world.num_micro_batches(count, size=self.at_once))
        return [rows[start : start + self.at_once] for start in range(0, len(rows), self.at_once)]

    @contextmanager
    def reporting(self, progress: Progress, task: str, total: int) -> Iterator[None]:
        """A context in which `features_of` reports the images of all its calls as those of one task.

        Args:
            total: number of these images; cached ones may make it fewer.
        """
        self._progress = progress if self.world.is_main else no_progress
        self._task, self._done, self._total = task, 0, total
        try:
            yield
            self._report(total - self._done)
        finally:
            self._progress = no_progress

    def _report(self, images: int) -> None:
        if images:
            self._done = min(self._total, self._done + images)
            self._progress(self._task, self._done, self._total, {})

    def keep_original(self, backbone: nn.Module) -> None:
        """Keep the tower as it is now, frozen, for `original_features`.

        Args:
            backbone: a copy of the tower, complete on this rank.
        """
        kept = backbone if self._rest is self.tower.backbone else copy.deepcopy(self._rest)
        self._original = kept.requires_grad_(False)

    def begin(self, batch: ImageBatch, rows: np.ndarray, step: int) -> None:
        """Begin to decode the views that `prefix_outputs` will be asked for with these arguments."""
        key = step, int(rows[0]), len(rows)
        if self._views is None and key not in self._begun:
            # A step that ran out of memory may have begun what it does not ask for when it is repeated.
            self._begun = {other: views for other, views in self._begun.items() if other[0] >= step}
            self._begun[key] = self._augmented(batch, rows, step)

    def _augmented(self, batch: ImageBatch, rows: np.ndarray, step: int) -> AugmentedPixels:
        ids = [self.captioned.image_ids[image] for image in batch.images[rows]]
        return self.pixels.augmented(ids, [batch.captions[row] for row in rows], step, rows.tolist())

    def prefix_outputs(self, batch: ImageBatch, rows: np.ndarray, step: int) -> torch.Tensor:
        """Outputs of the frozen prefix for one view of each of the batch's images in ``rows``: ``[len(rows), ...]``."""
        if self._views is not None:
            images = batch.images[rows]
            views = generator(self.pixels.seed, step, "view").integers(self._views.shape[1], size=len(batch.images))
            kept = self._tensor(self._views[images, views[rows]])
            return self.tower.normalise(kept) if kept.dtype == torch.uint8 else kept.float()
        begun = self._begun.pop((step, int(rows[0]), len(rows)), None) or self._augmented(batch, rows, step)
        pixels = self.tower.normalise(self._tensor(begun.wait()))
        with torch.no_grad():
            return self._run(self._prefix, pixels)

    def features(self, outputs: torch.Tensor) -> torch.Tensor:
        """Features float32 ``[n, width]`` from `prefix_outputs`, with their autograd graph."""
        return self._finish(self._rest, outputs)

    @torch.no_grad()
    def original_features(self, outputs: torch.Tensor) -> torch.Tensor:
        """Features float32 ``[n, width]`` of the tower as it was at `keep_original`."""
        assert self._original is not None, "keep_original was called"
        return self._finish(self._original, outputs)

    def _finish(self, part: nn.Module, outputs: torch.Tensor) -> torch.Tensor:
        """Run ``part`` on the outputs of the prefix; feature maps are converted to channels-last memory.

        CPUs train convolutions a third faster in that format. Cached and fresh maps are converted alike, because the
        memory format affects rounding.
        """
        is_map = outputs.ndim == 4
        return self._run(part, outputs.contiguous(memory_format=torch.channels_last) if is_map else outputs)

    def _run(self, part: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with autocast(self.device.type, self.bf16):
            out: torch.Tensor = part(x)
        return out.float()

    def _tensor(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels).to(self.device)
