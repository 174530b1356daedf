"""Encoders that replace the towers."""

from collections.abc import Sequence

import numpy as np

from llm2clip_search.encoders import Encoder, ModelIdentity
from llm2clip_search.encoders.config import PreprocessConfig


class PixelEncoder(Encoder):
    """Embeds an image as its pixels at 24 x 24, centred: a cosine says how alike two pictures look."""

    def __init__(self) -> None:
        self.identity = ModelIdentity.from_name("pixels")
        self.dim, self.max_tokens = 24 * 24 * 3, 24
        self.preprocess = PreprocessConfig(height=24, width=24)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        vectors = pixels.reshape(len(pixels), self.dim).astype(np.float32) - 127.5
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        raise NotImplementedError

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        raise NotImplementedError


class ColourEncoder(Encoder):
    """Replaces the towers where only the code around them is tested: an image is embedded as its coarse colours, a
    caption as a random vector seeded by its bytes. Counts what it embeds, and the images among that."""

    def __init__(self, dim: int = 16) -> None:
        self.identity = ModelIdentity.from_name(f"colours:{dim}")
        self.dim, self.max_tokens = dim, 24
        self.preprocess = PreprocessConfig(height=160, width=160)
        self.embedded = self.images = 0

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        self.embedded += len(pixels)
        self.images += len(pixels)
        if len(pixels) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        coarse = pixels[:, 20::40, 20::40, :].reshape(len(pixels), -1).astype(np.float32)[:, : self.dim] - 127.5
        unit: np.ndarray = coarse / np.maximum(np.linalg.norm(coarse, axis=1, keepdims=True), 1e-6)
        return unit

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        self.embedded += len(texts)
        rows = [np.random.default_rng(sum(text.encode())).normal(size=self.dim) for text in texts]
        vectors = np.array(rows, dtype=np.float32).reshape(-1, self.dim)
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [1 + len(text.split()) for text in texts]
