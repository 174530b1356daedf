"""Every engine that is installed; a server where QDRANT_URL names one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm2clip_search.vectorindex.serving.engine import ServingEngine
from tests.support.serving import ENGINES, engine_of


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServingEngine]:
    """An engine with nothing in it."""
    made = engine_of(request.param, tmp_path)
    yield made
    made.close()
