"""Caption retrieval: how often different captions of the same image find each other.

Within a language: for each image with at least two captions, the first caption is the query. The gallery is the
second to fifth caption of all these images. A query is a hit if the nearest gallery caption describes its image. Ties
go to the lower index.

This project has a definition of its own because LLM2CLIP's published figures are on two scales: for Llama-3-8B before
and after caption tuning, arXiv 2411.04997v1 reports 18.4 and 73.0, v6 (table A1) reports 5.2 and 29.5. There the first
caption of an image is the query for its second, on COCO 5K; the gallery is not stated. Figures measured here are
comparable with neither.

Across two languages: for each image with captions in both, the first caption in one language is the query. The gallery
is every caption in the other language, including those of images without captions in the first. Recall@k is the share
of queries with at least one caption of their image among the k nearest. Ties go to the lower index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import KS, ranks_of_best

GALLERY = 4
"""Maximum number of captions per image in the gallery."""


def caption_retrieval_accuracy(vectors: np.ndarray, image_of: np.ndarray) -> float:
    """Top-1 accuracy in [0, 1].

    Args:
        vectors: float32 ``[n_captions, dim]``, L2-normalised; the captions of an image in their order.
        image_of: int64 ``[n_captions]``, each caption's image.

    Raises:
        ValueError: the arrays differ in length, or fewer than two images have two captions, so that every query
            would be a hit.
    """
    if len(vectors) != len(image_of):
        raise ValueError(f"there are {len(vectors)} captions, but image_of has {len(image_of)} entries")
    queries, gallery = queries_and_gallery(image_of)
    if len(queries) < 2:
        raise ValueError(f"{len(queries)} images have two captions; caption retrieval needs two such images")
    ranks = ranks_of_best(vectors[queries], vectors[gallery], image_of[queries], image_of[gallery])
    return float((ranks == 0).mean())


def queries_and_gallery(image_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the query captions and of the gallery captions, int64 each, ordered by image.

    Images with a single caption are in neither.
    """
    order = np.argsort(image_of, kind="stable")
    _, first, count = np.unique(image_of[order], return_index=True, return_counts=True)
    position = np.arange(len(order)) - np.repeat(first, count)
    paired = np.repeat(count >= 2, count)
    return order[paired & (position == 0)], order[paired & (position >= 1) & (position <= GALLERY)]


def cross_lingual_recalls(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_of: np.ndarray,
    gallery_of: np.ndarray,
    *,
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """``caption_retrieval_recall@k`` in [0, 1] from one language to another, as defined above.

    Args:
        queries: float32 ``[q, dim]``, L2-normalised: all captions in one language, those of an image in their order.
        gallery: float32 ``[g, dim]``, L2-normalised: all captions in the other language.
        query_of: int64 ``[q]``, each caption's image.
        gallery_of: int64 ``[g]``, likewise, with the same image numbers.

    Raises:
        ValueError: the arrays differ in length, or no image has captions in both languages.
    """
    for vectors, image_of in ((queries, query_of), (gallery, gallery_of)):
        if len(vectors) != len(image_of):
            raise ValueError(f"there are {len(vectors)} captions, but image_of has {len(image_of)} entries")
    rows = first_captions(query_of, gallery_of)
    if not len(rows):
        raise ValueError(
            f"none of the {len(query_of)} query captions shares its image with the {len(gallery_of)} gallery captions"
        )
    ranks = ranks_of_best(queries[rows], gallery, query_of[rows], gallery_of)
    return {f"caption_retrieval_recall@{k}": float((ranks < k).mean()) for k in ks}


@dataclass(frozen=True, kw_only=True)
class LanguagePair:
    """Recall of captions in one language as queries for those in another."""

    query_language: str
    gallery_language: str
    queries: int
    """Number of images with captions in both languages."""
    gallery: int
    """Number of captions in the gallery."""
    metrics: Mapping[str, float]
    """``caption_retrieval_recall@k`` in [0, 1], see `cross_lingual_recalls`."""

    def to_dict(self) -> dict[str, Any]:
        """One flat row for JSON."""
        return {
            "query_language": self.query_language,
            "gallery_language": self.gallery_language,
            "queries": self.queries,
            "gallery": self.gallery,
            **self.metrics,
        }


def language_pair_recalls(vectors: Mapping[str, np.ndarray], image_of: Mapping[str, np.ndarray]) -> list[LanguagePair]:
    """`cross_lingual_recalls` for every ordered pair of languages.

    Args:
        vectors: float32 ``[n_captions, dim]``, L2-normalised, by language.
        image_of: int64 ``[n_captions]``, by language; image numbers are the same in all languages.

    Raises:
        CorpusError: two languages have no image in common.
    """
    pairs = []
    for query_lang, gallery_lang in permutations(vectors, 2):
        queries = len(first_captions(image_of[query_lang], image_of[gallery_lang]))
        if not queries:
            raise CorpusError(f"No image has captions in both {query_lang!r} and {gallery_lang!r}.")
        pairs.append(
            LanguagePair(
                query_language=query_lang,
                gallery_language=gallery_lang,
                queries=queries,
                gallery=len(image_of[gallery_lang]),
                metrics=cross_lingual_recalls(
                    vectors[query_lang], vectors[gallery_lang], image_of[query_lang], image_of[gallery_lang]
                ),
            )
        )
    return pairs


def first_captions(query_of: np.ndarray, gallery_of: np.ndarray) -> np.ndarray:
    """Rows of the first caption of each image that has captions in both languages, int64, ordered by image."""
    images, first = np.unique(query_of, return_index=True)
    rows: np.ndarray = first[np.isin(images, gallery_of)]
    return rows
