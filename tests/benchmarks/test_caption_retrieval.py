"""Caption retrieval against its definition, read slowly."""

import numpy as np
import pytest

from llm2clip_search.benchmarks.caption_retrieval import caption_retrieval, queries_and_gallery


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
    """Images of one to seven captions, in a muddle; vectors whose products are whole numbers, so many ties."""
    generator = np.random.default_rng(seed)
    image_of = generator.permutation(np.repeat(np.arange(20), generator.integers(1, 8, 20)))
    vectors = generator.integers(-1, 2, (len(image_of), 6)).astype(np.float32)
    assert caption_retrieval(vectors, image_of) == by_definition(vectors, image_of)


def test_the_first_caption_asks_and_four_are_searched() -> None:
    queries, gallery = queries_and_gallery(np.array([3, 1, 3, 2, 3, 3, 3, 3, 1]))
    assert queries.tolist() == [1, 0]
    assert gallery.tolist() == [8, 2, 4, 5, 6]


def test_perfect_and_hopeless_vectors() -> None:
    image_of = np.repeat(np.arange(4), 2)
    eye = np.eye(4, dtype=np.float32)
    assert caption_retrieval(eye[image_of], image_of) == 1.0
    swapped = eye[[0, 1, 1, 0, 2, 3, 3, 2]]
    assert caption_retrieval(swapped, image_of) == 0.0


@pytest.mark.parametrize("image_of", [[], [0, 1, 2], [0, 0, 1]])
def test_fewer_than_two_pairs_are_refused(image_of: list[int]) -> None:
    with pytest.raises(ValueError, match=r"[01] images have two captions"):
        caption_retrieval(np.ones((len(image_of), 2), dtype=np.float32), np.array(image_of, dtype=np.int64))


def test_vectors_of_other_captions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"5 captions, 4 of them"):
        caption_retrieval(np.ones((5, 2), dtype=np.float32), np.array([0, 0, 1, 1]))
