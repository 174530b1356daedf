"""The encoder protocol: images and captions as unit vectors in one shared space."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.images import ImageInput, read_rgb, stack_pixels


class Encoder(Protocol):
    """What the indexers, the engine and the benchmarks need from a model.

    Subclass it explicitly to inherit `name`, `fingerprint`, `training_data`, `caption_sample` and `encode_images`;
    everything else is abstract:

    >>> class ConstantEncoder(Encoder):
    ...     identity, dim, max_tokens = ModelIdentity.from_name("constant"), 4, 77
    ...     preprocess = PreprocessConfig(height=32, width=32)
    ...     def encode_pixels(self, pixels):
    ...         return np.full((len(pixels), 4), 0.5, dtype=np.float32)
    ...     def encode_texts(self, texts, *, batch_size=64):
    ...         return np.full((len(texts), 4), 0.5, dtype=np.float32)
    ...     def count_tokens(self, texts):
    ...         return [len(text.split()) for text in texts]
    """

    identity: ModelIdentity
    """Name and hashes of the model; an index stores it and refuses an encoder with another fingerprint."""
    dim: int
    """Width of the shared space."""
    max_tokens: int
    """Number of tokens that the text tower reads, special tokens included; longer captions are truncated."""
    preprocess: PreprocessConfig
    """How an image becomes the pixels that `encode_pixels` takes."""
    training_data: tuple[str, ...] = ()
    """What the model card lists as training data, one line per data set."""

    @property
    def name(self) -> str:
        """Name that `load_encoder` resolves to this encoder again."""
        return self.identity.name

    @property
    def fingerprint(self) -> str:
        """16 hex digits; equal for two encoders if and only if their embeddings are."""
        return self.identity.fingerprint

    @abstractmethod
    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embed preprocessed images.

        Args:
            pixels: uint8 ``[n, height, width, 3]``, as `images.to_pixels` makes them.

        Returns:
            C-contiguous float32 ``[n, dim]``, L2-normalised.
        """

    @abstractmethod
    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embed captions; each is truncated to ``max_tokens`` tokens.

        Returns:
            C-contiguous float32 ``[n, dim]``, L2-normalised, in the order of ``texts``.
        """

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each caption before truncation, special tokens included."""

    def caption_sample(self, count: int) -> np.ndarray | None:
        """Embeddings of captions that the model brings along; the recall of approximate search is measured with them.

        Returns:
            float32 ``[at most count, dim]``, L2-normalised; None if it brings none.
        """
        return None

    def encode_images(self, images: Iterable[ImageInput], *, batch_size: int = 32) -> np.ndarray:
        """Embed images: paths, PIL images, or arrays ``[H, W(, 3|4)]`` of uint8 or of floats in 0..1.

        Returns:
            C-contiguous float32 ``[n, dim]``, L2-normalised.

        Raises:
            ImageError: an image cannot be read; the message names its path.
        """
        out: list[np.ndarray] = []
        batch: list[Image.Image] = []
        for image in images:
            batch.append(read_rgb(image, shortest=self.preprocess.shortest))
            if len(batch) == batch_size:
                out.append(self.encode_pixels(stack_pixels(batch, self.preprocess)))
                batch.clear()
        out.append(self.encode_pixels(stack_pixels(batch, self.preprocess)))
        return np.concatenate(out)
