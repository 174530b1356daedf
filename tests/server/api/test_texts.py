"""What of a caption is read, and what of it mattered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from llm2clip_search.engine.captions import clean_caption, cut_at
from llm2clip_search.server.api.texts import MOST_PHRASES, split
from tests.support.encoders import ColourEncoder


@given(st.text(max_size=300))
def test_the_cut_is_the_last_word_that_fits(text: str) -> None:
    encoder = ColourEncoder()
    count, at = cut_at(encoder, text)
    assert count == encoder.count_tokens([clean_caption(text)])[0]
    assert (at is None) == (count <= encoder.max_tokens)
    if at is not None:
        [read] = encoder.count_tokens([clean_caption(text[:at])])
        assert read <= encoder.max_tokens
        [more] = encoder.count_tokens([clean_caption(text[: at + len(text[at:].split(maxsplit=1)[0]) + 1])])
        assert more >= read


def test_tokens_are_counted_and_the_cut_is_named(client: TestClient) -> None:
    long = " ".join(f"w{number}" for number in range(30))
    answer = client.post("/api/v1/tokens", json={"texts": ["a wet dog", long, ""]}).json()
    assert answer["limit"] == 24
    assert [text["count"] for text in answer["texts"]] == [4, 31, 1]
    assert [text["cut"] is None for text in answer["texts"]] == [True, False, True]
    assert long[: answer["texts"][1]["cut"]].split()[-1] == "w22"


def test_the_effect_of_a_phrase_is_the_score_without_it(client: TestClient) -> None:
    caption = "two red boats, a pier and a dog"
    answer = client.post("/api/v1/phrases", json={"text": caption, "id": "4"}).json()

    def score(text: str) -> float:
        body = {"terms": [{"text": text}], "k": 50}
        hits = client.post("/api/v1/search", json=body).json()["hits"]
        return float(next(hit["score"] for hit in hits if hit["id"] == "4"))

    assert answer["score"] == pytest.approx(score(caption), abs=1e-5)
    spans = [(phrase["start"], phrase["end"]) for phrase in answer["phrases"]]
    assert [caption[start:end] for start, end in spans] == ["two red boats,", "a pier", "and a dog"]
    for phrase in answer["phrases"]:
        rest = caption[: phrase["start"]] + " " + caption[phrase["end"] :]
        assert phrase["effect"] == pytest.approx(answer["score"] - score(rest), abs=1e-5)


@given(st.text(max_size=400))
def test_phrases_follow_each_other_and_are_few(text: str) -> None:
    spans = list(split(text))
    assert len(spans) <= MOST_PHRASES
    end = 0
    for start, stop in spans:
        assert end <= start < stop <= len(text)
        end = stop


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("tokens", {"texts": ["a"] * 33}, 400),
        ("tokens", {"texts": ["a" * 20_001]}, 400),
        ("tokens", {}, 400),
        ("phrases", {"text": " ", "id": "1"}, 400),
        ("phrases", {"text": "a", "id": "99999"}, 404),
        ("phrases", {"text": "a", "id": "1@2"}, 404),
        ("phrases", {"text": "a", "id": "x"}, 400),
    ],
)
def test_what_is_refused(client: TestClient, path: str, body: object, status: int) -> None:
    answer = client.post(f"/api/v1/{path}", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
