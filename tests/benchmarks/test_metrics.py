"""Recall@k against the golden example and an independent reading of CLIP_benchmark's definition."""

import numpy as np
import pytest
import torch

from llm2clip_search.benchmarks.metrics import retrieval_recalls


def clip_benchmark(scores: np.ndarray, image_of: np.ndarray, k: int) -> dict[str, float]:
    """zeroshot_retrieval.py's steps: one-hot positives, top-k, true recall, above zero, float32 mean."""
    similarity = torch.from_numpy(scores)
    positive = torch.zeros_like(similarity, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(image_of)] = True
    values = {}
    for name, s, p in (("image", similarity, positive), ("text", similarity.T, positive.T)):
        top = torch.topk(s, k, dim=1).indices
        hits = torch.gather(p, 1, top).sum(1) / p.sum(1)  # 0/0 is NaN, and NaN is not above zero
        values[f"{name}_retrieval_recall@{k}"] = (hits > 0).float().mean().item()
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
    """On scores without ties, whatever the chunk; ``orphans`` images have no caption."""
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
    """Scores of three values only, so that nearly every rank is decided by a tie."""
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
