"""Caption retrieval accuracy: do two people's captions of one image find each other?

One definition, because the published figures stand on two scales: of each image with at least two
captions, the first is the query; the gallery is the second to fifth caption of every such image; a hit
is a nearest gallery caption that describes the query's image. Ties go to the lower index.

The published figures, LLM2CLIP's, stand on two scales: of Llama-3-8B before and after caption tuning, 18.4
and 73.0 in arXiv 2411.04997v1, 5.2 and 29.5 in v6, table A1. Its first caption looks for its second, on COCO
5K; which captions it is searched among is not told. Neither scale can be compared with figures from here.

Across languages: of each image with captions in both, the first caption in one is the query; the gallery is
every caption in the other, also those of images that have none in the first; recall@k is the share of
queries with any caption of their image among the k nearest. Ties go to the lower index here too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import KS, ranks_of_best

GALLERY = 4
"""Captions of an image in the gallery, at most."""


def caption_retrieval_accuracy(vectors: np.ndarray, image_of: np.ndarray) -> float:
    """Top-1 accuracy in [0, 1].

    Args:
        vectors: float32 ``[n_captions, dim]``, unit; captions of an image in their order.
        image_of: int64 ``[n_captions]``.

    Raises:
        ValueError: arrays of two lengths, or fewer than two images with two captions: nothing could go wrong.
    """
    if len(vectors) != len(image_of):
        raise ValueError(f"{len(vectors)} captions, {len(image_of)} of them mapped to images")
    queries, gallery = queries_and_gallery(image_of)
    if len(queries) < 2:
        raise ValueError(f"{len(queries)} images have two captions; caption retrieval needs two such images")
    ranks = ranks_of_best(vectors[queries], vectors[gallery], image_of[queries], image_of[gallery])
    return float((ranks == 0).mean())


def queries_and_gallery(image_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the captions that ask and of those that are searched, int64 each, by image.

    Images with a single caption are in neither.
    """
    order = np.argsort(image_of, kind="stable")
    _, first, count = np.unique(image_of[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, count)
    paired = np.repeat(count >= 2, count)
    return order[paired & (place == 0)], order[paired & (place >= 1) & (place <= GALLERY)]


def cross_lingual_recalls(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_of: np.ndarray,
    gallery_of: np.ndarray,
    *,
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """``caption_retrieval_recall@k`` in [0, 1] from one language to another, defined above.

    Args:
        queries: float32 ``[q, dim]``, unit: all captions in one language, those of an image in their order.
        gallery: float32 ``[g, dim]``, unit: all captions in the other.
        query_of: int64 ``[q]``, each caption's image.
        gallery_of: int64 ``[g]``, images by the same numbers.

    Raises:
        ValueError: arrays of two lengths, or no image with captions in both languages.
    """
    for vectors, image_of in ((queries, query_of), (gallery, gallery_of)):
        if len(vectors) != len(image_of):
            raise ValueError(f"{len(vectors)} captions, {len(image_of)} of them mapped to images")
    asking = first_captions(query_of, gallery_of)
    if not len(asking):
        raise ValueError(f"none of {len(query_of)} captions has its image among those of {len(gallery_of)} others")
    ranks = ranks_of_best(queries[asking], gallery, query_of[asking], gallery_of)
    return {f"caption_retrieval_recall@{k}": float((ranks < k).mean()) for k in ks}


@dataclass(frozen=True, kw_only=True)
class LanguagePair:
    """Captions in one language that look for those in another."""

    query_language: str
    gallery_language: str
    queries: int
    """Images with captions in both."""
    gallery: int
    """Captions that are searched."""
    metrics: Mapping[str, float]
    """``caption_retrieval_recall@k``, see `cross_lingual_recalls`."""

    def to_dict(self) -> dict[str, Any]:
        """One flat row."""
        return {
            "query_language": self.query_language,
            "gallery_language": self.gallery_language,
            "queries": self.queries,
            "gallery": self.gallery,
            **self.metrics,
        }


def language_pair_recalls(vectors: Mapping[str, np.ndarray], image_of: Mapping[str, np.ndarray]) -> list[LanguagePair]:
    """`cross_lingual_recalls` from each language to each other one.

    Args:
        vectors: by language float32 ``[n_captions, dim]``, unit.
        image_of: by language int64 ``[n_captions]``, images by the same numbers in all.

    Raises:
        CorpusError: two languages that share no image.
    """
    pairs = []
    for asking, searched in permutations(vectors, 2):
        queries = len(first_captions(image_of[asking], image_of[searched]))
        if not queries:
            raise CorpusError(f"No image has captions both in {asking!r} and in {searched!r}.")
        pairs.append(
            LanguagePair(
                query_language=asking,
                gallery_language=searched,
                queries=queries,
                gallery=len(image_of[searched]),
                metrics=cross_lingual_recalls(vectors[asking], vectors[searched], image_of[asking], image_of[searched]),
            )
        )
    return pairs


def first_captions(query_of: np.ndarray, gallery_of: np.ndarray) -> np.ndarray:
    """int64 rows of each image's first caption, by image, where the other language describes the image too."""
    images, first = np.unique(query_of, return_index=True)
    rows: np.ndarray = first[np.isin(images, gallery_of)]
    return rows
