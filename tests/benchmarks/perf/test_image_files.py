"""Index runs over files of several kinds, beside a plain loop."""

import shutil
from pathlib import Path

import pytest

from llm2clip_search.benchmarks.perf.image_files import KINDS, measure_image_files
from llm2clip_search.errors import CorpusError
from tests.support.corpus import jpeg
from tests.support.encoders import ColourEncoder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    return folder


def test_each_way_embeds_all_images(pictures: Path) -> None:
    kinds = {name: KINDS[name] for name in ("JPEG, 224 pixels", "the same in a tar file", "JPEG, 12 megapixels")}
    encoder = ColourEncoder()
    speeds = list(measure_image_files(encoder, pictures, large=2, rounds=2, kinds=kinds))
    assert [(speed.kind, speed.images) for speed in speeds] == [*zip(kinds, (5, 5, 2), strict=True)]
    assert all(min(speed.index, speed.tower, speed.loop) > 0 for speed in speeds)
    assert speeds[2].mean_bytes > 1_000_000 > speeds[0].mean_bytes
    assert encoder.images == 32 + 3 * 2 * (5 + 5 + 2)


def test_an_image_that_is_left_out_is_no_measurement(pictures: Path) -> None:
    def twice(pictures: Path, out: Path, _: int) -> None:
        shutil.copytree(pictures, out)
        shutil.copyfile(out / "0.jpg", out / "0 again.jpg")

    with pytest.raises(CorpusError, match="5 of 6 images were embedded"):
        list(measure_image_files(ColourEncoder(), pictures, large=1, rounds=1, kinds={"doubled": twice}))
