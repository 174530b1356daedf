"""Embeddings of captions that are kept on disk, so that a query that was asked before loads no model."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llm2clip_search.encoders.cache import cache_dir
from llm2clip_search.encoders.encoder import Encoder

logger = logging.getLogger(__name__)

FILES_PER_FOLDER = 64
"""Files that each of 256 folders keeps: 16,384 captions of the last queries, which take 64 MB of a disk at most."""
MOST = 8
"""Captions of one call up to which they are kept: a query's. Those of a batch would push out all others."""
_FORMAT = 1
_SUM_BYTES = 16


class _Kept(NamedTuple):
    """What is kept of a caption."""

    tokens: int
    vector: np.ndarray
    """float32 ``[dim]``."""


class KeptCaptions:
    """The folder of embeddings. Any number of processes may use it.

    A file holds one caption's embedding with a checksum, and its name is a hash: captions cannot be read from it. One
    that is damaged counts as absent and is replaced. Those that were used last stay.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """By default, the folder "captions" of the cache."""
        self._folder = folder or cache_dir() / "captions"

    def find(self, key: str, dim: int) -> _Kept | None:
        """What is kept under a key; None if nothing is, or if it is damaged or has another width."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        checksum, rest = data[:_SUM_BYTES], data[_SUM_BYTES:]
        if len(rest) != 4 + 4 * dim or checksum != _checksum(rest):
            return None
        with contextlib.suppress(OSError):  # of another user, or on a disk that is read only
            os.utime(path)
        return _Kept(int.from_bytes(rest[:4], "little"), np.frombuffer(rest, dtype="<f4", offset=4))

    def keep(self, key: str, kept: _Kept) -> None:
        """Write what `find` reads; that it cannot be written is no error."""
        path = self._path(key)
        rest = kept.tokens.to_bytes(4, "little") + kept.vector.astype("<f4").tobytes()
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # It is not flushed to the disk, which would take longer than the query: the checksum tells a torn file.
            temporary.write_bytes(_checksum(rest) + rest)
            temporary.replace(path)
            _drop_oldest(path.parent)
        except OSError as error:
            logger.debug("The embedding of a caption is not kept in %s: %s", path.parent, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        digest = hashlib.blake2b(key.encode(), digest_size=17).hexdigest()
        return self._folder / digest[:2] / digest[2:]


class KeepingEncoder(Encoder):
    """An encoder that looks a query's captions up in `KeptCaptions` before it embeds them.

    What is found is what the encoder gave, bit by bit.
    """

    def __init__(self, encoder: Encoder, kept: KeptCaptions, *, how: Sequence[str]) -> None:
        """An encoder and where its embeddings are kept.

        Args:
            how: what else than the model decides the embeddings, such as runtime, device and precision.
        """
        self.identity, self.dim, self.max_tokens = encoder.identity, encoder.dim, encoder.max_tokens
        self.preprocess, self.training_data = encoder.preprocess, encoder.training_data
        self.calibration = encoder.calibration
        self._encoder, self._kept, self._how = encoder, kept, tuple(how)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        if found := self._found(texts):
            return np.stack([each.vector for each in found])
        vectors = self._encoder.encode_texts(texts, batch_size=batch_size)
        if len(texts) <= MOST:
            counts = self._encoder.count_tokens(texts)
            for text, tokens, vector in zip(texts, counts, vectors, strict=True):
                self._kept.keep(self._key(text), _Kept(tokens, vector))
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        if found := self._found(texts):
            return [each.tokens for each in found]
        return self._encoder.count_tokens(texts)

    def load_for(self, texts: Sequence[str]) -> None:
        if not self._found(texts):
            self._encoder.load_for(texts)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return self._encoder.encode_pixels(pixels)

    def caption_sample(self, count: int) -> np.ndarray | None:
        return self._encoder.caption_sample(count)

    def _found(self, texts: Sequence[str]) -> list[_Kept]:
        """What is kept of some captions; empty unless all are there, so that a tower embeds all of them together."""
        if len(texts) > MOST:
            return []
        found = [self._kept.find(self._key(text), self.dim) for text in texts]
        return [each for each in found if each is not None] if None not in found else []

    def _key(self, text: str) -> str:
        return json.dumps([_FORMAT, self.fingerprint, *self._how, text])


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_SUM_BYTES).digest()


def _drop_oldest(folder: Path) -> None:
    with os.scandir(folder) as entries:
        files = list(entries)
    if len(files) > FILES_PER_FOLDER:
        by_age = sorted(files, key=lambda entry: entry.stat().st_mtime_ns)
        for entry in by_age[: len(files) - FILES_PER_FOLDER]:
            Path(entry.path).unlink(missing_ok=True)
