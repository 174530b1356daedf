"""What the tests of the commands share."""

from pathlib import Path

import pytest

from tests.support.commands import run_in_process
from tests.support.images import photograph


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with eight images and their index, made by the command."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "images" / "2024").mkdir(parents=True)
    for number in range(8):
        photograph(number, (64 + 4 * number, 48)).save(folder / "images" / "2024" / f"{number}.png")
    done = run_in_process("index", "images", "--model", f"dir:{tiny_model}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("8 indexed, 0 moved or copied, 0 unchanged, 0 removed, 0 failed in ")
    assert "8 images in" in done.stderr
    run_in_process("query", "a black dog", cwd=folder)  # compiles the text tower, which says so once
    return folder
