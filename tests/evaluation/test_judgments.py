"""Measures by the judgments of ECCV Caption and CxC compared with the package ``eccv-caption``."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.judgments import coco_1k_recalls, ground_truth, judged_measures

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it tells which JSON library it does without
    from eccv_caption import Metrics

Ids = np.ndarray
DEEPEST = 48
"""The largest number of positives of a query."""


@pytest.fixture(scope="module")
def oracle() -> Metrics:
    return Metrics()


@pytest.fixture(scope="module")
def drawn(oracle: Metrics) -> tuple[np.ndarray, np.ndarray, Ids, Ids]:
    """Images, captions near their image, and the ids of both, shuffled, with ten captions beyond the 25,000."""
    generator = np.random.default_rng(0)
    image_ids = generator.permutation(list(oracle.coco_gts["i2t"]))
    caption_ids = generator.permutation([*oracle.coco_gts["t2i"], *range(10_000_000, 10_000_010)])
    images = unit(generator.standard_normal((len(image_ids), 24)))
    row = {int(number): place for place, number in enumerate(image_ids)}
    own = [row[oracle.coco_gts["t2i"].get(int(number), [int(image_ids[0])])[0]] for number in caption_ids]
    captions = unit(images[own] + 0.35 * generator.standard_normal((len(caption_ids), 24)))
    return images, captions, image_ids, caption_ids


def unit(vectors: np.ndarray) -> np.ndarray:
    rows: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return rows


def lists(queries: np.ndarray, gallery: np.ndarray, query_ids: Ids, gallery_ids: Ids, k: int) -> dict[int, list[int]]:
    """Ids of the k nearest items of each query, computed with torch."""
    found: dict[int, list[int]] = {}
    for start in range(0, len(queries), 1000):
        scores = torch.from_numpy(queries[start : start + 1000]) @ torch.from_numpy(gallery).T
        nearest = gallery_ids[torch.topk(scores, k, dim=1).indices.numpy()]
        found |= dict(zip(query_ids[start : start + 1000].tolist(), nearest.tolist(), strict=True))
    return found


def test_every_figure_is_the_packages(oracle: Metrics, drawn: tuple[np.ndarray, np.ndarray, Ids, Ids]) -> None:
    images, captions, image_ids, caption_ids = drawn
    found = judged_measures(images, captions, [str(n) for n in image_ids], [str(n) for n in caption_ids])

    known = np.isin(caption_ids, oracle.coco_ids)
    assert known.sum() == 25_000
    captions, caption_ids = captions[known], caption_ids[known]
    nearest = {
        "i2t": lists(images, captions, image_ids, caption_ids, DEEPEST),
        "t2i": lists(captions, images, caption_ids, image_ids, DEEPEST),
    }
    # For COCO 1K the package drops what is outside a query's fold; the lists here are of the fold from the start.
    folded: dict[str, dict[int, list[int]]] = {"i2t": {}, "t2i": {}}
    for fold in oracle.coco_ids.reshape(5, -1):
        of_fold = np.isin(caption_ids, fold)
        of_image = np.isin(image_ids, [oracle.coco_gts["t2i"][int(number)][0] for number in fold])
        inside = (images[of_image], captions[of_fold], image_ids[of_image], caption_ids[of_fold])
        folded["i2t"] |= lists(*inside, 10)
        folded["t2i"] |= lists(inside[1], inside[0], inside[3], inside[2], 10)

    expected: dict[str, dict[str, float]] = {}
    eccv = oracle.eccv_metrics(nearest, "all")
    expected["eccv_map_at_r"] = eccv["eccv_map_at_r"]
    expected["eccv_r_precision"] = eccv["eccv_rprecision"]
    expected["eccv_recall@1"] = eccv["eccv_r1"]
    for k in (1, 5, 10):
        expected[f"cxc_recall@{k}"] = oracle.cxc_recalls(nearest, "all", K=k)
        expected[f"coco_5k_recall@{k}"] = oracle.coco_5k_recalls(nearest, "all", K=k)
        expected[f"coco_1k_recall@{k}"] = oracle.coco_1k_recalls(folded, "all", K=k)
    flat = {
        f"{way}_{key}": values[short]
        for way, short in (("image_retrieval", "t2i"), ("text_retrieval", "i2t"))
        for key, values in expected.items()
    }
    assert found == pytest.approx(flat, abs=1e-12)
    assert all(0.001 < value < 0.999 for value in found.values())


def test_positives_outside_the_gallery_stay_missed() -> None:
    """Two captions in ECCV Caption's ground truth are not among the 25,000."""
    truth = ground_truth()
    named = set().union(*truth.eccv.text_retrieval.values())
    assert len(named - set(truth.coco.image_retrieval)) == 2
    assert len(truth.caption_order) == len(truth.coco.image_retrieval) == 25_000


def test_other_images_are_refused_with_counts(oracle: Metrics) -> None:
    image_ids, caption_ids = map(str, oracle.coco_gts["i2t"]), [str(n) for n in oracle.coco_gts["t2i"]]
    some = list(image_ids)[:7]
    with pytest.raises(
        CorpusError,
        match=r"7 of its 5,000 images are among the 7 given, 3 of its 25,000 captions are among the 3 given",
    ):
        judged_measures(np.eye(7), np.ones((3, 7)), some, caption_ids[:3])
    with pytest.raises(CorpusError, match=r"2 of 2 images have ids that are not COCO ids .*, such as 'a\.jpg'"):
        judged_measures(np.eye(2), np.eye(2), ["a.jpg", "b.jpg"], ["1", "2"])
    with pytest.raises(CorpusError, match=r"1 of 2 captions have ids .* such as '7#0'"):
        judged_measures(np.eye(2), np.eye(2), ["1", "2"], ["1", "7#0"])
    with pytest.raises(CorpusError, match="2 images have only 1 different COCO ids"):
        judged_measures(np.eye(2), np.eye(2), ["5", "05"], ["1", "2"])


@pytest.fixture
def fresh_truth() -> Iterator[None]:
    ground_truth.cache_clear()
    yield
    ground_truth.cache_clear()


@pytest.mark.usefixtures("fresh_truth")
def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eccv_caption", None)
    with pytest.raises(CorpusError, match=r"pip install 'llm2clip-search\[bench\]'"):
        judged_measures(np.eye(1), np.eye(1), ["1"], ["1"])


@pytest.mark.usefixtures("fresh_truth")
def test_a_damaged_package_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    with pytest.raises(CorpusError, match=r"original_caption_to_image\.json.*install it again"):
        ground_truth()


def test_coco_1k_is_the_mean_over_parts_in_the_sets_order() -> None:
    """Two folds of three images: images in another fold cannot be confused with those of this fold."""
    images = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    image_of = np.array([5, 4, 3, 2, 1, 0, 0])
    captions = images[image_of].copy()
    captions[-1] = images[1]  # the first image's second caption describes its neighbour
    found = coco_1k_recalls(images, captions, image_of, folds=2)
    assert found["image_retrieval_1k_recall@1"] == pytest.approx((3 / 4 + 1) / 2)
    assert found["image_retrieval_1k_recall@5"] == 1
    # Of the second image its own caption stands before the stranger with an equal score.
    assert found["text_retrieval_1k_recall@1"] == 1


def test_coco_1k_needs_equal_parts_with_captions() -> None:
    eye = np.eye(6, dtype=np.float32)
    with pytest.raises(CorpusError, match="6 images cannot be divided into 5 folds"):
        coco_1k_recalls(eye, eye, np.arange(6))
    with pytest.raises(CorpusError, match="3 of 6 images form a fold without a caption"):
        coco_1k_recalls(eye, eye[:3], np.arange(3), folds=2)
