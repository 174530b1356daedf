"""Recall by query length compared with a direct implementation of its definition."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.benchmarks.datasets.base import Captions
from llm2clip_search.benchmarks.query_length import (
    BUCKETS,
    CUTS,
    FUNCTION_WORDS,
    LengthBucket,
    recall_by_length,
    shortened,
    words_of,
)
from tests.support.encoders import ColourEncoder
from tests.support.galleries import gallery


@pytest.mark.parametrize(
    ("lang", "text", "count", "expected"),
    [
        ("en", "A black dog runs through the snow .", 1, "black"),
        ("en", "A black dog runs through the snow .", 4, "black dog runs snow"),
        ("en", "A black dog runs through the snow .", 16, "black dog runs snow"),
        ("en", "The two-year-old's (red) hat!", 2, "two-year-old's red"),
        ("en", "This is it.", 2, "This is"),
        ("en", "?!", 4, "?!"),
        ("en", "", 4, ""),
        ("de", "Ein kleines Mädchen geht in ein Holzhaus.", 3, "kleines Mädchen geht"),
        ("fr", "Un chien noir court dans la neige.", 2, "chien noir"),
        ("cs", "Černý pes běží ve sněhu.", 4, "Černý pes běží sněhu"),
        ("zh", "一个小女孩走进木屋。", 1, "小女"),
        ("zh", "一个小女孩走进木屋。", 2, "小女孩走"),
        ("zh", "一个小女孩走进木屋。", 16, "小女孩走进木屋"),
        ("th", "หมาดำวิ่ง", 1, "หม"),
        ("sw", "Mbwa mweusi anakimbia", 2, "Mbwa mweusi"),
    ],
)
def test_the_first_content_words(lang: str, text: str, count: int, expected: str) -> None:
    assert shortened(text, lang, count) == expected


def test_words() -> None:
    assert words_of("A black  dog , and (a) cat's toy .", "en") == ["A", "black", "dog", "and", "a", "cat's", "toy"]
    assert words_of("小女孩走进木屋。", "zh") == ["小女", "孩走", "进木", "屋"]
    assert words_of(" . ", "en") == words_of("。", "zh") == []


def test_a_mark_stays_with_its_letter() -> None:
    assert words_of("ก่กิก้", "th") == ["ก่กิ", "ก้"]


@given(st.text(max_size=60), st.sampled_from(["en", "de", "zh", "ja", "xx"]), st.integers(1, 8))
def test_shortening_never_adds(text: str, lang: str, count: int) -> None:
    """At most ``count`` words, only from the text; shortening again changes nothing."""
    short = shortened(text, lang, count)
    if words_of(text, lang):
        assert 1 <= len(words_of(short, lang)) <= count
        assert short == shortened(short, lang, count)
    else:
        assert short == text
    letters = iter(text)
    assert all(letter in letters for letter in short if not letter.isspace())


def test_function_words_are_lower_case_and_buckets_meet() -> None:
    assert all(word == word.lower() for words in FUNCTION_WORDS.values() for word in words)
    assert all(len(letter) == 1 for letter in FUNCTION_WORDS["zh"])
    assert BUCKETS[0][0] == 1
    for (_, high), (low, _) in pairwise(BUCKETS):
        assert high is not None
        assert low == high + 1
    assert BUCKETS[-1][1] is None


class Counting(ColourEncoder):
    """Records the texts that it embeds, and counts one token per character."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        self.seen += texts
        return super().encode_texts(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]


def by_definition(
    encoder: ColourEncoder, queries: Sequence[str], image_of: Sequence[int], images: np.ndarray, k: int
) -> float:
    hits = []
    for text, image in zip(queries, image_of, strict=True):
        scores = images @ encoder.encode_texts([text])[0]
        hits.append(image in sorted(range(len(images)), key=lambda row: (-scores[row], row))[:k])
    return float(np.mean(hits))


def test_both_series_equal_their_definition(tmp_path: Path) -> None:
    texts = [
        "Dog.",
        "A dog",
        "Two red dogs play.",
        "A dog.",
        " ".join(f"word{n}" for n in range(20)),
        " ".join(f"thing{n}" for n in range(70)),
        "A black dog runs through the deep white snow .",
    ]
    pictures = ["3.png", "3.png", "0.png", "5.png", "11.png", "1.png", "7.png"]
    captions = Captions.of(list(zip(pictures, texts, strict=True)))
    found = gallery(tmp_path / "pictures", {"en": captions}, images=12)
    images = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    image_of = captions.rows_in(list(found.images)).tolist()
    encoder = Counting()
    buckets = recall_by_length(encoder, found, "en", images)
    assert len(encoder.seen) == sum(
        len(set(queries)) for queries in [texts, *([shortened(text, "en", n) for text in texts] for n in CUTS)]
    ), "equal queries are embedded once"

    own = [bucket for bucket in buckets if bucket.series == "captions"]
    assert [(bucket.words, bucket.queries) for bucket in own] == [
        ("1", 1),
        ("2-3", 2),
        ("4-7", 1),
        ("8-15", 1),
        ("16-31", 1),
        ("64+", 1),
    ]
    for bucket, rows in zip(own, [[0], [1, 3], [2], [6], [4], [5]], strict=True):
        for k in (1, 5, 10):
            expected = by_definition(encoder, [texts[row] for row in rows], [image_of[row] for row in rows], images, k)
            assert bucket.metrics[f"image_retrieval_recall@{k}"] == expected
        assert bucket.tokens == np.mean([len(texts[row]) for row in rows])
        assert bucket.cut == sum(len(texts[row]) > 24 for row in rows)
    cut = [bucket for bucket in buckets if bucket.series == "shortened"]
    assert [(bucket.words, bucket.queries) for bucket in cut] == [(n, 7) for n in ("1", "2", "4", "8", "16", "whole")]
    for bucket in cut:
        queries = texts if bucket.high is None else [shortened(text, "en", bucket.high) for text in texts]
        assert bucket.different == len(set(queries))
        for k in (1, 5, 10):
            assert bucket.metrics[f"image_retrieval_recall@{k}"] == by_definition(encoder, queries, image_of, images, k)
    assert cut[0].different == 6, "'Dog.' becomes 'Dog', 'A dog' and 'A dog.' become one"


def test_a_row_is_flat() -> None:
    bucket = LengthBucket(
        series="captions",
        low=2,
        high=3,
        queries=4,
        different=3,
        tokens=5.5,
        cut=0,
        metrics={"image_retrieval_recall@1": 1},
    )
    assert bucket.to_dict() == {
        "series": "captions",
        "words": "2-3",
        "low": 2,
        "high": 3,
        "queries": 4,
        "different": 3,
        "tokens": 5.5,
        "cut": 0,
        "image_retrieval_recall@1": 1,
    }
