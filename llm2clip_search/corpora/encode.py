"""Decoded items to vectors: one call of the tower of their modality for a batch of them."""

import time

import numpy as np

from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import ImageError, Llm2ClipError, first_line

TEXT_BATCHES = 8
"""Batches of texts that an encoder gets at once, to put texts of similar length into one."""


def encode_decoded(encoder: Encoder, items: list[Decoded], batch_size: int) -> list[Decoded]:
    """Fill in vectors, or errors, of those that are ready; pixels are dropped.

    One item that fails does not affect the others.

    Raises:
        Llm2ClipError: the model itself fails, not an item.
    """
    batch = [item for item in items if item.is_ready]
    if not batch:
        return items
    tower = "vision tower" if batch[0].text is None else "text tower"
    started = time.perf_counter()
    try:
        if batch[0].text is None:
            vectors = encoder.encode_pixels(np.stack([item.pixels for item in batch if item.pixels is not None]))
        else:
            vectors = encoder.encode_texts([item.text or "" for item in batch], batch_size=batch_size)
    except Llm2ClipError:
        raise  # the model itself is at fault, not one item
    except Exception as error:
        if len(batch) == 1:
            _fail(batch[0], f"the {tower} cannot embed it: {first_line(error)}")
        else:
            for item in batch:  # finds the one that fails and keeps the others
                encode_decoded(encoder, [item], batch_size)
        return items
    share = (time.perf_counter() - started) / len(batch)
    for item, vector in zip(batch, vectors, strict=True):
        item.pixels = None
        item.seconds["encode"] = share
        if np.isfinite(vector).all():
            item.vector = vector
        else:
            _fail(item, f"the {tower} gave a vector that is not finite")
    return items


def _fail(item: Decoded, reason: str) -> None:
    item.pixels, item.error = None, ImageError(reason, stage="encode")
