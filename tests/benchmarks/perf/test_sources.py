"""The benchmark of sources on a few images: every place is measured, and gives the same vectors."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.benchmarks.perf.loopback import has_s3_server
from llm2clip_search.benchmarks.perf.sources import measure_sources
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers import IndexConfig
from tests.support.commands import RunCli, is_one_error
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph


def write(folder: Path, count: int) -> None:
    for number in range(count):
        photograph(number).save(folder / f"{number}.png")


def test_every_place_is_measured_and_gives_the_same_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "xx-test-1")
    write(tmp_path, 20)
    found = list(measure_sources(ColourEncoder(), tmp_path, limit=17, config=IndexConfig(batch_size=4, threads=2)))
    assert [each.source for each in found] == ["folder", "tar", "table", "urls", *["s3"][: has_s3_server()]]
    assert {each.images for each in found} == {17}
    assert all(each.same for each in found)
    assert all(each.share == each.rate / each.tower > 0 for each in found)
    assert all(each.again > 0 for each in found)
    assert os.environ["AWS_REGION"] == "xx-test-1"


@pytest.fixture
def without_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without moto, whose server takes seconds to start."""
    monkeypatch.setattr("llm2clip_search.benchmarks.perf.sources.has_s3_server", lambda: False)


@pytest.mark.usefixtures("without_s3")
def test_vectors_that_differ_are_seen(tmp_path: Path) -> None:
    class Forgetful(ColourEncoder):
        """Gives other vectors once it has embedded a folder."""

        def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
            return super().encode_pixels(255 - pixels if self.embedded > 40 else pixels)

    write(tmp_path, 8)
    found = measure_sources(Forgetful(), tmp_path, config=IndexConfig(batch_size=4, threads=2))
    assert [next(found).same, next(found).same] == [True, False]
    found.close()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("without_s3")
def test_a_folder_without_images_and_one_that_is_damaged_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="There are no images"):
        next(measure_sources(ColourEncoder(), tmp_path))
    write(tmp_path, 2)
    (tmp_path / "z.png").write_bytes(b"no image")
    with pytest.raises(CorpusError, match=r"2\.png cannot be indexed: "):
        next(measure_sources(ColourEncoder(), tmp_path))


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_source(run_cli: RunCli, tmp_path: Path) -> None:
    refused = run_cli("bench", "sources", tmp_path)
    assert refused.returncode == 1
    assert is_one_error(refused.stderr)
    write(tmp_path, 3)
    done = run_cli("bench", "sources", tmp_path, "--images", "2", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["source"] for line in lines][:4] == ["folder", "tar", "table", "urls"]
    assert all(line["same"] and line["images"] == 2 for line in lines)
