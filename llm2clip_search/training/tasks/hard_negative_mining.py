"""Finds the images that a model confuses before the first step; a file keeps them for a run that is resumed."""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from llm2clip_search.base.files import remove_leftovers, replace_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.base.progress import Progress
from llm2clip_search.base.vectors import unit
from llm2clip_search.training.data.hard_negatives import HardNegatives, neighbours_of
from llm2clip_search.training.data.near_duplicates import THUMBNAIL, small_version
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.tasks.projection_heads import ProjectionHeads
from llm2clip_search.training.tasks.vision_features import VisionFeatures

NEIGHBOURS = "hard-negatives-*.npy"
"""Files with the neighbours of all images, which are of no use after training."""


def mined_neighbours(
    config: HardNegatives,
    *,
    vision: VisionFeatures,
    heads: ProjectionHeads,
    embed: Callable[[np.ndarray], torch.Tensor],
    caption_ids: np.ndarray,
    rows: Sequence[np.ndarray],
    model: str,
    scratch: Path,
    world: World,
    progress: Progress,
) -> np.ndarray:
    """The neighbours of every training image for the current weights, as `hard_negatives.neighbours_of` returns them.

    All ranks have to call this.

    Args:
        embed: embeds captions, given by rows of the caption table, as unit vectors ``[n, dim]``.
        caption_ids: of all rows of the caption table, equal for equal captions.
        rows: for each image, those of its captions that may be drawn.
        model: fingerprint of the model whose weights these are.
        scratch: folder of the file that keeps them.
    """
    ids = vision.captioned.image_ids
    drawn = [caption_ids[each].tolist() for each in rows]
    path = scratch / NEIGHBOURS.replace("*", json_sha256([asdict(config), model, ids, drawn])[:16])
    is_known = path.exists()
    world.barrier()  # no rank writes the file before all have looked for it
    if not is_known:
        heads.eval()
        images, captions, versions = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
        with torch.no_grad():
            for start in range(0, len(ids), vision.at_once):
                part = ids[start : start + vision.at_once]
                images.append(heads.image_vectors(vision.features_of(part)).cpu().numpy())
                described = rows[start : start + len(part)]
                ends = np.cumsum([len(each) for each in described])[:-1]
                vectors = embed(np.concatenate(described)).cpu().numpy()
                captions += [each.mean(axis=0) for each in np.split(vectors, ends)]
                versions += [small_version(pixels) for pixels in vision.pixels.plain(part, preprocess=THUMBNAIL)]
                progress("hard negatives", start + len(part), len(ids), {})
        found = neighbours_of(
            np.concatenate(images),
            unit(np.stack(captions)),
            texts=[set(each) for each in drawn],
            versions=versions,
            config=config,
        )
        if world.is_main:
            remove_leftovers(path)
            content = io.BytesIO()
            np.save(content, found)
            replace_file(path, content.getvalue())
    world.barrier()
    neighbours: np.ndarray = np.load(path)
    return neighbours
