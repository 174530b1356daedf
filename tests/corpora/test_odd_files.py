"""Hundreds of odd files: each is indexed as it should look, or is a failure with a reason for people."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.encoders import Encoder, load_encoder
from llm2clip_search.encoders.images import reading
from llm2clip_search.errors import ImageError
from llm2clip_search.store import Snapshot
from tests.support.encoders import PixelEncoder
from tests.support.odd_files import OddFile, odd_files

_INDEX = """
import json, sys
from llm2clip_search.base.memory import peak_bytes
from llm2clip_search.indexers import IndexConfig, index_folder
if sys.argv[3] == "pixels":
    from tests.support.encoders import PixelEncoder
    encoder = PixelEncoder()
else:
    from llm2clip_search.encoders import load_encoder
    encoder = load_encoder(sys.argv[3])
before = peak_bytes()
config = IndexConfig(threads=4)
summary = index_folder(sys.argv[1], index=sys.argv[2], encoder=encoder, config=config)
print(json.dumps({**summary.to_dict(), "peak": peak_bytes(), "before": before}))
"""


@pytest.fixture(scope="module")
def odd() -> dict[str, OddFile]:
    files = list(odd_files())
    assert len({each.name for each in files}) == len(files) >= 300
    return {each.name: each for each in files}


@pytest.mark.parametrize("model", ["pixels", pytest.param("nano", marks=pytest.mark.slow)])
def test_every_odd_file_looks_as_it_should_or_fails_with_a_reason(
    tmp_path: Path, odd: dict[str, OddFile], model: str
) -> None:
    folder, index = tmp_path / "odd", tmp_path / "index"
    folder.mkdir()
    for name, each in odd.items():
        (folder / name).write_bytes(each.data)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::UserWarning", "-c", _INDEX, str(folder), str(index), model],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no traceback"
    summary = json.loads(done.stdout)
    if model == "pixels":  # where memory goes to the images alone
        assert summary["peak"] - summary["before"] < 600e6

    encoder: Encoder = PixelEncoder() if model == "pixels" else load_encoder(model)
    rows = {Path(row["path"]).name: row for row in Snapshot(index).metadata().to_pylist()}
    failures = {Path(each["path"]).name: each for each in summary["failures"]}
    assert rows.keys() | failures.keys() == odd.keys()
    compared = [name for name in rows if odd[name].twin is not None]
    assert len(compared) > 300
    found = Snapshot(index).vectors([rows[name]["id"] for name in compared])
    twins = encoder.encode_images(odd[name].twin for name in compared)  # type: ignore[misc]
    cosines = np.einsum("ij,ij->i", found.astype(np.float64), twins.astype(np.float64))
    # The 256 colours of a GIF move a vector most: nano's to 0.944.
    assert {name: cosine for name, cosine in zip(compared, cosines, strict=True) if cosine < 0.94} == {}
    for name in compared:
        twin = odd[name].twin
        assert twin is not None
        assert (rows[name]["width"], rows[name]["height"]) == twin.size, name
    assert [name for name in failures if odd[name].must] == []
    for name, failure in failures.items():
        assert not re.search(r"\w(Error|Exception)\b", failure["reason"]), (name, failure)
        assert " " in failure["reason"], (name, failure)
    for name, row in rows.items():
        if name.startswith(("cut-0", "junk-1", "large-icc", "crc-text")) or "badrational" in name:
            assert row["damage"], name
        if name.startswith(("mode", "bits", "junk-after", "many", "turn1-little")):
            assert row["damage"] is None, name


def test_extensions_are_complete_when_they_are_first_asked_for() -> None:
    """In a process that has not read an image yet: Pillow registers its readers late."""
    code = "from llm2clip_search.encoders.image_types import image_extensions; print(*sorted(image_extensions()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {".jpg", ".png", ".webp", ".tif", ".mpo", ".heic", ".jxl", ".avif"} <= set(done.stdout.split())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_is_an_image_or_a_failure(odd: dict[str, OddFile]) -> None:
    """Changed bytes, most of them in headers, and cuts: nothing else is raised than what callers expect."""
    generator = np.random.default_rng(1)
    files = [each.data for each in odd.values() if 0 < len(each.data) < 100_000]
    outcomes = {"read": 0, "failed": 0}
    for _ in range(1500):
        data = bytearray(files[int(generator.integers(len(files)))])
        for _ in range(int(generator.integers(1, 6))):
            within = min(len(data), int(generator.choice([60, 600, 100_000])))
            data[int(generator.integers(within))] = int(generator.integers(256))
        if generator.random() < 0.3:
            del data[int(generator.integers(len(data))) :]
        try:
            with reading(bytes(data), max_pixels=1_000_000):
                outcomes["read"] += 1
        except ImageError:
            outcomes["failed"] += 1
    assert min(outcomes.values()) > 100
