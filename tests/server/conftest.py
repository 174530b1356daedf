"""A small index that is served, for all tests of a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from llm2clip_search.indexers import index_folder
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.server import served


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an index of twenty images in two folders, made by a `ColourEncoder`."""
    folder = tmp_path_factory.mktemp("served")
    for number in range(20):
        place = folder / "images" / ("2024" if number % 2 else "2023")
        place.mkdir(parents=True, exist_ok=True)
        photograph(number, size=(64 + 4 * number, 48)).save(place / f"photo-{number:02d}.png")
    index_folder(folder / "images", encoder=ColourEncoder(), index=folder / ".llm2clip")
    return folder / ".llm2clip"


@pytest.fixture(scope="module")
def client(indexed: Path) -> Iterator[TestClient]:
    """A client of the server of `indexed`."""
    with served(indexed, encoder=ColourEncoder()) as client:
        yield client
