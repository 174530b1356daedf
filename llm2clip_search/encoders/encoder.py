"""The encoder protocol: images and captions as unit vectors in one shared space."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, Protocol

import numpy as np

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.encoders.calibration import Calibration
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.inputs import ImageInput, captions_of, images_of
from llm2clip_search.errors import InputError


class Encoder(Protocol):
    """What the indexers, the engine and the benchmarks need from a model.

    Subclass it explicitly to inherit `name`, `fingerprint`, `training_data`, `calibration`, `text_precision`,
    `batch_size`, `calls_at_once`, `wants_processes`, `load_for`, `caption_sample` and `encode_images`; everything else
    is abstract. Whatever a caller passes to `encode_texts` and `count_tokens`, the subclass's own method receives a
    list of strings, which is not empty for `encode_texts`:

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
    calibration: Calibration | None = None
    """How scores of captions become probabilities; None if that is unknown."""
    text_precision: str = "exact"
    """Names what is rounded in the text tower, such as 8-bit weights, which changes embeddings of captions a little
    though the fingerprint is the same; ``exact`` if nothing is. A cache of embeddings keeps them apart by it."""

    batch_size: int = 32
    """Images in one call of `encode_pixels` with which it is fastest."""
    calls_at_once: int = 1
    """Threads that have to call `encode_pixels` to keep its device busy."""
    wants_processes: bool = False
    """Whether its device is faster than the threads of one process can decode images, so that others should do so."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, around in (("encode_texts", _encoding), ("count_tokens", _counting)):
            if name in vars(cls):
                setattr(cls, name, around(vars(cls)[name]))

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

        Args:
            texts: one caption, or any iterable of captions, such as a generator or a column of a table; an empty
                caption has the embedding that the model gives to no words.

        Returns:
            C-contiguous float32 ``[n, dim]``, L2-normalised, in the order of ``texts``; ``[1, dim]`` for one caption.

        Raises:
            InputError: something that is not a string of valid Unicode; the message names the first.
        """

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each caption before truncation, special tokens included; arguments as `encode_texts`."""

    def load_for(self, texts: Sequence[str]) -> None:
        """Begin to embed these captions, or to load what that takes, for callers that have something else to do first.

        It does nothing by default. What goes wrong is an error of `encode_texts`.
        """
        return

    def caption_sample(self, count: int) -> np.ndarray | None:
        """Embeddings of captions that the model brings along; the recall of approximate search is measured with them.

        Returns:
            float32 ``[at most count, dim]``, L2-normalised; None if it brings none.
        """
        return None

    def encode_images(self, images: ImageInput | Iterable[ImageInput], *, batch_size: int = 32) -> np.ndarray:
        """Embed images.

        Args:
            images: one image as `ImageInput` describes it, any iterable of images, or an array ``[n, H, W, 3]``.

        Returns:
            C-contiguous float32 ``[n, dim]``, L2-normalised; ``[1, dim]`` for one image.

        Raises:
            ImageError: an image cannot be read; the message names its path.
            InputError: something that is not an image.
        """
        from llm2clip_search.encoders.images import read_rgb, to_pixels

        out = [np.empty((0, self.dim), dtype=np.float32)]
        batch: list[np.ndarray] = []
        for image in images_of(images):
            # Of a large image only what the tower sees is kept.
            batch.append(to_pixels(read_rgb(image, shortest=self.preprocess.shortest), self.preprocess))
            if len(batch) == batch_size:
                out.append(self.encode_pixels(np.stack(batch)))
                batch.clear()
        if batch:
            out.append(self.encode_pixels(np.stack(batch)))
        return np.concatenate(out)


def _encoding(method: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A subclass's `encode_texts` behind `captions_of`, so that no author can forget it."""

    @wraps(method)
    def encode_texts(self: Encoder, texts: object, **options: Any) -> np.ndarray:
        captions = captions_of(texts)
        if not captions:
            return np.empty((0, self.dim), dtype=np.float32)
        for caption in captions:
            try:
                caption.encode()
            except UnicodeEncodeError as error:  # half of a pair of surrogates, as of bytes that are not UTF-8
                raise InputError(f"The caption {caption!a} is not valid Unicode.") from error
        return method(self, captions, **options)

    return encode_texts


def _counting(method: Callable[..., list[int]]) -> Callable[..., list[int]]:
    @wraps(method)
    def count_tokens(self: Encoder, texts: object) -> list[int]:
        return method(self, captions_of(texts))

    return count_tokens
