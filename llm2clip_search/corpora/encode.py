"""Decoded items to vectors: one call of the tower of their modality for a batch of them."""

import time

import numpy as np

from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import ImageError, Llm2ClipError, ModelError, first_line

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
    pixels = batch[0].pixels
    try:
        _fill(encoder, batch, batch_size)
    except Llm2ClipError:
        raise  # the model itself is at fault, not one item
    except Exception:  # libraries raise many types
        failed = [error for item in batch if (error := _fail_alone(encoder, item, batch_size)) is not None]
        if len(failed) == len(batch):
            _check_model(encoder, pixels, failed[-1])
    return items


def _fill(encoder: Encoder, batch: list[Decoded], batch_size: int) -> None:
    """Embed a batch in one call."""
    started = time.perf_counter()
    if batch[0].text is None:
        vectors = encoder.encode_pixels(np.stack([item.pixels for item in batch if item.pixels is not None]))
    else:
        vectors = encoder.encode_texts([item.text or "" for item in batch], batch_size=batch_size)
    share = (time.perf_counter() - started) / len(batch)
    for item, vector in zip(batch, vectors, strict=True):
        item.seconds["encode"] = share
        if np.isfinite(vector).all():
            item.pixels, item.vector = None, vector
        else:
            _fail(item, f"the {_tower(item.text is None)} gave a vector that is not finite")


def _fail_alone(encoder: Encoder, item: Decoded, batch_size: int) -> Exception | None:
    """Embed one item of a batch that failed; the error if it was its own."""
    try:
        _fill(encoder, [item], batch_size)
    except Llm2ClipError:
        raise
    except Exception as error:
        _fail(item, f"the {_tower(item.text is None)} cannot embed it: {first_line(error)}")
        return error
    return None


def _check_model(encoder: Encoder, pixels: np.ndarray | None, error: Exception) -> None:
    """Embed something harmless after no item of a batch could be embedded, of the size of ``pixels`` or a text.

    Raises:
        ModelError: that fails too, as every call does after an error of a GPU. All further items would be taken for
            broken ones, and lose their rows.
    """
    try:
        if pixels is None:
            encoder.encode_texts(["a photo"])
        else:
            encoder.encode_pixels(np.zeros_like(pixels)[None])
    except Llm2ClipError:
        raise
    except Exception:
        raise ModelError(
            f"The {_tower(pixels is not None)} embeds nothing any more: {first_line(error)}.",
            hint="What was embedded before is in the index; the same command goes on from there.",
        ) from error


def _tower(is_of_images: bool) -> str:
    return "vision tower" if is_of_images else "text tower"


def _fail(item: Decoded, reason: str) -> None:
    item.pixels, item.error = None, ImageError(reason, stage="encode")
