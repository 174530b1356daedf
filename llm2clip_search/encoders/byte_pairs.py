"""Byte-pair encoding of a few captions with the part of the vocabulary that they can use.

Parsing the ``tokenizer.json`` of a vocabulary of 262,144 tokens takes a second, which would be most of what a query in
a new process takes. A text can only become tokens that are substrings of it. So those are looked up in a sorted file,
which is mapped into memory, and the tokenizers library encodes the text with them and their merges alone. It returns
what it returns with the whole vocabulary.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2clip_search.base.files import new_folder
from llm2clip_search.encoders.cache import cache_dir, model_file_sha256

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

SMALL = 50_000
"""Vocabularies of fewer tokens are parsed in a tenth of a second, and are not worth a file."""
MAX_SUBSTRINGS = 100_000
"""Texts with more substrings are left to the whole vocabulary: looking up so many takes a fifth of its parsing."""
_ARRAYS = ("keys", "ids", "starts", "merges")
_FORMAT = 2


class BytePairs:
    """The vocabulary and merges of a ``tokenizer.json`` in sorted arrays.

    Made by `of`; any number of threads may use it.
    """

    def __init__(self, folder: Path) -> None:
        """Map the arrays that `_write` has written.

        Raises:
            OSError, ValueError: they are missing or damaged.
        """
        from tokenizers import Tokenizer

        frame = json.loads((folder / "frame.json").read_bytes())
        self.parsing_seconds: float = frame["parsing_seconds"]
        """Time that parsing the whole vocabulary took when the file was written."""
        self._longest: int = frame["longest"]
        self._always: dict[str, int] = frame["always"]
        self._added: list[tuple[dict[str, Any], dict[str, int]]] = frame["added"]
        """Added tokens and their ids, by how they are looked for. Gemma 3 has 6,400, of which few are in any text."""
        self._frame: dict[str, Any] = frame["frame"]
        self._bare = Tokenizer.from_str(json.dumps(self._frame))
        self._keys, self._ids, self._starts, self._merges = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS
        )

    @classmethod
    def of(cls, path: Path) -> "BytePairs | None":
        """Those of a ``tokenizer.json``, if it has been parsed before on this machine; None otherwise."""
        try:
            return cls(_folder_of(path))
        except (OSError, ValueError, KeyError):
            return None

    @classmethod
    def keep(cls, path: Path, *, parsing_seconds: float) -> None:
        """Write those of a ``tokenizer.json`` for `of`, if they are worth it and of a kind that is known here.

        A cache that cannot be written is no error: the file is parsed again the next time.
        """
        try:
            raw = json.loads(path.read_bytes())
            if is_supported(raw):
                with new_folder(_folder_of(path)) as folder:
                    _write(folder, raw, parsing_seconds)
        except (OSError, ValueError, KeyError) as error:
            logger.debug("The vocabulary of %s is not kept in sorted form: %s", path, error)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token; None if there is none."""
        added = next((ids[token] for _, ids in self._added if token in ids), None)
        return self._find([token]).get(token) if added is None else added

    def encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]] | None:
        """Token ids of each text; None if they are too long, or hold a token that the whole vocabulary has to split.

        Args:
            special: add the special tokens that the tokenizer puts around a text.
        """
        tokenizer = self._tokenizer_for(texts)
        if tokenizer is None:
            return None
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=special)]

    def _tokenizer_for(self, texts: Sequence[str]) -> "Tokenizer | None":
        from tokenizers import Tokenizer

        characters = set().union(*texts)  # looking for all takes 5 ms, and few begin with one of them
        added = [
            {"content": content, "id": number, **how}
            for how, ids in self._added
            for content, number in ids.items()
            if content[:1] in characters and any(content in text for text in texts)
        ]
        if not all(_is_plain(token) for token in added):
            return None
        pieces = self._pieces(texts, [token["content"] for token in added])
        wanted, count = set[str](), 0
        for piece in pieces:
            count += len(piece) * min(len(piece), self._longest)
            if count > MAX_SUBSTRINGS:
                return None
            ends = (range(start + 1, min(start + self._longest, len(piece)) + 1) for start in range(len(piece)))
            wanted.update(piece[start:end] for start, these in enumerate(ends) for end in these)
        vocabulary = self._find(wanted) | self._always | {token["content"]: token["id"] for token in added}
        model = self._frame["model"] | {"vocab": vocabulary, "merges": self._merges_of(vocabulary)}
        tokenizer = Tokenizer.from_str(json.dumps(self._frame | {"model": model, "added_tokens": added}))
        forget_words(tokenizer)  # nobody asks it again
        return tokenizer

    def _pieces(self, texts: Iterable[str], added: Sequence[str]) -> Iterable[str]:
        """What is encoded by itself: the tokenizer's normalisation and its words, between added tokens."""
        by_length = "|".join(map(re.escape, sorted(added, key=len, reverse=True)))
        for text in texts:
            for part in re.split(by_length, text) if added else [text]:
                plain = self._bare.normalizer.normalize_str(part) if self._bare.normalizer else part
                if self._bare.pre_tokenizer is None:
                    yield plain
                else:
                    yield from (word for word, _ in self._bare.pre_tokenizer.pre_tokenize_str(plain))

    def _find(self, tokens: Iterable[str]) -> dict[str, int]:
        """Ids of those of some strings that are tokens."""
        names = list(tokens)
        keys = np.array([_key(name) for name in names], dtype=np.uint64)
        places = np.searchsorted(self._keys, keys)
        inside = np.flatnonzero(places < len(self._keys))
        hits = inside[self._keys[places[inside]] == keys[inside]]
        return {names[hit]: int(self._ids[place]) for hit, place in zip(hits, places[hits], strict=True)}

    def _merges_of(self, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
        """Merges of which both parts and the result are in a vocabulary, in order of their rank."""
        by_id = {identifier: token for token, identifier in vocabulary.items()}
        ids = np.fromiter(by_id, dtype=np.int64, count=len(by_id))
        ids = ids[ids < len(self._starts) - 1]
        rows = [np.arange(self._starts[each], self._starts[each + 1]) for each in ids.tolist()]
        merges = self._merges[np.concatenate(rows)] if rows else self._merges[:0]
        known = np.zeros(len(self._starts), dtype=bool)  # `np.isin` would import `numpy.ma`, which takes 7 ms
        known[ids] = True
        merges = merges[known[merges[:, 0]] & known[merges[:, 1]]]
        return [(by_id[left], by_id[right]) for left, right, _ in merges[np.argsort(merges[:, 2])].tolist()]


def _write(folder: Path, raw: dict[str, Any], parsing_seconds: float) -> None:
    """Write the files of a ``tokenizer.json``, read as ``raw``.

    ``keys`` are 64-bit hashes of all tokens, ascending, and ``ids`` their ids. Rows ``starts[id]`` to
    ``starts[id + 1]`` of ``merges`` are the merges that give a token, each as left id, right id and rank.
    """
    model, added = raw["model"], raw.get("added_tokens", [])
    vocabulary: dict[str, int] = model["vocab"]
    keys = np.array([_key(token) for token in vocabulary], dtype=np.uint64)
    order = np.argsort(keys)
    pairs = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    merges = np.array([(vocabulary[a], vocabulary[b], rank) for rank, (a, b) in enumerate(pairs)], dtype=np.int32)
    results = np.array([vocabulary[a + b] for a, b in pairs], dtype=np.int64)
    by_result = np.argsort(results, kind="stable")
    arrays: tuple[np.ndarray, ...] = (
        keys[order],
        np.array([*vocabulary.values()], dtype=np.int32)[order],
        np.searchsorted(results[by_result], np.arange(max(vocabulary.values()) + 2)),
        merges[by_result],
    )
    for name, array in zip(_ARRAYS, arrays, strict=True):
        np.save(folder / f"{name}.npy", array)
    always = [token for token in vocabulary if model.get("byte_fallback") and re.fullmatch("<0x[0-9A-F]{2}>", token)]
    grouped: dict[str, tuple[dict[str, Any], dict[str, int]]] = {}
    for token in added:
        how = {name: value for name, value in token.items() if name not in ("content", "id")}
        grouped.setdefault(json.dumps(how, sort_keys=True), (how, {}))[1][token["content"]] = token["id"]
    frame = {
        "parsing_seconds": parsing_seconds,
        "longest": max(map(len, vocabulary)),
        "always": {token: vocabulary[token] for token in (*always, model.get("unk_token")) if token in vocabulary},
        "added": list(grouped.values()),
        "frame": raw | {"model": model | {"vocab": {}, "merges": []}, "added_tokens": []},
    }
    (folder / "frame.json").write_text(json.dumps(frame))


def is_supported(raw: Any) -> bool:
    """True for byte-pair encodings of many tokens whose merges depend on nothing but the text."""
    model = raw.get("model") if isinstance(raw, dict) else None
    return (
        isinstance(model, dict)
        and model.get("type") == "BPE"
        and len(model["vocab"]) >= SMALL
        and not any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    )


def forget_words(tokenizer: "Tokenizer") -> None:
    """Keep a tokenizer from remembering the last 10,000 words that it has merged, in each thread that it was called by.

    Nothing frees them before the thread ends, not even the end of the tokenizer.
    """
    if (resize := getattr(tokenizer.model, "_resize_cache", None)) is not None:  # the library has no public name for it
        resize(0)


def splits_words(tokenizer: "Tokenizer") -> bool:
    """Whether a tokenizer merges word by word; otherwise a whole text is a word to it, of 2.5 kB for a caption."""
    text = "a b"
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    return tokenizer.pre_tokenizer is not None and len(tokenizer.pre_tokenizer.pre_tokenize_str(text)) > 1


def _is_plain(token: dict[str, Any]) -> bool:
    """True for an added token that is found wherever it stands in a text as it was typed."""
    return not any(token.get(name) for name in ("normalized", "lstrip", "rstrip", "single_word"))


def _folder_of(path: Path) -> Path:
    return cache_dir() / "byte-pairs" / f"{model_file_sha256(path)[:32]}-{_FORMAT}"


def _key(token: str) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
