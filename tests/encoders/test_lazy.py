"""Towers and tokenizers are loaded once, however many threads ask for them, and do not wait for each other."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import numpy as np
import pytest

from llm2clip_search.encoders import load_encoder, model, tower_encoder
from llm2clip_search.encoders.placement import TowerName
from llm2clip_search.encoders.tokenization import CaptionTokenizer, caption_tokenizer
from llm2clip_search.encoders.towers import Tower, load_tower
from tests.support.images import photograph
from tests.support.models import CAPTIONS

THREADS = 4


def test_an_encoder_loads_each_tower_and_its_tokenizer_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads start at once, on an encoder that has loaded nothing."""
    loaded: list[str] = []
    barrier = Barrier(THREADS)

    def load(of: model.Model, name: TowerName, **options: Any) -> Tower:
        loaded.append(name)
        return load_tower(of, name, **options)

    def read_tokenizer(*arguments: Any) -> CaptionTokenizer:
        loaded.append("tokenizer")
        return caption_tokenizer(*arguments)

    monkeypatch.setattr(tower_encoder, "load_tower", load)
    monkeypatch.setattr(model, "caption_tokenizer", read_tokenizer)
    encoder = load_encoder(f"dir:{tiny_model}", runtime="torch", device="cpu")

    def embed(_: int) -> tuple[np.ndarray, np.ndarray]:
        barrier.wait()
        return encoder.encode_texts(CAPTIONS), encoder.encode_images([photograph(1)])

    with ThreadPoolExecutor(THREADS) as threads:
        first, *others = threads.map(embed, range(THREADS))
    assert sorted(loaded) == ["text", "tokenizer", "vision"]
    for found in others:
        np.testing.assert_array_equal(found[0], first[0])
        np.testing.assert_array_equal(found[1], first[1])


def test_images_are_embedded_while_the_llm_loads(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, embedded = Event(), Event()

    def load(of: model.Model, name: TowerName, **options: Any) -> Tower:
        if name == "text":
            loading.set()
            assert embedded.wait(60), "the vision tower waited for the LLM"
        return load_tower(of, name, **options)

    monkeypatch.setattr(tower_encoder, "load_tower", load)
    encoder = load_encoder(f"dir:{tiny_model}", runtime="torch", device="cpu")
    with ThreadPoolExecutor(1) as threads:
        caption = threads.submit(encoder.encode_texts, CAPTIONS[:1])
        assert loading.wait(60)
        assert encoder.encode_images([photograph(1)]).shape == (1, 16)
        embedded.set()
        assert caption.result(60).shape == (1, 16)
