"""The worst queries compared with a direct search for them, and the page that shows them, with untrusted captions."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llm2clip_search.benchmarks.datasets.base import Captions, RetrievalSet
from llm2clip_search.benchmarks.missed_queries_page import missed_queries_page
from llm2clip_search.errors import ImageError
from llm2clip_search.evaluation.missed_queries import worst_queries, worst_queries_both_ways
from llm2clip_search.evaluation.missed_queries_html import SIDE, thumbnail
from tests.support.galleries import gallery
from tests.support.html_reader import Reader, assert_self_contained

HOSTILE = "<script>alert(1)</script> & \"$title\" '${heading}' </span>"


def unit(generator: np.random.Generator, rows: int, dim: int = 8) -> np.ndarray:
    vectors = generator.normal(size=(rows, dim)).astype(np.float32)
    out: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return out


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 25), st.integers(1, 25), st.integers(1, 30))
def test_the_worst_queries_have_the_lowest_ranked_expected_item(seed: int, asked: int, held: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    queries, items = unit(generator, asked), unit(generator, held)
    query_of, item_of = generator.integers(0, 6, asked), generator.integers(0, 6, held)
    result = worst_queries(queries, items, query_of, item_of, count=count, retrieved=3)
    slow = []
    for row in range(asked):
        order = sorted(range(held), key=lambda item: -float(queries[row] @ items[item]))
        if right := [place for place, item in enumerate(order) if item_of[item] == query_of[row]]:
            slow.append((-right[0], row, order[right[0]], order[:3]))
    wrong = sorted(entry for entry in slow if entry[0])
    assert (result.queries, result.missed, result.gallery) == (len(slow), len(wrong), held)
    told = [
        (-missed.rank, missed.query, missed.expected.row, [found.row for found in missed.retrieved])
        for missed in result.worst
    ]
    assert told == wrong[:count]
    for missed in result.worst:
        for found in (missed.expected, *missed.retrieved):
            assert found.score == pytest.approx(float(queries[missed.query] @ items[found.row]), abs=1e-6)


def test_an_image_without_captions_expects_nothing() -> None:
    eye = np.eye(3, dtype=np.float32)
    by_captions, by_images = worst_queries_both_ways(eye, eye[[1, 0]], np.array([0, 1]), count=9)
    assert (by_captions.queries, by_captions.missed, by_captions.gallery) == (2, 2, 3)
    assert (by_images.queries, by_images.missed, by_images.gallery) == (2, 2, 2)
    assert [missed.query for missed in by_images.worst] == [0, 1]


@pytest.fixture
def shown(tmp_path: Path) -> tuple[RetrievalSet, str]:
    """Four images, one without captions and one damaged; all captions have the vector of a wrong image."""
    pairs = [("0.png", HOSTILE), ("1.png", "كلب أسود"), ("2.png", "b"), ("0.png", "c")]
    found = gallery(tmp_path / "pictures", {"x-<b>": Captions.of(pairs)}, images=4)
    path = tmp_path / "pictures" / "2.png"
    path.write_bytes(path.read_bytes()[:40] + b"\0" * (path.stat().st_size - 40))
    eye = np.eye(4, dtype=np.float32)
    by_captions, by_images = worst_queries_both_ways(eye, eye[[1, 2, 3, 2]], np.array([0, 1, 2, 0]), count=3)
    return found, missed_queries_page(found, "x-<b>", model="<i>m</i>", captions=by_captions, images=by_images)


def test_untrusted_text_is_escaped(shown: tuple[RetrievalSet, str]) -> None:
    _, page = shown
    read = Reader(page)
    assert {tag for tag, _ in read.elements}.isdisjoint({"b", "i"})
    assert HOSTILE in read.text, "told as it is, placeholders of the template too"
    assert "<i>m</i> on toy dev, x-<b>" in read.text
    assert "x-<b>" in read.attributes("span", "lang")
    assert set(read.attributes("span", "dir")) == {"auto"}


def test_the_page_is_self_contained(shown: tuple[RetrievalSet, str]) -> None:
    _, page = shown
    assert_self_contained(page)
    assert "prefers-color-scheme: dark" in page


def test_every_missed_query_shows_expected_and_retrieved_items(shown: tuple[RetrievalSet, str]) -> None:
    _, page = shown
    articles = re.findall(r'<article id="([^"]+)">(.*?)</article>', page, re.DOTALL)
    assert [anchor for anchor, _ in articles] == ["caption-1", "caption-2", "caption-3", "image-1", "image-2"]
    worst = Reader(articles[0][1])
    assert "expected result at rank 4 of 4, score 0.000; top result scores 1.000 · 2.png#0" in worst.text
    assert worst.attributes("img", "alt") == ["3.png", "0.png", "1.png"], "in the order of their scores"
    assert articles[0][1].count('<span class="missing">2.png: ') == 2, "a damaged image is told, expected and found"
    assert "expected result at rank 3 of 4, score 0.000; top result scores 1.000 · 1.png#0" in articles[1][1]
    image = Reader(articles[4][1])
    assert image.attributes("img", "alt")[0] == "1.png"
    assert "expected result at rank 2 of 4, score 0.000; top result scores 1.000 · 1.png" in image.text
    assert image.text.count("كلب أسود (ranked highest)") == 1
    assert (
        "Of 4 captions, 4 do not have their own image as the top result among 4 images; the 3 worst are shown." in page
    )
    assert "Of 3 images, 2 do not have their own caption as the top result among 4 captions; all are shown." in page


def test_a_page_without_missed_queries(tmp_path: Path) -> None:
    found = gallery(tmp_path / "pictures", {"en": Captions.of([("0.png", "a"), ("1.png", "b")])}, images=2)
    eye = np.eye(2, dtype=np.float32)
    by_captions, by_images = worst_queries_both_ways(eye, eye, np.array([0, 1]), count=50)
    page = missed_queries_page(found, "en", model="m", captions=by_captions, images=by_images)
    assert "<article" not in page
    assert "Of 2 captions, 0 do not have their own image as the top result among 2 images; all are shown." in page


@pytest.mark.parametrize(("size", "expected"), [((640, 320), (160, 80)), ((90, 30), (90, 30)), ((30, 900), (5, 160))])
def test_a_thumbnail_keeps_its_shape_and_never_grows(size: tuple[int, int], expected: tuple[int, int]) -> None:
    data = io.BytesIO()
    Image.new("RGBA", size, (200, 10, 10, 255)).save(data, "PNG")
    with Image.open(io.BytesIO(thumbnail(data.getvalue()))) as small:
        assert (small.format, small.mode, small.size) == ("JPEG", "RGB", expected)
        assert max(small.size) <= SIDE


def test_a_thumbnail_needs_an_image() -> None:
    with pytest.raises(ImageError):
        thumbnail(base64.b64decode("AAAA"))
