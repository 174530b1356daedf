"""Captions to token ids, the count of tokens a caption has, and the cut at what the tower reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.errors import ModelError


class TokenBatch(NamedTuple):
    """Three int64 arrays ``[n, length]``."""

    ids: np.ndarray
    attention_mask: np.ndarray
    """1 where a token is read, 0 on padding."""
    pooling_mask: np.ndarray
    """1 where a state is pooled: the caption's own tokens, without prefix and padding."""


class CaptionTokenizer(Protocol):
    """What an encoder needs of a tokenizer."""

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        """Token ids of a batch, cut at what the tower reads and padded to its longest caption."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each whole caption, special tokens included, before any cut."""


class LLMTokenizer:
    """A ``tokenizer.json`` read by the tokenizers library: no import of transformers, no torch."""

    def __init__(self, folder: Path, config: TextConfig) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.exists():
            raise ModelError(f"{folder} holds no tokenizer.json, which its text tower needs.")
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = config.max_tokens
        self._prefix = self._ids([config.instruction], special=True)[0]
        if not self._prefix:
            # A state that every other token may rest on; decoders without one put it on the first word.
            self._prefix = [self._begin_token()]

    def _begin_token(self) -> int:
        for name in ("<|begin_of_text|>", "<s>", "<bos>", "<|im_start|>", "<|endoftext|>"):
            if (found := self._tokenizer.token_to_id(name)) is not None:
                return int(found)
        return 0

    def _ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=special)]

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(self._prefix) + len(ids) for ids in self._ids(texts, special=False)]

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        room = self._max_tokens - len(self._prefix)
        captions = [ids[:room] for ids in self._ids(texts, special=False)]
        longest = max((len(ids) for ids in captions), default=0) + len(self._prefix)
        batch = TokenBatch(*(np.zeros((len(captions), longest), dtype=np.int64) for _ in range(3)))
        for row, ids in enumerate(captions):
            end = len(self._prefix) + len(ids)
            batch.ids[row, :end] = self._prefix + ids
            batch.attention_mask[row, :end] = 1
            batch.pooling_mask[row, len(self._prefix) : end] = 1
            if not ids:  # an empty caption still has a state to pool: the prefix's last
                batch.pooling_mask[row, end - 1] = 1
        return batch


class TransformersTokenizer:
    """The tokenizer of a transformers CLIP or SigLIP folder, padded as its training was."""

    def __init__(self, folder: Path, config: TextConfig) -> None:
        from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

        ensure_torchvision()
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._max_tokens = config.max_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer(list(texts), truncation=False)["input_ids"]]

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        out = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._max_tokens,
            return_attention_mask=True,
            return_tensors="np",
        )
        mask = out["attention_mask"].astype(np.int64)
        return TokenBatch(out["input_ids"].astype(np.int64), mask, mask)


class OpenClipTokenizer:
    """The tokenizer that open_clip pairs with an architecture."""

    def __init__(self, config: TextConfig) -> None:
        from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

        ensure_torchvision()
        import open_clip

        self._tokenizer: Any = open_clip.get_tokenizer(config.architecture)

    def count(self, texts: Sequence[str]) -> list[int]:
        if hasattr(self._tokenizer, "encode"):
            return [len(self._tokenizer.encode(text)) + 2 for text in texts]
        return [len(ids) for ids in self._tokenizer.tokenizer(list(texts))["input_ids"]]

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        ids = self._tokenizer(list(texts)).numpy().astype(np.int64)
        ones = np.ones_like(ids)
        return TokenBatch(ids, ones, ones)
