"""Features of images, in training and on dev; what the frozen start of the tower makes of them is kept.

A kept view costs only the trained blocks. `nano` trains the last two of seven stages, so that a step is spared
the first five, which work on the largest maps.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from llm2clip_search.base.files import remove_leftovers, replaced_file
from llm2clip_search.base.progress import Progress
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.encoders.vision import VisionTower
from llm2clip_search.errors import ModelError
from llm2clip_search.training.data.image_captions import CaptionedImages, ImageBatch
from llm2clip_search.training.data.image_pixels import ImagePixels
from llm2clip_search.training.runtime.mixed_precision import autocast
from llm2clip_search.training.runtime.seeds import generator
from llm2clip_search.training.tasks.vision_training import split_backbone


class VisionFeatures:
    """A vision tower over images by id."""

    def __init__(
        self, tower: VisionTower, captioned: CaptionedImages, pixels: ImagePixels, *, micro_batch: int, bf16: bool
    ) -> None:
        self.tower, self.captioned, self.pixels, self.micro_batch, self.bf16 = (
            tower,
            captioned,
            pixels,
            micro_batch,
            bf16,
        )
        self.device = tower.mean.device
        self._start: nn.Module = nn.Identity()
        self._rest: nn.Module = tower.backbone
        self._original: nn.Module | None = None
        self._views: np.ndarray | None = None
        self._plain: dict[tuple[bool, str], torch.Tensor] = {}  # training images and dev's may be named alike
        if not any(parameter.requires_grad for parameter in tower.backbone.parameters()):
            self._start, self._rest = tower.backbone, nn.Identity()
        elif parts := split_backbone(
            tower.backbone, tower.normalise(self._tensor(pixels.plain(captioned.image_ids[:2])))
        ):
            self._start, self._rest = parts

    @torch.no_grad()
    def keep(self, views: int, path: Path, progress: Progress) -> None:
        """Put ``views`` views of every training image through the frozen start, float16, into ``path``.

        A file that is there is whole, and taken as it is: its name must say what it was made of.

        Raises:
            ModelError: a tower whose frozen start cannot be told from the rest.
        """
        if self._rest is self.tower.backbone:
            raise ModelError(
                "This vision tower cannot be cut behind its frozen blocks; the recipe's kept_views must be 0."
            )
        if not path.exists():
            remove_leftovers(path)
            with replaced_file(path) as temporary:
                self._write_views(views, temporary, progress)
        self._views = np.load(path, mmap_mode="r")

    def _write_views(self, views: int, path: Path, progress: Progress) -> None:
        ids, caption_rows = self.captioned.image_ids, self.captioned.caption_rows
        out: np.memmap | None = None
        for start in range(0, len(ids) * views, self.micro_batch):
            flat = np.arange(start, min(start + self.micro_batch, len(ids) * views))
            images, numbers = np.divmod(flat, views)
            pixels = self.pixels.augmented(
                [ids[image] for image in images], [caption_rows[image] for image in images], 0, flat.tolist()
            )
            started = self._run(self._start, self.tower.normalise(self._tensor(pixels)))
            if out is None:
                shape = (len(ids), views, *started.shape[1:])
                out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
            out[images, numbers] = started.half().cpu().numpy()
            progress("views", int(flat[-1]) + 1, len(ids) * views, {})
        assert out is not None, "there are images"
        out.flush()

    @torch.no_grad()
    def of(self, image_ids: Sequence[str], files: ImageFiles | None = None, *, keep: bool = False) -> torch.Tensor:
        """Features float32 ``[n, width]`` of images as they are; ``keep`` remembers them for the next time."""
        parts = [image_ids[start : start + self.micro_batch] for start in range(0, len(image_ids), self.micro_batch)]
        out = []
        for part in parts:
            keys = [(files is None, image) for image in part]
            started = [self._plain[key] for key in keys if key in self._plain]
            if len(started) == len(part):
                x = torch.stack(started).to(self.device)
            else:
                plain = self.tower.normalise(self._tensor(self.pixels.plain(part, files)))
                x = self._run(self._start, plain)
            if keep and self._rest is not self.tower.backbone:
                self._plain |= dict(zip(keys, x.cpu(), strict=True))
            out.append(self._finish(self._rest, x))
        return torch.cat(out)

    def remember(self, backbone: nn.Module) -> None:
        """Hold frozen what is trained as it is now, for `original`; ``backbone`` is a copy, whole on this rank."""
        kept = backbone if self._rest is self.tower.backbone else copy.deepcopy(self._rest)
        self._original = kept.requires_grad_(False)

    def started(self, batch: ImageBatch, rows: np.ndarray, step: int) -> torch.Tensor:
        """What the frozen start makes of some of a step's images, one view of each: ``[len(rows), ...]``."""
        images = batch.images[rows]
        if self._views is not None:
            numbers = generator(self.pixels.seed, step, "view").integers(self._views.shape[1], size=len(batch.images))
            return self._tensor(self._views[images, numbers[rows]]).float()
        ids = [self.captioned.image_ids[image] for image in images]
        captions = [batch.captions[row] for row in rows]
        pixels = self.tower.normalise(self._tensor(self.pixels.augmented(ids, captions, step, rows.tolist())))
        with torch.no_grad():
            return self._run(self._start, pixels)

    def features(self, started: torch.Tensor) -> torch.Tensor:
        """Features float32 ``[n, width]`` of what `started` gave, with their graph."""
        return self._finish(self._rest, started)

    @torch.no_grad()
    def original(self, started: torch.Tensor) -> torch.Tensor:
        """Features float32 ``[n, width]`` that the tower gave when it was told to `remember`."""
        assert self._original is not None, "asked for only where it is remembered"
        return self._finish(self._original, started)

    def _finish(self, part: nn.Module, started: torch.Tensor) -> torch.Tensor:
        """Maps go through channels last, in which a CPU's convolutions learn a third faster.

        Fresh maps and remembered ones alike: a convolution of another order rounds otherwise.
        """
        is_map = started.ndim == 4
        return self._run(part, started.contiguous(memory_format=torch.channels_last) if is_map else started)

    def _run(self, part: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with autocast(self.device.type, self.bf16):
            out: torch.Tensor = part(x)
        return out.float()

    def _tensor(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels).to(self.device)
