"""An example plug-in: the corpus ``gradients://COUNT`` and the encoder ``example:colours``."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from llm2clip_search import Corpus, CorpusError, Encoder, Item, ModelError, ModelIdentity, PreprocessConfig
from llm2clip_search.base.vectors import unit


class Gradients(Corpus):
    """Generated pictures: number n is red at n = 0 and turns to blue."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        count = uri.partition("://")[2]
        if not count.isdecimal():
            raise CorpusError(f"{uri} does not say how many pictures there are, as in gradients://12.")
        self.count = int(count)

    @property
    def uri(self) -> str:
        return self._uri

    def items(self) -> Iterator[Item]:
        for number in range(self.count):
            yield Item(uri=f"{self.uri}/{number}", version="1")

    def open(self, item: Item) -> bytes:
        blue = round(255 * int(item.uri.rpartition("/")[2]) / max(1, self.count - 1))
        data = io.BytesIO()
        Image.new("RGB", (32, 24), (255 - blue, 0, blue)).save(data, "PNG")
        return data.getvalue()


class Colours(Encoder):
    """An image is its mean colour, a caption the colours that it names."""

    identity, dim, max_tokens = ModelIdentity.from_name("example:colours"), 3, 77
    preprocess = PreprocessConfig(height=8, width=8)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return unit(pixels.mean(axis=(1, 2)))

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        return unit(np.array([[colour in text for colour in ("red", "green", "blue")] for text in texts]))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def load_example(reference: str) -> Encoder:
    """The encoder of a reference such as ``example:colours``."""
    if reference != "example:colours":
        raise ModelError(f"There is no model {reference!r}; the example has one, example:colours.")
    return Colours()
