"""Captions to token ids: tokenised once, counted, truncated and padded for a text tower."""

import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from llm2clip_search.base.lazy import Lazy
from llm2clip_search.base.memory import return_freed_memory
from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TokenBatch(NamedTuple):
    """Three int64 arrays ``[n, length]``; names and order are those of a text tower's inputs."""

    ids: np.ndarray
    attention_mask: np.ndarray
    """1 for a token, 0 for padding."""
    pooling_mask: np.ndarray
    """1 where the state is pooled: the tokens of caption and suffix, but neither instruction nor padding."""


class FusedTokenBatch(NamedTuple):
    """Inputs of a tower that fuses an LLM's state with CLIP's text embedding."""

    ids: np.ndarray
    attention_mask: np.ndarray
    pooling_mask: np.ndarray
    clip_ids: np.ndarray
    """int64 ``[n, clip_length]``, truncated and padded to the length that CLIP's tower reads."""


class TokenizedCaption(NamedTuple):
    """One caption's tokens."""

    ids: Sequence[int]
    """An LLM's caption is whole and without special tokens; a CLIP tower's is truncated and has them."""
    length: int
    """Number of tokens before truncation, special tokens included."""
    clip: "TokenizedCaption | None" = None
    """The same caption for the CLIP tower of a fused one."""
    whole: tuple[list[int], list[int]] | None = None
    """What an LLM reads of the caption behind its configuration's instruction, where that is not the instruction's
    tokens, the caption's and the suffix's one after the other: the tokens that are not pooled, and those that are."""


class CaptionTokenizer(Protocol):
    """Tokenizer of a text tower. Any number of threads may use it."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> list[TokenizedCaption]:
        """Tokenise each caption once, for `batch` to build batches from."""

    @abstractmethod
    def batch(self, captions: Sequence[TokenizedCaption]) -> TokenBatch | FusedTokenBatch:
        """A batch of captions, truncated to what the tower reads and padded."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each caption before truncation, special tokens included."""
        return [caption.length for caption in self.tokenize(texts)]

    def __call__(self, texts: Sequence[str]) -> TokenBatch | FusedTokenBatch:
        """Tokenise captions and make one batch of them."""
        return self.batch(self.tokenize(texts))


def _cased(texts: Sequence[str], *, lower: bool) -> list[str]:
    return [text.lower() for text in texts] if lower else list(texts)


class LibraryTokenizer:
    """A ``tokenizer.json`` and the tokenizers library, which parses it only if `BytePairs` cannot stand in for it.

    They do for the first texts of a process. When that has taken as long as parsing takes, the file is parsed, so that
    neither a query by itself nor the thousandth of a server waits longer than it must.
    """

    def __init__(self, path: Path) -> None:
        from llm2clip_search.encoders.byte_pairs import BytePairs

        self._path = path
        self._whole = Lazy(self._parse)
        self._pairs = BytePairs.of(path)
        self._left = self._pairs.parsing_seconds if self._pairs is not None else 0.0
        if self._pairs is None:
            self._whole()

    def _parse(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        from llm2clip_search.encoders.byte_pairs import BytePairs, forget_words, splits_words

        started = time.perf_counter()
        tokenizer = Tokenizer.from_file(str(self._path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if not splits_words(tokenizer):  # no caption comes again
            forget_words(tokenizer)
        if self._pairs is None:
            BytePairs.keep(self._path, parsing_seconds=time.perf_counter() - started)
        return_freed_memory()  # parsing takes several times what the tokenizer is
        return tokenizer

    def token_to_id(self, token: str) -> int | None:
        """The id of a token; None if there is none."""
        if self._pairs is not None:
            return self._pairs.token_to_id(token)
        found: int | None = self._whole().token_to_id(token)
        return found

    def encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Token ids of each text; ``special`` adds the tokens that the tokenizer puts around a text."""
        if self._pairs is not None and self._left > 0:
            started = time.perf_counter()
            ids = self._pairs.encode(texts, special=special)
            self._left -= time.perf_counter() - started
            if ids is not None:
                return ids
        return [each.ids for each in self._whole().encode_batch(list(texts), add_special_tokens=special)]


class LLMTokenizer(CaptionTokenizer):
    """A ``tokenizer.json`` read by the tokenizers library; neither transformers nor torch is imported."""

    def __init__(self, folder: Path, config: TextConfig) -> None:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise ModelError(f"{folder} holds no tokenizer.json, which its text tower needs.")
        self._tokenizer = LibraryTokenizer(path)
        self._max_tokens, self._lower_case, self._overlong = config.max_tokens, config.lower_case, config.overlong
        self._instruction, self._end = config.instruction, config.suffix
        self._suffix = self._encode([config.suffix], special=False)[0]
        self._prefix = self._prefix_of(config.instruction)

    def _prefix_of(self, instruction: str) -> list[int]:
        prefix = self._encode([instruction], special=True)[0]
        if len(prefix) + len(self._suffix) >= self._max_tokens:
            around = "Instruction and suffix have" if self._suffix else "The instruction has"
            raise ModelError(
                f"{around} {len(prefix) + len(self._suffix)} tokens, which leaves none of the {self._max_tokens} that"
                " the tower reads for a caption."
            )
        # Decoders direct surplus attention to the first token, which without a prefix would be the first word.
        return prefix or [self._begin_token()]

    def _begin_token(self) -> int:
        for name in ("<|begin_of_text|>", "<s>", "<bos>", "<|im_start|>", "<|endoftext|>"):
            if (found := self._tokenizer.token_to_id(name)) is not None:
                return found
        return 0

    def _encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        return self._tokenizer.encode(texts, special=special)

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedCaption]:
        around = len(self._prefix) + len(self._suffix)
        texts = _cased(texts, lower=self._lower_case)
        # No tower with a suffix was trained with white space before it.
        stripped = [text.rstrip() for text in texts] if self._suffix else texts
        return [
            TokenizedCaption(ids, around + len(ids), whole=self._whole(text, ids))
            for text, ids in zip(stripped, self._encode(stripped, special=False), strict=True)
        ]

    def _whole(self, text: str, ids: list[int]) -> tuple[list[int], list[int]] | None:
        """See `TokenizedCaption.whole`; ``ids`` are those of the text alone.

        LLM2CLIP's repository tokenises instruction, caption and suffix as one text, of which it pools as many tokens
        from the end as caption and suffix have alone. The results differ if the instruction ends in a line break that
        is merged with one at the caption's start, and if the text is too long.
        """
        cut = self._overlong == "llm2vec" and len(self._prefix) + len(ids) + len(self._suffix) > self._max_tokens
        if not self._suffix or not (cut or (self._instruction and text[:1].isspace())):
            return None
        if cut:
            (joined,) = self._encode([self._instruction + text + self._end], special=True)
            pooled = min(len(ids) + len(self._suffix), self._max_tokens)
            return joined[: self._max_tokens - pooled], joined[: self._max_tokens][self._max_tokens - pooled :]
        (joined,) = self._encode([self._instruction + text], special=True)
        before, caption = joined[: len(joined) - len(ids)], joined[len(joined) - len(ids) :]
        return before, [*caption[: self._max_tokens - len(before) - len(self._suffix)], *self._suffix]

    def batch(self, captions: Sequence[TokenizedCaption], instructions: Sequence[str] | None = None) -> TokenBatch:
        """See `CaptionTokenizer.batch`; the batch is padded to its longest caption.

        Args:
            instructions: one per caption, used instead of the configuration's.

        Raises:
            ModelError: an instruction that leaves no token for the caption.
        """
        prefixes = [self._prefix_of(text) for text in instructions] if instructions else [self._prefix] * len(captions)
        rows = [
            caption.whole
            if caption.whole and not instructions
            else (prefix, [*caption.ids[: self._max_tokens - len(prefix) - len(self._suffix)], *self._suffix])
            for prefix, caption in zip(prefixes, captions, strict=True)
        ]
        longest = max((len(prefix) + len(ids) for prefix, ids in rows), default=0)
        batch = TokenBatch(*(np.zeros((len(rows), longest), dtype=np.int64) for _ in range(3)))
        for row, (prefix, ids) in enumerate(rows):
            end = len(prefix) + len(ids)
            batch.ids[row, :end] = prefix + ids
            batch.attention_mask[row, :end] = 1
            batch.pooling_mask[row, len(prefix) : end] = 1
            if not ids:  # an empty caption is pooled over the last token of its prefix
                batch.pooling_mask[row, end - 1] = 1
        return batch

    def __call__(self, texts: Sequence[str], instructions: Sequence[str] | None = None) -> TokenBatch:
        return self.batch(self.tokenize(texts), instructions)


class TransformersTokenizer(CaptionTokenizer):
    """The tokenizer of a transformers CLIP or SigLIP folder; batches are padded to the length of its training."""

    def __init__(self, folder: Path, config: TextConfig) -> None:
        from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

        ensure_torchvision()
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._max_tokens, self._lower_case = config.max_tokens, config.lower_case
        self._lock = Lock()  # truncation is state of the library's tokenizer

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedCaption]:
        texts = _cased(texts, lower=self._lower_case)
        with self._lock:
            whole: list[list[int]] = self._tokenizer(texts, truncation=False)["input_ids"] if texts else []
            lengths = [len(ids) for ids in whole]
            # Only the library knows which special tokens follow a truncated caption, so it truncates the long ones.
            if long := [row for row, length in enumerate(lengths) if length > self._max_tokens]:
                cut = self._tokenizer([texts[row] for row in long], truncation=True, max_length=self._max_tokens)
                for row, ids in zip(long, cut["input_ids"], strict=True):
                    whole[row] = ids
        return [TokenizedCaption(ids, length) for ids, length in zip(whole, lengths, strict=True)]

    def batch(self, captions: Sequence[TokenizedCaption]) -> TokenBatch:
        ids = np.full((len(captions), self._max_tokens), self._tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, caption in enumerate(captions):
            used = slice(len(caption.ids))
            if self._tokenizer.padding_side == "left":
                used = slice(self._max_tokens - len(caption.ids), None)
            ids[row, used] = caption.ids
            mask[row, used] = 1
        return TokenBatch(ids, mask, mask)


class OpenClipTokenizer(CaptionTokenizer):
    """The tokenizer that open_clip pairs with an architecture; open_clip is imported only if it is an unusual one."""

    def __init__(self, config: TextConfig) -> None:
        from llm2clip_search.encoders.clip_byte_pairs import ClipBytePairs

        self._tokenizer: Any = ClipBytePairs.of(config.architecture)
        self._is_simple = self._tokenizer is not None
        if self._tokenizer is None:
            from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

            ensure_torchvision()
            import open_clip

            self._tokenizer = open_clip.get_tokenizer(config.architecture)
            is_simple = isinstance(self._tokenizer, open_clip.SimpleTokenizer)
            self._is_simple = is_simple and not self._tokenizer.reduction_fn
        self._lower_case = config.lower_case
        self._lock = Lock()  # as in `TransformersTokenizer`, which open_clip wraps

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedCaption]:
        texts = _cased(texts, lower=self._lower_case)
        if not texts:
            return []
        if self._is_simple:
            return [self._tokenize_simply(text) for text in texts]
        # Wrapped tokenizers clean, truncate and pad in one call, which does not return a caption's length.
        with self._lock:
            rows: list[list[int]] = self._tokenizer(texts).tolist()
            return [TokenizedCaption(ids, length) for ids, length in zip(rows, self._lengths(texts), strict=True)]

    def _tokenize_simply(self, text: str) -> TokenizedCaption:
        """OpenAI's byte-pair encoding in Python, truncated as `open_clip.SimpleTokenizer` truncates it."""
        size, end = self._tokenizer.context_length, self._tokenizer.eot_token_id
        ids = [self._tokenizer.sot_token_id, *self._tokenizer.encode(text), end]
        cut = ids if len(ids) <= size else [*ids[: size - 1], end]
        return TokenizedCaption([*cut, *[0] * (size - len(cut))], len(ids))

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        if hasattr(self._tokenizer, "encode"):
            return [len(self._tokenizer.encode(text)) + 2 for text in texts]
        return [len(ids) for ids in self._tokenizer.tokenizer(list(texts))["input_ids"]]

    def batch(self, captions: Sequence[TokenizedCaption]) -> TokenBatch:
        size = self._tokenizer.context_length
        ids = np.array([caption.ids for caption in captions], dtype=np.int64).reshape(len(captions), size)
        ones = np.ones_like(ids)
        return TokenBatch(ids, ones, ones)


class FusedTokenizer(CaptionTokenizer):
    """Tokenises for both parts of a fused tower; lengths are the LLM's, which reads what CLIP's tower truncates."""

    def __init__(self, llm: CaptionTokenizer, clip: CaptionTokenizer) -> None:
        self._llm, self._clip = llm, clip

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedCaption]:
        pairs = zip(self._llm.tokenize(texts), self._clip.tokenize(texts), strict=True)
        return [llm._replace(clip=clip) for llm, clip in pairs]

    def batch(self, captions: Sequence[TokenizedCaption]) -> FusedTokenBatch:
        tokens = self._llm.batch(captions)
        clip = self._clip.batch([caption.clip for caption in captions if caption.clip is not None])
        return FusedTokenBatch(tokens.ids, tokens.attention_mask, tokens.pooling_mask, clip.ids)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._llm.count(texts)


def caption_tokenizer(text: TextConfig, folder: Path | None) -> CaptionTokenizer:
    """The tokenizer of a text tower; an LLM's imports neither torch nor transformers.

    Args:
        folder: the model folder, which holds an LLM's ``tokenizer.json``.

    Raises:
        ModelError: the tokenizer is missing, or cannot be fetched.
    """
    if text.library == "open_clip":
        return OpenClipTokenizer(text)
    if text.library == "transformers":
        assert text.weights is not None, "transformers text towers are resolved with their source"
        return TransformersTokenizer(fetch(text.weights, relative_to=folder).path, text)
    assert folder is not None, "LLM text towers are resolved from a folder"
    llm = LLMTokenizer(folder, text)
    return FusedTokenizer(llm, caption_tokenizer(text.clip, folder)) if text.clip else llm
