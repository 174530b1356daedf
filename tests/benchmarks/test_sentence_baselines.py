"""The baselines for caption retrieval: computed by hand, and on Flickr8k's dev captions."""

import os
from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.benchmarks.datasets.captioned_shards import read_shard_captions
from llm2clip_search.benchmarks.sentence_baselines import minilm, tf_idf
from llm2clip_search.evaluation.caption_retrieval import caption_retrieval_accuracy

ROOT = Path(os.environ.get("LLM2CLIP_DATA", Path(__file__).parents[3] / "shared" / "data")) / "flickr8k"
needs_flickr8k = pytest.mark.skipif(not ROOT.is_dir(), reason="Flickr8k is not here; LLM2CLIP_DATA names its parent")


def test_tf_idf_by_hand() -> None:
    """Words in alphabetical order: black, dog, runs; a single letter is not a word."""
    once, twice = log(3 / 2) + 1, log(3 / 3) + 1
    long, short = sqrt((2 * twice) ** 2 + once**2), sqrt(twice**2 + once**2)
    expected = [[0, 2 * twice / long, once / long], [once / short, twice / short, 0]]
    found = tf_idf(["A dog runs. Dog!", "a BLACK dog"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_texts_without_words_are_zeros() -> None:
    assert tf_idf(["", "a !", "dog"]).tolist() == [[0.0], [0.0], [1.0]]
    assert tf_idf(["?"]).shape == (1, 0)
    assert tf_idf([]).shape == (0, 0)


@pytest.mark.data
@needs_flickr8k
def test_tf_idf_on_dev() -> None:
    captions = read_shard_captions(ROOT, split="dev", lang="en")
    image_of = np.unique(captions.image_ids, return_inverse=True)[1]
    assert caption_retrieval_accuracy(tf_idf(captions.texts), image_of) == pytest.approx(0.455, abs=0.0005)


@pytest.mark.data
@needs_flickr8k
def test_minilm_on_dev() -> None:
    """The first values of the example in the model card, and accuracy on the first 200 images of dev."""
    captions = read_shard_captions(ROOT, split="dev", lang="en")
    image_of = np.unique(captions.image_ids, return_inverse=True)[1]
    rows = np.flatnonzero(image_of < 200)
    texts = ["This is an example sentence", *(captions.texts[row] for row in rows)]
    vectors = minilm(texts)
    np.testing.assert_allclose(vectors[0, :4], [0.0676569, 0.0634960, 0.0487131, 0.0793050], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    accuracy = caption_retrieval_accuracy(vectors[1:], image_of[rows])
    assert accuracy == pytest.approx(0.845, abs=0.006)  # one image of 200 either way
    assert accuracy > caption_retrieval_accuracy(tf_idf(texts)[1:], image_of[rows]) + 0.1
