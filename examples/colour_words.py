"""An encoder of ten lines: an image is its mean colour, a caption the colours that it names.

It needs no weights, so it serves as a test double and as the shortest description of what an encoder has to do.

    python examples/colour_words.py
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from llm2clip_search import Encoder, ModelIdentity, PreprocessConfig
from llm2clip_search.base.vectors import unit


class ColourWords(Encoder):
    identity, dim, max_tokens = ModelIdentity.from_name("colour-words"), 3, 77
    preprocess = PreprocessConfig(height=8, width=8)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return unit(pixels.mean(axis=(1, 2)))

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        return unit(np.array([[colour in text for colour in ("red", "green", "blue")] for text in texts]))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


if __name__ == "__main__":
    encoder = ColourWords()
    squares = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    print(np.round(encoder.encode_texts(["a red square", "green and blue"]) @ encoder.encode_images(squares).T, 2))
