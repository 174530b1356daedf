"""Captions to token ids, the count of tokens a caption has, and the cut at what the tower reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.errors import ModelError


class TokenBatch(NamedTuple):
    """Three int64 arrays ``[n, length]``; the fields are a text tower's inputs by name and order."""

    ids: np.ndarray
    attention_mask: np.ndarray
    """1 where a token is read, 0 on padding."""
    pooling_mask: np.ndarray
    """1 where a state is pooled: the tokens of caption and suffix, without prefix and padding."""


class FusedTokenBatch(NamedTuple):
    """What a tower reads that fuses an LLM's state with CLIP's text embedding."""

    ids: np.ndarray
    attention_mask: np.ndarray
    pooling_mask: np.ndarray
    clip_ids: np.ndarray
    """int64 ``[n, clip_length]``, cut and padded to what CLIP's tower reads."""


class CaptionTokenizer(Protocol):
    """What an encoder needs of a tokenizer."""

    def __call__(self, texts: Sequence[str]) -> TokenBatch | FusedTokenBatch:
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
        self._suffix = self._ids([config.suffix], special=False)[0]
        self._prefix = self._prefix_of(config.instruction)

    def _prefix_of(self, instruction: str) -> list[int]:
        prefix = self._ids([instruction], special=True)[0]
        if len(prefix) + len(self._suffix) >= self._max_tokens:
            around = "An instruction and a suffix have" if self._suffix else "An instruction has"
            raise ModelError(
                f"{around} {len(prefix) + len(self._suffix)} tokens, but the tower reads {self._max_tokens} in all."
            )
        # A state that every other token may rest on; decoders without one put it on the first word.
        return prefix or [self._begin_token()]

    def _begin_token(self) -> int:
        for name in ("<|begin_of_text|>", "<s>", "<bos>", "<|im_start|>", "<|endoftext|>"):
            if (found := self._tokenizer.token_to_id(name)) is not None:
                return int(found)
        return 0

    def _ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=special)]

    def count(self, texts: Sequence[str]) -> list[int]:
        around = len(self._prefix) + len(self._suffix)
        return [around + len(ids) for ids in self._caption_ids(texts)]

    def _caption_ids(self, texts: Sequence[str]) -> list[list[int]]:
        # Space in front of a suffix would be tokens that no tower with one was trained on.
        return self._ids([text.rstrip() for text in texts] if self._suffix else texts, special=False)

    def __call__(self, texts: Sequence[str], instructions: Sequence[str] | None = None) -> TokenBatch:
        """Token ids of a batch; ``instructions``, one a text, stand in for the configuration's.

        Raises:
            ModelError: an instruction that leaves the caption no token.
        """
        prefixes = [self._prefix_of(text) for text in instructions] if instructions else [self._prefix] * len(texts)
        rows = [
            (prefix, ids[: self._max_tokens - len(prefix) - len(self._suffix)] + self._suffix)
            for prefix, ids in zip(prefixes, self._caption_ids(texts), strict=True)
        ]
        longest = max((len(prefix) + len(ids) for prefix, ids in rows), default=0)
        batch = TokenBatch(*(np.zeros((len(rows), longest), dtype=np.int64) for _ in range(3)))
        for row, (prefix, ids) in enumerate(rows):
            end = len(prefix) + len(ids)
            batch.ids[row, :end] = prefix + ids
            batch.attention_mask[row, :end] = 1
            batch.pooling_mask[row, len(prefix) : end] = 1
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


class FusedTokenizer:
    """A caption for both towers; its tokens are counted as the LLM's, which reads what CLIP's cuts off."""

    def __init__(self, llm: CaptionTokenizer, clip: CaptionTokenizer) -> None:
        self._llm, self._clip = llm, clip

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._llm.count(texts)

    def __call__(self, texts: Sequence[str]) -> FusedTokenBatch:
        tokens = self._llm(texts)
        return FusedTokenBatch(tokens.ids, tokens.attention_mask, tokens.pooling_mask, self._clip(texts).ids)


def caption_tokenizer(text: TextConfig, folder: Path | None) -> CaptionTokenizer:
    """The tokenizer of a text tower; an LLM's loads neither torch nor transformers.

    Args:
        folder: of the model, where an LLM's ``tokenizer.json`` lies.

    Raises:
        ModelError: a tokenizer that is not there.
    """
    if text.library == "open_clip":
        return OpenClipTokenizer(text)
    if text.library == "transformers":
        assert text.weights is not None, "transformers text towers are resolved with their source"
        return TransformersTokenizer(fetch(text.weights, relative_to=folder).path, text)
    assert folder is not None, "LLM text towers are resolved from a folder"
    llm = LLMTokenizer(folder, text)
    return FusedTokenizer(llm, caption_tokenizer(text.clip, folder)) if text.clip else llm
