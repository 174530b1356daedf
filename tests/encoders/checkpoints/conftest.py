"""The tiny LLM that every published checkpoint of these tests is paired with."""

from pathlib import Path

import pytest

from tests.support.checkpoints import save_llama


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, with tokenizer."""
    return save_llama(tmp_path_factory.mktemp("llama") / "llm")
