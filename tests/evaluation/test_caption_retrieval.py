"""Caption retrieval compared with a direct implementation of its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.caption_retrieval import (
    caption_retrieval_accuracy,
    cross_lingual_recalls,
    first_captions,
    language_pair_recalls,
    queries_and_gallery,
)


def by_definition(vectors: np.ndarray, image_of: np.ndarray) -> float:
    captions = {image: np.flatnonzero(image_of == image) for image in sorted(set(image_of.tolist()))}
    captions = {image: rows for image, rows in captions.items() if len(rows) >= 2}
    gallery = [(row, image) for image, rows in captions.items() for row in rows[1:5]]
    hits = [
        gallery[int(np.argmax([vectors[rows[0]] @ vectors[row] for row, _ in gallery]))][1] == image
        for image, rows in captions.items()
    ]
    return float(np.mean(hits))


@pytest.mark.parametrize("seed", range(5))
def test_equals_its_definition(seed: int) -> None:
    """Images with one to seven captions in random order; integer vectors, so there are many ties."""
    generator = np.random.default_rng(seed)
    image_of = generator.permutation(np.repeat(np.arange(20), generator.integers(1, 8, 20)))
    vectors = generator.integers(-1, 2, (len(image_of), 6)).astype(np.float32)
    assert caption_retrieval_accuracy(vectors, image_of) == by_definition(vectors, image_of)


def test_the_first_caption_is_the_query_and_four_are_searched() -> None:
    queries, gallery = queries_and_gallery(np.array([3, 1, 3, 2, 3, 3, 3, 3, 1]))
    assert queries.tolist() == [1, 0]
    assert gallery.tolist() == [8, 2, 4, 5, 6]


def test_perfect_and_hopeless_vectors() -> None:
    image_of = np.repeat(np.arange(4), 2)
    eye = np.eye(4, dtype=np.float32)
    assert caption_retrieval_accuracy(eye[image_of], image_of) == 1.0
    swapped = eye[[0, 1, 1, 0, 2, 3, 3, 2]]
    assert caption_retrieval_accuracy(swapped, image_of) == 0.0


@pytest.mark.parametrize("image_of", [[], [0, 1, 2], [0, 0, 1]])
def test_fewer_than_two_pairs_are_refused(image_of: list[int]) -> None:
    with pytest.raises(ValueError, match=r"[01] images have two captions"):
        caption_retrieval_accuracy(np.ones((len(image_of), 2), dtype=np.float32), np.array(image_of, dtype=np.int64))


def test_vectors_of_other_captions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"5 captions, but image_of has 4 entries"):
        caption_retrieval_accuracy(np.ones((5, 2), dtype=np.float32), np.array([0, 0, 1, 1]))


def across_by_definition(
    queries: np.ndarray, gallery: np.ndarray, query_of: np.ndarray, gallery_of: np.ndarray, k: int
) -> float:
    hits = []
    for image in sorted(set(query_of.tolist()) & set(gallery_of.tolist())):
        first = query_of.tolist().index(image)
        scores = [float(queries[first] @ vector) for vector in gallery]
        best = sorted(range(len(gallery)), key=lambda row: (-scores[row], row))[:k]
        hits.append(any(gallery_of[row] == image for row in best))
    return float(np.mean(hits))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30))
def test_across_languages_equals_its_definition(seed: int, asking: int, searched: int) -> None:
    """Captions in random order, images with captions in only one language, and integer vectors with many ties."""
    generator = np.random.default_rng(seed)
    query_of, gallery_of = generator.integers(0, 12, asking), generator.integers(0, 12, searched)
    gallery_of[0] = query_of[0]
    queries = generator.integers(-1, 2, (asking, 4)).astype(np.float32)
    gallery = generator.integers(-1, 2, (searched, 4)).astype(np.float32)
    measured = cross_lingual_recalls(queries, gallery, query_of, gallery_of)
    assert measured == {
        f"caption_retrieval_recall@{k}": across_by_definition(queries, gallery, query_of, gallery_of, k)
        for k in (1, 5, 10)
    }


def test_across_languages_first_captions_are_queries_and_all_are_searched() -> None:
    """The first caption of image 0 is the query; its translation is the second caption of image 0."""
    eye = np.eye(4, dtype=np.float32)
    measured = cross_lingual_recalls(
        eye[[0, 3, 2]], eye[[1, 0, 2, 3]], np.array([0, 0, 5]), np.array([0, 0, 1, 2]), ks=(1, 2)
    )
    assert measured == {"caption_retrieval_recall@1": 1.0, "caption_retrieval_recall@2": 1.0}
    assert first_captions(np.array([0, 0, 5]), np.array([0, 0, 1, 2])).tolist() == [0]


def test_language_pairs_go_both_ways_and_have_sizes() -> None:
    eye = np.eye(3, dtype=np.float32)
    pairs = language_pair_recalls(
        {"en": eye[[0, 0, 1]], "de": eye[[0, 1, 2]], "zh": eye[[2, 1]]},
        {"en": np.array([0, 0, 1]), "de": np.array([0, 1, 2]), "zh": np.array([0, 1])},
    )
    found = {(pair.query_language, pair.gallery_language): pair for pair in pairs}
    assert list(found) == [("en", "de"), ("en", "zh"), ("de", "en"), ("de", "zh"), ("zh", "en"), ("zh", "de")]
    assert found["en", "de"].to_dict() == {
        "query_language": "en",
        "gallery_language": "de",
        "queries": 2,
        "gallery": 3,
        "caption_retrieval_recall@1": 1.0,
        "caption_retrieval_recall@5": 1.0,
        "caption_retrieval_recall@10": 1.0,
    }
    assert found["de", "en"].metrics["caption_retrieval_recall@1"] == 1.0
    # The first caption in Chinese is nobody's translation: its score is 0 with all, and the tie goes to row 0.
    assert found["zh", "en"].metrics["caption_retrieval_recall@1"] == 1.0
    assert found["zh", "de"].metrics["caption_retrieval_recall@1"] == 0.5


def test_languages_without_a_common_image_are_refused() -> None:
    vectors = {"en": np.ones((2, 2), dtype=np.float32), "de": np.ones((1, 2), dtype=np.float32)}
    image_of = {"en": np.array([0, 1]), "de": np.array([2])}
    with pytest.raises(CorpusError, match="in both 'en' and 'de'"):
        language_pair_recalls(vectors, image_of)
    with pytest.raises(ValueError, match="none of the 2 query captions shares its image with the 1 gallery captions"):
        cross_lingual_recalls(vectors["en"], vectors["de"], image_of["en"], image_of["de"])
    with pytest.raises(ValueError, match="2 captions, but image_of has 1 entries"):
        cross_lingual_recalls(vectors["en"], vectors["de"], image_of["de"], image_of["de"])
