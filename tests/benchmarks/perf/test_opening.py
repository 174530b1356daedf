"""Memory needed to open a model: sizes of the towers, and the peak."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llm2clip_search.benchmarks.perf.opening import Opening, measure_opening
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.towers import build_module
from llm2clip_search.errors import ModelError
from tests.support.models import save_model


def test_each_tower_is_opened_in_a_process_of_its_own(tmp_path: Path) -> None:
    """float16 on disk takes twice as much memory; libraries do not count as part of the model."""
    folder = save_model(tmp_path / "model")
    path = folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    vision, text = measure_opening(f"dir:{folder}")
    module = build_module(resolve(f"dir:{folder}"), "vision")
    buffers = sum(buffer.nbytes for buffer in module.buffers())
    assert vision.size == sum(parameter.nbytes for parameter in module.parameters()) + buffers
    assert vision.stored == (vision.size - buffers) / 2
    assert text.stored > (folder / "llm" / "model.safetensors").stat().st_size
    for opening in (vision, text):
        assert opening.libraries > 50_000_000
        assert opening.peak > 0


def test_memory_that_the_parent_holds_is_not_counted(tiny_model: Path) -> None:
    """The parent has imported torch, as its child does, and holds 500 MB in addition."""
    code = """
import sys
from llm2clip_search.base.memory import peak_bytes
from llm2clip_search.benchmarks.perf.opening import measure_opening
held = b"x" * 500_000_000
(opening,) = measure_opening(sys.argv[1], ["vision"])
print(opening.peak, peak_bytes() - opening.libraries)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"dir:{tiny_model}"], capture_output=True, text=True, check=True, timeout=300
    )
    child, parent = map(int, done.stdout.split())
    assert child < 250_000_000 < parent


def test_the_ratio_is_peak_to_size() -> None:
    opening = Opening(tower="vision", stored=100, size=200, libraries=1000, peak=230)
    assert opening.ratio == pytest.approx(1.15)
    assert opening.to_dict() == {
        "tower": "vision",
        "stored": 100,
        "size": 200,
        "libraries": 1000,
        "peak": 230,
        "ratio": 1.15,
    }


def test_a_tower_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if n.startswith("text.")}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"The vision tower of dir:.* cannot be opened: .*missing \['blocks"):
        measure_opening(f"dir:{folder}", ["vision"])
