"""Training images as pixels: threads and processes give the same."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.augmentation import Augmentation
from llm2clip_search.training.data.image_pixels import ImagePixels
from tests.support.corpus import jpeg, write_tar
from tests.support.images import PREPROCESS, png

CAPTIONS = ["A dog runs.", "A dog on the left."]
AUGMENTATION = Augmentation(size=24, crop=0.5, aspect=1.3, flip=True, colour=0.4)


def pixels_of(folder: Path, *, isolate: bool) -> ImagePixels:
    images = {f"{number}.jpg": jpeg(number) for number in range(5)} | {"5.png": png(5), "cut.jpg": jpeg(8)[:300]}
    write_tar(folder / "a.tar", images)
    files = ImageFiles.scan(folder, ["a.tar"])
    return ImagePixels(files, PREPROCESS, AUGMENTATION, CAPTIONS, 7, threads=2, isolate=isolate)


def test_processes_make_the_views_that_threads_make(tmp_path: Path) -> None:
    threads, processes = (pixels_of(tmp_path, isolate=isolate) for isolate in (False, True))
    ids = [*(f"{number}.jpg" for number in range(5)), "5.png"]
    shown = [np.array([row % 2]) for row in range(6)]
    for step in range(3):
        views = threads.augmented(ids, shown, step, range(6)).wait()
        assert views.shape == (6, 24, 24, 3)
        assert views.dtype == np.uint8
        np.testing.assert_array_equal(processes.augmented(ids, shown, step, range(6)).wait(), views)
    whole = threads.plain(ids)
    assert whole.shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(processes.plain(ids), whole)


@pytest.mark.parametrize("isolate", [False, True])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, isolate: bool) -> None:
    pixels = pixels_of(tmp_path, isolate=isolate)
    with pytest.raises(CorpusError, match=r"Training image 'cut\.jpg' cannot be read: "):
        pixels.augmented(["0.jpg", "cut.jpg"], [np.array([0])] * 2, 0, range(2)).wait()
    assert pixels.plain(["0.jpg"]).shape == (1, 32, 32, 3)


def test_processes_that_decode_do_not_load_torch() -> None:
    """There are more of them than cores, and it takes each of them seconds and hundreds of megabytes."""
    code = "import sys, llm2clip_search.training.data.augmentation; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
