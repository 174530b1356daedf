"""Embeddings over HTTP, as OpenAI's clients ask for them."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.support.encoders import ColourEncoder
from tests.support.images import photograph

URL = "/v1/embeddings"


def content() -> bytes:
    out = io.BytesIO()
    photograph(5, size=(64, 48)).save(out, "PNG")
    return out.getvalue()


def test_texts_and_images_share_a_space(client: TestClient) -> None:
    encoded = base64.b64encode(content()).decode()
    inputs = ["a dog", {"image": encoded}, {"text": "a cat"}, {"image": f"data:image/png;base64,{encoded}"}]
    answer = client.post(URL, json={"model": "colours:16", "input": inputs, "user": "somebody"}).json()
    encoder = ColourEncoder()
    image = encoder.encode_images([content()])[0]
    dog, cat = encoder.encode_texts(["a dog", "a cat"])
    found = [each["embedding"] for each in answer["data"]]
    assert [each["index"] for each in answer["data"]] == [0, 1, 2, 3]
    assert np.array(found) == pytest.approx(np.stack([dog, image, cat, image]))
    assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


def test_base64_holds_float32(client: TestClient) -> None:
    answer = client.post(URL, json={"input": "a dog", "encoding_format": "base64"}).json()
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")
    assert vector == pytest.approx(ColourEncoder().encode_texts(["a dog"])[0])


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({}, 400),
        ({"input": []}, 400),
        ({"input": ["a"] * 129}, 400),
        ({"input": {}}, 400),
        ({"input": {"text": "a", "image": "AA=="}}, 400),
        ({"input": [1, 2]}, 400),
        ({"input": {"image": "?"}}, 400),
        ({"input": {"image": "AAAA"}}, 422),
        ({"input": "a", "model": "gpt"}, 404),
    ],
)
def test_what_is_refused(client: TestClient, asked: dict[str, Any], status: int) -> None:
    answer = client.post(URL, json=asked)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
