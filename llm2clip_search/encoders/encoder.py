"""The one interface to every encoder: images and captions to unit vectors of one space."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from PIL import Image

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.vectors import unit
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.images import ImageInput, read_rgb, stack_pixels
from llm2clip_search.encoders.placement import Quantize
from llm2clip_search.encoders.registry import DEFAULT_MODEL, Model, resolve
from llm2clip_search.encoders.tokenization import CaptionTokenizer
from llm2clip_search.encoders.towers import Runtime, Tower, load_tower

__all__ = ["Encoder", "ModelIdentity", "load_encoder"]


class Encoder:
    """A vision tower and a text tower that share a space; each loads when it is first used.

    Attributes:
        dim: width of the shared space.
        max_tokens: tokens of a caption that the text tower reads, special tokens included.
        fingerprint: 16 hex digits, equal for two encoders exactly if their embeddings are.
    """

    def __init__(
        self, model: Model, *, runtime: Runtime = "auto", device: str = "auto", quantize: Quantize = "none"
    ) -> None:
        self.model = model
        self.name = model.reference
        self.dim = model.config.dim
        self.max_tokens = model.config.text.max_tokens
        self._runtime = runtime
        self._device = device
        self._quantize: Quantize = quantize

    @property
    def identity(self) -> ModelIdentity:
        return self.model.identity

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint

    @property
    def preprocess(self) -> PreprocessConfig:
        return self.model.config.vision.preprocess

    @cached_property
    def _vision(self) -> Tower:
        return load_tower(self.model, "vision", runtime=self._runtime, device=self._device)

    @cached_property
    def _text(self) -> Tower:
        return load_tower(self.model, "text", runtime=self._runtime, device=self._device, quantize=self._quantize)

    @cached_property
    def _tokenizer(self) -> CaptionTokenizer:
        return self.model.tokenizer()

    def encode_images(self, images: Iterable[ImageInput], *, batch_size: int = 32) -> np.ndarray:
        """Embed images: paths, PIL images, or arrays ``[H, W(, 3|4)]`` of uint8 or of floats on 0..1.

        Returns:
            C-contiguous float32 ``[n, dim]``, L2-normalised.

        Raises:
            ImageError: an image that cannot be read, with its path.
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

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embed what `images.to_pixels` made: uint8 ``[n, height, width, 3]`` to float32 ``[n, dim]``."""
        if len(pixels) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        return unit(self._vision({"pixels": pixels}))

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embed captions; each is cut at ``max_tokens`` (`count_tokens` tells which).

        Captions are batched by their number of tokens, so that little is spent on padding: by characters, a
        quarter of what the tower reads would be.

        Returns:
            C-contiguous float32 ``[n, dim]``, L2-normalised, in the order given.
        """
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        order = np.argsort(self.count_tokens(texts), kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            tokens = self._tokenizer([texts[row] for row in rows])
            out[rows] = unit(self._text(tokens._asdict()))
        return out

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each caption before any cut, special tokens included."""
        return self._tokenizer.count(texts)


def load_encoder(
    name: str = DEFAULT_MODEL, *, runtime: Runtime = "auto", device: str = "auto", quantize: Quantize = "none"
) -> Encoder:
    """The encoder of a name: ``nano``, ``open_clip:ARCH/TAG``, ``hf:OWNER/REPO`` or ``dir:PATH``.

    Args:
        runtime: ``onnx`` compiles each tower for the CPU at its first use, ``torch`` runs it as it is,
            ``auto`` picks ONNX on a CPU that has ONNX Runtime.
        device: any of torch's device names, or ``auto``: each tower by itself on the GPU, if it fits there.
        quantize: ``8bit`` or ``4bit`` for the linear layers of an LLM text tower; needs bitsandbytes or torchao.
            The fingerprint is that of the whole precision, whose embeddings these are close to.

    Raises:
        ModelError: a name of no model, or a configuration that cannot be read.
    """
    return Encoder(resolve(name), runtime=runtime, device=device, quantize=quantize)
