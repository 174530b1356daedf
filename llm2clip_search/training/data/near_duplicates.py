"""Training images that are nearly those of validation: copies of another size or format, and shots of one moment.

Equal files are recognised by their content already. What is only similar to the eye is recognised by the embedding of
the model that training begins from.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from llm2clip_search.base.progress import Progress
from llm2clip_search.base.vectors import top_k
from llm2clip_search.corpora.containers import open_uri
from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.decode import decode_ahead
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.own_data import FEWEST, OwnImages, OwnSplits

REASON = "training images that are nearly those of"
_BATCH = 64
_CHUNK = 1024
"""Rows of one matrix product."""


def without_near_duplicates(found: OwnSplits, *, encoder: Encoder, threshold: float, progress: Progress) -> OwnSplits:
    """Leave out training images that are near-duplicates of an image of validation or of a set for evaluation.

    Args:
        encoder: of the model that training begins from.
        threshold: cosine from which two images are near-duplicates, in (0, 1].

    Raises:
        CorpusError: an image cannot be read any more, or too few are left to train on.
    """
    train, left_out = found.splits["train"], list(found.left_out)
    contents, vectors = _embedded(train, encoder, progress)
    copies = set[str]()
    for name, images in found.splits.items():
        if name == "train":
            continue
        others, gallery = _embedded(images, encoder, progress)
        for start in range(0, len(contents), _CHUNK):
            scores, nearest = top_k(vectors[start : start + _CHUNK] @ gallery.T, 1)
            for row in np.flatnonzero(scores[:, 0] >= threshold).tolist():
                content, other = contents[start + row], others[int(nearest[row, 0])]
                if content not in copies:
                    detail = f"{images.places[other][0]}, cosine {scores[row, 0]:.3f}"
                    left_out.append((f"{REASON} {name}", train.places[content][0], detail))
                copies.add(content)
    kept = [content for content in train.places if content not in copies]
    if len(kept) < FEWEST:
        raise CorpusError(
            f"Of {len(contents):,} training images, {len(copies):,} are near-duplicates of validation images at a"
            f" cosine of {threshold}; {len(kept)} are left, but training needs at least {FEWEST}."
        )
    return OwnSplits(splits={**found.splits, "train": train.keep(kept)}, left_out=left_out, notes=found.notes)


def _embedded(images: OwnImages, encoder: Encoder, progress: Progress) -> tuple[list[str], np.ndarray]:
    """Content hashes, and vectors float32 ``[n, dim]``, L2-normalised."""
    contents = sorted(images.places)
    out, batch = list[np.ndarray](), list[np.ndarray]()
    for done, pixels in enumerate(_pixels(images, contents, encoder), 1):
        batch.append(pixels)
        if len(batch) == _BATCH or done == len(contents):
            out.append(encoder.encode_pixels(np.stack(batch)))
            batch = []
            progress("looking for near-duplicates", done, len(contents), {})
    return contents, np.concatenate(out)


def _pixels(images: OwnImages, contents: Sequence[str], encoder: Encoder) -> Iterator[np.ndarray]:
    items = (Item(uri=uri, version=version) for uri, version in map(images.places.__getitem__, contents))
    for decoded in decode_ahead(_Places(), items, encoder.preprocess, threads=os.cpu_count() or 1, ahead=_BATCH):
        if decoded.pixels is None:
            raise CorpusError(f"{decoded.item.uri} cannot be read any more: {decoded.error}.")
        yield decoded.pixels


class _Places:
    """Reads images wherever they are."""

    def open(self, item: Item) -> bytes:
        return open_uri(item.uri, item.version)
