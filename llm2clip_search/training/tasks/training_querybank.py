"""The querybank of stage 2: training images with one caption each, and what a model that it begins from has of them."""

import numpy as np
import torch

from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.placement import TowerName
from llm2clip_search.encoders.querybank import QuerybankNorm, load_querybank
from llm2clip_search.training.runtime.seeds import generator


def draw_querybank(
    caption_rows: list[np.ndarray], is_long: np.ndarray, *, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw images and one caption of each, a long one if there is any.

    Args:
        caption_rows: for each image, the rows of its captions, int64.
        is_long: of every row, bool.

    Returns:
        Indices of the images and rows of their captions, int64 ``[n]`` each.
    """
    draws = generator(seed, 0, "querybank")
    chosen = draws.permutation(len(caption_rows))[:size]

    def caption(rows: np.ndarray) -> int:
        long = rows[is_long[rows]]
        return int(draws.choice(long if len(long) else rows))

    return chosen, np.array([caption(caption_rows[image]) for image in chosen])


def fit_querybank(
    strength: float,
    *,
    images: torch.Tensor,
    captions: torch.Tensor,
    scale: float,
    start: Model | None,
) -> dict[TowerName, QuerybankNorm]:
    """Querybank normalisation of both towers from unit vectors ``[n, width]`` of images and their captions.

    Args:
        scale: the inverse temperature.
        start: the model that training began from. Its own bank still counts, or hubs among other images would come
            back.
    """
    if start is not None:
        former = [start.querybank(tower)["bank"].to(images.device) for tower in ("text", "vision")]
        images, captions = torch.cat([images, former[0]]), torch.cat([captions, former[1]])
    return {
        "vision": QuerybankNorm.fit("vision", strength, own=images, bank=captions, scale=scale),
        "text": QuerybankNorm.fit("text", strength, own=captions, bank=images, scale=scale),
    }


def own_querybank(start: Model, *, device: str) -> dict[TowerName, QuerybankNorm]:
    """Querybank normalisation of both towers as a model has it.

    Raises:
        ModelError: its banks do not fit its configuration.
    """
    towers: tuple[TowerName, ...] = ("vision", "text")
    return {tower: load_querybank(tower, start.config, start.querybank(tower), device=device) for tower in towers}
