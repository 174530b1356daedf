"""A caption-tuned LLM as an encoder of texts, for a cluster whose processes each load it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.cluster.work import EncoderSource
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.config import PreprocessConfig, TextConfig
from llm2clip_search.encoders.placement import pick_device
from llm2clip_search.training.tasks.llm_folder import CaptionEmbedder, clip_identity, read_llm


class CaptionEncoder(Encoder):
    """Embeds captions as `CaptionEmbedder` does; it has no vision tower."""

    max_tokens = 0
    preprocess = PreprocessConfig(height=1, width=1)

    def __init__(self, llm: Path, *, device: str, clip: TextConfig | None) -> None:
        """Load the LLM.

        Raises:
            ModelError: as `read_llm` and `LLMFolder.embedder`.
        """
        folder = read_llm(llm)
        self.identity = ModelIdentity.from_name(f"{folder.fingerprint} {clip_identity(clip)}".strip())
        self.embedder: CaptionEmbedder = folder.embedder(pick_device(device), clip)
        self.dim = self.embedder.width

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        return self.embedder(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.embedder.tokenize.count(texts)

    def source(self, llm: Path, *, device: str, clip: TextConfig | None) -> EncoderSource:
        """Where other machines get it from: the same folder."""
        return EncoderSource(
            name=str(llm),
            load_anew=partial(CaptionEncoder, llm.absolute(), device=device, clip=clip),
            fingerprint=self.fingerprint,
            dim=self.dim,
            preprocess=self.preprocess,
        )
