"""The encoder behind queues: what it remembers, what it embeds together, and when it refuses."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from llm2clip_search.server.problems import BusyError
from llm2clip_search.server.queued_encoder import QueuedEncoder
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.server import wait_until


class GatedEncoder(ColourEncoder):
    """Waits for `gate` before it embeds captions, and notes how many at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.started = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        self.started.set()
        assert self.gate.wait(30)
        self.batches.append(len(texts))
        if "bad" in texts:
            raise ValueError("a bad caption")
        return super().encode_texts(texts)


def test_embeddings_are_the_encoders_and_are_remembered() -> None:
    encoder, plain = ColourEncoder(), ColourEncoder()
    queued = QueuedEncoder(encoder, queue=4)
    for _ in range(3):
        assert np.array_equal(queued.encode_texts(["a", "b", "a"]), plain.encode_texts(["a", "b", "a"]))
    assert encoder.embedded == 2
    image = photograph(1, size=(64, 48))
    assert np.array_equal(queued.encode_images([image]), plain.encode_images([image]))
    assert (queued.dim, queued.fingerprint, queued.count_tokens(["a b"])) == (16, encoder.fingerprint, [3])
    queued.close()


def test_waiting_captions_are_embedded_together_and_too_many_are_refused() -> None:
    encoder = GatedEncoder()
    queued = QueuedEncoder(encoder, queue=5)
    found: dict[str, np.ndarray] = {}
    threads = [threading.Thread(target=lambda: found.update(first=queued.encode_texts(["first"])))]
    threads[0].start()
    assert encoder.started.wait(30)
    for number in range(5):
        name = f"caption {number}"
        threads.append(threading.Thread(target=lambda name=name: found.update({name: queued.encode_texts([name])})))
        threads[-1].start()
    wait_until(lambda: queued.waiting == 5)
    with pytest.raises(BusyError):
        queued.encode_texts(["one too many"])
    encoder.gate.set()
    for thread in threads:
        thread.join(30)
    assert encoder.batches == [1, 5]
    assert all(np.array_equal(vector, ColourEncoder().encode_texts([name])) for name, vector in found.items())
    queued.close()


def test_an_error_reaches_who_asked_and_nobody_waits_for_ever() -> None:
    encoder = GatedEncoder()
    encoder.gate.set()
    queued = QueuedEncoder(encoder, queue=4)
    with pytest.raises(ValueError, match="a bad caption"):
        queued.encode_texts(["bad"])
    assert queued.encode_texts(["good"]).shape == (1, 16)
    encoder.gate.clear()
    encoder.started.clear()
    refused: list[BaseException] = []

    def ask(text: str) -> None:
        try:
            queued.encode_texts([text])
        except BusyError as error:
            refused.append(error)

    threads = [threading.Thread(target=ask, args=(text,)) for text in ("running", "waiting")]
    threads[0].start()
    assert encoder.started.wait(30)
    threads[1].start()
    wait_until(lambda: queued.waiting == 1)
    queued.close()
    encoder.gate.set()
    for thread in threads:
        thread.join(30)
    assert len(refused) == 1
    with pytest.raises(BusyError):
        queued.encode_texts(["late"])
