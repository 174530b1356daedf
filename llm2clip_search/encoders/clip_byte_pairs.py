"""OpenAI's byte-pair encoding, which open_clip's models read, without importing open_clip and with it PyTorch.

The vocabulary is the file that open_clip brings along, and tokens are those of `open_clip.SimpleTokenizer`.
"""

import gzip
import importlib.util
import json
import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49_152 - 256 - 2
"""Of the file's lines after the first."""
_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
_CONTEXT = 77
"""Tokens of a text where an architecture states no other number."""


class ClipBytePairs:
    """Stands in for `open_clip.SimpleTokenizer` where an architecture has no other settings than a length."""

    sot_token_id, eot_token_id = _MERGES + 512, _MERGES + 513

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        with gzip.open(open_clip_folder() / _VOCABULARY, "rt", encoding="utf-8") as file:
            merges = file.read().split("\n")[1 : 1 + _MERGES]
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}
        self._letters = _letters()
        # Ids are those of 256 bytes, of 256 bytes that end a word, and of what merges give, in their order.
        self._ids = {letter: number for number, letter in enumerate(self._letters.values())}
        self._ids |= {f"{letter}</w>": 256 + number for letter, number in self._ids.items()}
        self._words = {_START: [self.sot_token_id], _END: [self.eot_token_id]}

    @classmethod
    def of(cls, architecture: str) -> "ClipBytePairs | None":
        """The encoding of an architecture of open_clip; None if it has another one, or is not part of open_clip."""
        config = architecture_config(architecture)
        text: dict[str, Any] = config["text_cfg"] if config else {}
        # As open_clip.get_tokenizer decides.
        if not config or text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs"):
            return None
        return None if "siglip" in architecture.lower() else cls(text.get("context_length", _CONTEXT))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special ones around it."""
        import regex

        words = regex.findall(_WORDS, _cleaned(text), regex.IGNORECASE)
        return [number for word in words for number in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._words:
            parts = [self._letters[byte] for byte in word.encode()]
            parts[-1] += "</w>"
            while len(parts) > 1:
                best = min(pairwise(parts), key=lambda pair: self._ranks.get(" ".join(pair), math.inf))
                if (rank := self._ranks.get(" ".join(best))) is None:
                    break
                self._ids["".join(best)] = 512 + rank
                parts = _merged(parts, best)
            self._words[word] = [self._ids[part] for part in parts]
        return self._words[word]


def architecture_config(architecture: str) -> dict[str, Any] | None:
    """What open_clip's file of an architecture holds; None if there is none, as for one that was added by a program."""
    try:
        raw = json.loads((open_clip_folder() / "model_configs" / f"{architecture}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return raw if isinstance(raw, dict) else None


@cache
def open_clip_folder() -> Path:
    """Where open_clip is installed; it is not imported."""
    spec = importlib.util.find_spec("open_clip")
    locations = spec.submodule_search_locations if spec is not None else None
    return Path(locations[0]) if locations else Path("open_clip")


def _letters() -> dict[int, str]:
    """A printable character for each byte, as in GPT-2's encoding; those that are printable stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Parts with each occurrence of a pair, from the left, as one."""
    out: list[str] = []
    place = 0
    while place < len(parts):
        if tuple(parts[place : place + 2]) == pair:
            out.append("".join(pair))
            place += 2
        else:
            out.append(parts[place])
            place += 1
    return out


def _cleaned(text: str) -> str:
    """Mended, without HTML's entities and repeated spaces, in lower case."""
    if not (text.isascii() and text.isprintable() and "&" not in text):  # otherwise nothing changes
        import html

        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()
