"""The encoder behind bounded queues: one thread runs the LLM, one the vision tower, and embeddings are remembered."""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from threading import Condition, Lock, Thread
from typing import Generic, TypeVar

import numpy as np

from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.inputs import ImageInput, images_of
from llm2clip_search.server.problems import BusyError

REMEMBERED = 4096
"""Embeddings of captions and of images that are kept, of each: 8 MB of 512 dimensions."""
TOGETHER = 32
"""Captions, or images, of waiting requests that are embedded in one pass."""
_CLOSED = "The server stops, or serves another model from now on."

Given = TypeVar("Given")


class Worker(Generic[Given]):
    """One thread that embeds what waiting requests ask for, several of them in one pass."""

    def __init__(self, name: str, encode: Callable[[list[Given]], np.ndarray], *, queue: int) -> None:
        """``queue`` requests may wait; the thread starts with the first one."""
        self._name, self._encode, self._most = name, encode, queue
        self._waiting = deque[tuple[list[Given], Future[np.ndarray]]]()
        self._changed = Condition()
        self._thread: Thread | None = None
        self._is_closed = False

    def __call__(self, given: list[Given]) -> np.ndarray:
        """Embeddings float32 ``[n, dim]``.

        Raises:
            BusyError: too many requests wait already, or the encoder is closed.
        """
        answer: Future[np.ndarray] = Future()
        with self._changed:
            if self._is_closed:
                raise BusyError(_CLOSED)
            if len(self._waiting) >= self._most:
                raise BusyError(f"{len(self._waiting)} requests wait for the {self._name} already.")
            self._waiting.append((given, answer))
            if self._thread is None:
                self._thread = Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return answer.result()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Refuse what still waits; what is being embedded is finished."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            try:
                rows = self._encode([each for given, _ in batch for each in given])
            except BaseException as error:
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            start = 0
            for given, answer in batch:
                answer.set_result(rows[start : start + len(given)])
                start += len(given)

    def _next(self) -> list[tuple[list[Given], Future[np.ndarray]]] | None:
        """The requests of the next pass; None when the encoder is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if self._is_closed:
                while self._waiting:
                    self._waiting.popleft()[1].set_exception(BusyError(_CLOSED))
                return None
            batch, size = [self._waiting.popleft()], 0
            size = len(batch[0][0])
            while self._waiting and size + len(self._waiting[0][0]) <= TOGETHER:
                size += len(self._waiting[0][0])
                batch.append(self._waiting.popleft())
            return batch


class QueuedEncoder(Encoder):
    """An encoder for many threads: each tower runs in a thread of its own, and repeated queries cost nothing.

    An embedding that was remembered is returned again as it is, so that the pages of one query cannot differ in how
    its caption was batched.
    """

    def __init__(self, encoder: Encoder, *, queue: int) -> None:
        self.identity, self.dim, self.max_tokens = encoder.identity, encoder.dim, encoder.max_tokens
        self.preprocess, self.training_data = encoder.preprocess, encoder.training_data
        self.calibration = encoder.calibration
        self._encoder = encoder
        self._texts: Worker[str] = Worker("text tower", encoder.encode_texts, queue=queue)
        self._pixels: Worker[np.ndarray] = Worker(
            "vision tower", lambda pixels: encoder.encode_pixels(np.stack(pixels)), queue=queue
        )
        self._captions, self._images = _Remembered(), _Remembered()

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        return self._captions.all(texts, texts, lambda missing: self._texts(list(missing)))

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return self._pixels(list(pixels))

    def encode_images(self, images: ImageInput | Iterable[ImageInput], *, batch_size: int = 32) -> np.ndarray:
        given = list(images_of(images))
        keys = [_key(each) for each in given]
        if None in keys:
            return super().encode_images(given, batch_size=batch_size)
        return self._images.all([str(key) for key in keys], given, super().encode_images)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._encoder.count_tokens(texts)

    def caption_sample(self, count: int) -> np.ndarray | None:
        return self._encoder.caption_sample(count)

    @property
    def waiting(self) -> int:
        """Requests that wait for one of the towers."""
        return self._texts.waiting + self._pixels.waiting

    def close(self) -> None:
        """Stop both threads."""
        self._texts.close()
        self._pixels.close()


def _key(image: ImageInput) -> str | None:
    """A name for the content of an image in memory; None for a file, which may change."""
    return hashlib.blake2b(image, digest_size=16).hexdigest() if isinstance(image, bytes) else None


class _Remembered:
    """The embeddings that were asked for last; any number of threads may use it."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def all(
        self, keys: Sequence[str], given: Sequence[Given], encode: Callable[[list[Given]], np.ndarray]
    ) -> np.ndarray:
        """Embeddings float32 ``[n, dim]`` by key, of which those that are not known are made."""
        with self._lock:
            known = {key: self._held[key] for key in keys if key in self._held}
            for key in known:
                self._held.move_to_end(key)
        missing = {key: each for key, each in zip(keys, given, strict=True) if key not in known}
        if missing:
            known |= zip(missing, encode(list(missing.values())), strict=True)
            with self._lock:
                self._held |= {key: known[key].copy() for key in missing}
                while len(self._held) > REMEMBERED:
                    self._held.popitem(last=False)
        return np.ascontiguousarray(np.stack([known[key] for key in keys]))
