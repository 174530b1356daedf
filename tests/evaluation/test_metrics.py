"""Recall@k compared with CLIP_benchmark, a golden example and a stable sort."""

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_retrieval
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.evaluation.metrics import NEVER, nearest_rows, ranks_of_best, retrieval_recalls


def clip_benchmark(scores: np.ndarray, image_of: np.ndarray, k: int) -> dict[str, float]:
    """CLIP_benchmark's functions on a matrix ``[captions, images]``, called as in its `evaluate`."""
    similarity = torch.from_numpy(scores)
    positive = torch.zeros_like(similarity, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(image_of)] = True
    values = {}
    for name, s, p in (("image", similarity, positive), ("text", similarity.T, positive.T)):
        recall = zeroshot_retrieval.batchify(zeroshot_retrieval.recall_at_k, s, p, 3, "cpu", k=k)
        values[f"{name}_retrieval_recall@{k}"] = (recall > 0).float().mean().item()
    return values


def test_the_golden_example() -> None:
    scores = np.array(
        [
            [0.9, 0.1, 0.2, 0.3],
            [0.8, 0.7, 0.1, 0.0],
            [0.2, 0.6, 0.5, 0.1],
            [0.1, 0.3, 0.4, 0.9],
            [0.6, 0.2, 0.5, 0.4],
            [0.3, 0.2, 0.1, 0.0],
        ],
        dtype=np.float32,
    )
    found = retrieval_recalls(np.eye(4, dtype=np.float32), scores, np.array([0, 0, 1, 2, 2, 1]), ks=(1, 2, 3))
    assert [found[f"image_retrieval_recall@{k}"] for k in (1, 2, 3)] == [0.5, 1.0, 1.0]
    assert [found[f"text_retrieval_recall@{k}"] for k in (1, 2, 3)] == [0.25, 0.75, 0.75]


@pytest.mark.parametrize(("images", "per_image", "orphans"), [(7, 1, 0), (9, 5, 0), (8, 3, 2), (1, 4, 0)])
@pytest.mark.parametrize("chunk", [1, 7, 45, 1000])
def test_equals_clip_benchmark_to_the_bit(images: int, per_image: int, orphans: int, chunk: int) -> None:
    """For scores without ties and any chunk size; ``orphans`` images have no caption."""
    generator = np.random.default_rng(images)
    image_of = generator.permutation(np.repeat(np.arange(images - orphans), per_image))
    gallery, captions = np.eye(images, dtype=np.float32), generator.random((len(image_of), images), dtype=np.float32)
    ks = tuple(k for k in (1, 5) if k <= images)
    found = retrieval_recalls(gallery, captions, image_of, ks=ks, chunk=chunk)
    expected: dict[str, float] = {}
    for k in ks:
        expected |= clip_benchmark(captions, image_of, k)
    assert found == expected


def test_ties_go_to_the_lower_index() -> None:
    same = np.ones((3, 2), dtype=np.float32)
    assert retrieval_recalls(same, same[:1], np.array([0]), ks=(1,))["image_retrieval_recall@1"] == 1.0
    assert retrieval_recalls(same, same[:1], np.array([1]), ks=(1,))["image_retrieval_recall@1"] == 0.0


def test_captions_without_an_image_are_refused() -> None:
    vectors = np.eye(2, dtype=np.float32)
    for image_of in (np.array([0, 2]), np.array([-1, 0]), np.array([0])):
        with pytest.raises(ValueError, match="captions"):
            retrieval_recalls(vectors, vectors, image_of)


@pytest.mark.parametrize("chunk", [1, 7, 24, 1000])
def test_ties_in_bulk_rank_as_a_stable_sort_does(chunk: int) -> None:
    """Scores with only three values, so nearly every rank is decided by a tie."""
    generator = np.random.default_rng(0)
    image_of = generator.integers(0, 8, 24)
    scores = generator.integers(0, 3, (24, 8)).astype(np.float32)
    found = retrieval_recalls(np.eye(8, dtype=np.float32), scores, image_of, ks=(1, 3), chunk=chunk)
    for k in (1, 3):
        top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx((top == image_of[:, None]).any(1).mean())
        top = np.argsort(-scores.T, axis=1, kind="stable")[:, :k]
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(
            (image_of[top] == np.arange(8)[:, None]).any(1).mean()
        )


def test_k_beyond_the_gallery_finds_all_but_orphans() -> None:
    vectors = np.eye(3, dtype=np.float32)
    found = retrieval_recalls(vectors, vectors[:2], np.array([0, 1]), ks=(10,))
    assert found == {"image_retrieval_recall@10": 1.0, "text_retrieval_recall@10": pytest.approx(2 / 3)}


class StubModel:
    """Looks vectors up: images are vectors already, and a caption's token is its row."""

    def __init__(self, captions: np.ndarray) -> None:
        self._captions = torch.from_numpy(captions)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def encode_text(self, rows: torch.Tensor) -> torch.Tensor:
        return self._captions[rows]


@pytest.mark.parametrize(("images", "per_image", "orphans"), [(40, 1, 0), (30, 5, 0), (25, 3, 4)])
def test_equals_the_whole_evaluation_of_clip_benchmark(images: int, per_image: int, orphans: int) -> None:
    """From vectors, through CLIP_benchmark's loop over batches, not from a matrix."""
    generator = np.random.default_rng(images)
    gallery = unit(generator.standard_normal((images, 24)))
    image_of = np.repeat(np.arange(images - orphans), per_image)
    captions = unit(gallery[image_of] + 0.3 * generator.standard_normal((len(image_of), 24)))
    batches = [
        (
            torch.from_numpy(gallery[start : start + 8]),
            [[str(row) for row in np.flatnonzero(image_of == image)] for image in range(start, min(start + 8, images))],
        )
        for start in range(0, images, 8)
    ]
    expected = zeroshot_retrieval.evaluate(
        StubModel(captions),
        batches,
        lambda texts: torch.tensor([int(text) for text in texts], dtype=torch.int64),
        "cpu",
        amp=False,
        recall_k_list=[1, 5, 10],
    )
    assert retrieval_recalls(gallery, captions, image_of) == expected
    assert 0 < expected["image_retrieval_recall@1"] < 1


def unit(vectors: np.ndarray) -> np.ndarray:
    rows: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return rows


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 12), captions=st.integers(1, 30))
def test_order_of_gallery_and_captions_changes_nothing_without_ties(seed: int, images: int, captions: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.permutation(captions * images).reshape(captions, images).astype(np.float32)  # all different
    image_of = generator.integers(0, images, captions)
    found = retrieval_recalls(np.eye(images, dtype=np.float32), scores, image_of)
    shuffled, asked = generator.permutation(images), generator.permutation(captions)
    new_row = np.argsort(shuffled)
    again = retrieval_recalls(
        np.eye(images, dtype=np.float32), scores[asked][:, shuffled], new_row[image_of[asked]], chunk=3
    )
    assert again == found


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gallery=st.integers(1, 20), groups=st.integers(1, 6), chunk=st.integers(1, 9))
def test_ranks_and_nearest_are_a_stable_sorts(seed: int, gallery: int, groups: int, chunk: int) -> None:
    """Groups of any size, including empty ones, and scores with ties."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 4, (8, gallery)).astype(np.float32)
    query_of, gallery_of = generator.integers(0, groups, 8), generator.integers(0, groups, gallery)
    order = np.argsort(-scores, axis=1, kind="stable")
    relevant = gallery_of[order] == query_of[:, None]
    expected = np.where(relevant.any(axis=1), relevant.argmax(axis=1), NEVER)
    eye = np.eye(gallery, dtype=np.float32)
    np.testing.assert_array_equal(ranks_of_best(scores, eye, query_of, gallery_of, chunk=chunk), expected)
    for k in (0, 1, 3, gallery, gallery + 1):
        np.testing.assert_array_equal(nearest_rows(scores, eye, k, chunk=chunk), order[:, :k])


def test_of_duplicates_the_lower_row_is_found() -> None:
    """Three images with the same vector: the first ranks first, the last ranks third."""
    same = np.repeat(unit(np.ones((1, 8))), 3, axis=0)
    for image, rank in ((0, 0), (1, 1), (2, 2)):
        assert ranks_of_best(same[:1], same, np.array([image]), np.arange(3)).tolist() == [rank]


def test_what_is_not_a_number_is_found_last() -> None:
    """A diverged model must not look perfect, although no comparison with NaN is true."""
    eye = np.eye(4, dtype=np.float32)
    broken = eye.copy()
    broken[3] = np.nan
    assert ranks_of_best(eye[:3], broken, np.array([0, 1, 3]), np.arange(4)).tolist() == [0, 0, 3]
    assert nearest_rows(eye[1:2], broken, 4).tolist() == [[1, 0, 2, 3]]
    nothing = np.full((4, 4), np.nan, dtype=np.float32)
    found = retrieval_recalls(nothing, nothing, np.arange(4), ks=(1,))
    assert found == {"image_retrieval_recall@1": 0.25, "text_retrieval_recall@1": 0.25}
