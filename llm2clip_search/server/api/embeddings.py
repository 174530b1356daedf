"""``/v1/embeddings``: embeddings of texts and images, as OpenAI's clients ask for them."""

import base64
import binascii
from typing import Annotated, Literal

from msgspec import Meta, Struct

from llm2clip_search.encoders.isolation import isolated
from llm2clip_search.server.endpoint import Call, Endpoint
from llm2clip_search.server.pictures.uploads import MAX_PIXELS, plain
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.terms import LONGEST

MOST = 128
"""Inputs of one request."""


class EmbeddingInput(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A text or an image: exactly one of the two."""

    text: Annotated[str, Meta(max_length=LONGEST)] | None = None
    image: str | None = None
    """The content of an image file in base64, or as a ``data:`` URL."""


Input = Annotated[str, Meta(max_length=LONGEST)] | EmbeddingInput


class EmbeddingsRequest(Struct, kw_only=True, frozen=True):
    """What to embed; fields of OpenAI's API that do not apply here are ignored."""

    input: Input | Annotated[list[Input], Meta(min_length=1, max_length=MOST)]
    model: str = ""
    """The name of the model that is served, or empty."""
    encoding_format: Literal["float", "base64"] = "float"
    """base64 is little-endian float32."""


class Embedding(Struct, kw_only=True, frozen=True):
    """One embedding."""

    index: int
    """Place of its input."""
    embedding: list[float] | str
    """Of length 1."""
    object: Literal["embedding"] = "embedding"


class Usage(Struct, kw_only=True, frozen=True):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Struct, kw_only=True, frozen=True):
    """Embeddings in the order of the inputs."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


def embeddings(call: Call, body: EmbeddingsRequest) -> EmbeddingsAnswer:
    """Embed texts and images in the space that they share."""
    import numpy as np

    encoder = call.opened.searcher.encoder
    if body.model not in ("", encoder.name):
        raise Problem("not-found", f"The model {body.model!r} is not served, but {encoder.name!r}.", parameter="model")
    given = body.input if isinstance(body.input, list) else [body.input]
    inputs = [EmbeddingInput(text=each) if isinstance(each, str) else each for each in given]
    texts = {place: each.text for place, each in enumerate(inputs) if each.text is not None and each.image is None}
    images = {
        place: _content(each.image, place)
        for place, each in enumerate(inputs)
        if each.image is not None and each.text is None
    }
    if len(texts) + len(images) < len(inputs):
        raise Problem("bad-request", "An input has exactly one of text and image.", parameter="input")
    vectors = np.empty((len(inputs), encoder.dim), dtype=np.float32)
    if texts:
        vectors[list(texts)] = encoder.encode_texts(list(texts.values()))
    if images:
        shortest = encoder.preprocess.shortest
        for place, data in images.items():  # one after the other: a small file may be a picture of 300 MB
            picture = isolated(plain, data, shortest, max_pixels=MAX_PIXELS)
            vectors[place] = encoder.encode_images([picture])[0]
    count = sum(encoder.count_tokens(list(texts.values()))) if texts else 0
    return EmbeddingsAnswer(
        data=[
            Embedding(index=place, embedding=_encoded(row.astype("<f4").tobytes(), row.tolist(), body.encoding_format))
            for place, row in enumerate(vectors)
        ],
        model=encoder.name,
        usage=Usage(prompt_tokens=count, total_tokens=count),
    )


def _encoded(data: bytes, values: list[float], form: Literal["float", "base64"]) -> list[float] | str:
    return values if form == "float" else base64.b64encode(data).decode()


def _content(image: str, place: int) -> bytes:
    head, comma, rest = image.partition(",")
    data = rest if comma and head.startswith("data:") and head.endswith(";base64") else image
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(
            "bad-request", f"The image of input {place} is not base64.", parameter=f"input[{place}].image"
        ) from error


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/embeddings",
        handle=embeddings,
        summary="Embed texts and images, as OpenAI's clients ask for it.",
        body=EmbeddingsRequest,
        answer=EmbeddingsAnswer,
        pool="search",
        prefix="/v1",
    ),
)
