"""What tests share: a tiny model with the real towers' shape, random weights and no download."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: threads of their own would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# huggingface_hub reads it when it is imported; without it, tests of missing models ask the hub and wait for time-outs.
os.environ["HF_HUB_OFFLINE"] = "1"

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm2clip_search.encoders import Encoder, load_encoder
from tests.support.clusters import two_nodes
from tests.support.commands import RunCli, run_in_process, run_in_subprocess
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.models import save_model


@pytest.fixture(scope="session", autouse=True)
def scratch_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled towers of tiny models go to a scratch cache."""
    os.environ["LLM2CLIP_CACHE"] = os.environ.get("LLM2CLIP_TEST_CACHE") or str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def log_of_its_own() -> None:
    """A command that ran in this process has configured the log; every test finds it as a library has it."""
    logger = logging.getLogger("llm2clip_search")
    logger.handlers = [handler for handler in logger.handlers if isinstance(handler, logging.NullHandler)]
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose towers are real and small."""
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_encoder(tiny_model: Path) -> Encoder:
    """The tiny model in torch, ready."""
    return load_encoder(f"dir:{tiny_model}", runtime="torch", device="cpu")


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Address of a Ray cluster of two nodes on loopback."""
    with two_nodes() as cluster:
        yield cluster.address


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of twelve images in two subfolders."""
    folder = tmp_path / "images"
    for number in range(12):
        place = folder / ("2024" if number % 2 else "2023")
        place.mkdir(parents=True, exist_ok=True)
        photograph(number, size=(64 + 4 * number, 48)).save(place / f"photo-{number:02d}.png")
    return folder


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """The command in this process, in the test's own folder unless ``cwd`` names another."""
    return lambda *arguments, cwd=tmp_path: run_in_process(*arguments, cwd=cwd)


@pytest.fixture
def run_command(tmp_path: Path) -> RunCli:
    """The command in a process of its own; otherwise as `run_cli`."""
    return lambda *arguments, cwd=tmp_path: run_in_subprocess(*arguments, cwd=cwd)


@pytest.fixture
def colours() -> ColourEncoder:
    """A fresh counting encoder."""
    return ColourEncoder()
