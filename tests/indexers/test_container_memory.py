"""Memory, descriptors and threads of indexing many tiny items from tars or one folder, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ITEMS = int(os.environ.get("LLM2CLIP_MEMORY_ITEMS", "20000"))
"""1,000,000 take about fifteen minutes of an idle machine and 2 GB of disk from tars, and twice that from a folder."""
LEAST_ITEMS = 700_000
"""With fewer, only small shards are merged in the second tenth of the items, and memory is not compared."""
RUN = """
import io
import sys
import tarfile
from pathlib import Path

import numpy as np

from llm2clip_search.base.memory import private_bytes
from llm2clip_search.base.processes import descriptor_count, thread_count
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.indexers import IndexConfig, index_corpus
from tests.support.encoders import ColourEncoder

folder, source, items = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
encoder = ColourEncoder()
encoder.preprocess = PreprocessConfig(height=4, width=4)
encoder.encode_pixels = lambda pixels: np.tile(np.eye(16, dtype=np.float32)[0], (len(pixels), 1))
random, size = np.random.default_rng(0), items // 40

def picture(number):
    return b"P6 4 4 255\\n" + number.to_bytes(8, "big") + random.bytes(40)

if source == "folder":
    (folder / "images").mkdir()
    for number in range(items):
        (folder / "images" / f"{number:09d}.ppm").write_bytes(picture(number))
for tar in range(40 if source == "tar" else 0):
    with tarfile.open(folder / f"{tar:02d}.tar", "w", format=tarfile.USTAR_FORMAT) as file:
        for number in range(tar * size, (tar + 1) * size):
            for name, data in ((f"{number:09d}.ppm", picture(number)), (f"{number:09d}.txt", b"caption %d" % number)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
peaks, descriptors, threads = [0] * 10, [0] * 10, [0] * 10

def progress(what, done, total, facts):
    if what == "images":
        tenth = min(9, 10 * done // items)
        peaks[tenth] = max(peaks[tenth], private_bytes())
        if done % 100 == 0:
            descriptors[tenth] = max(descriptors[tenth], descriptor_count())
            threads[tenth] = max(threads[tenth], thread_count())

[corpus] = open_corpora([folder / ("images" if source == "folder" else "*.tar")])
config = IndexConfig(batch_size=256)
done = index_corpus(corpus, encoder=encoder, index=folder / "i", config=config, progress=progress)
assert (done.indexed, done.failures) == (items, [])
print(*peaks, *descriptors, *threads)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux reports what a process holds")
@pytest.mark.parametrize("source", ["tar", "folder"])
def test_what_a_run_needs_stays_flat(tmp_path: Path, source: str) -> None:
    """The last tenth of the items takes at most 3 % more memory than the second; files and threads stop to grow.

    Measured once with 1,000,000 from tars: 167.0 MB in the second tenth, 170.7 MB in the last, at most 188.6 MB between
    them. From a folder: 441.6 MB, 443.7 MB and 445.1 MB; the paths of the folder are known from the start.
    """
    words = [sys.executable, "-c", RUN, str(tmp_path), source, str(ITEMS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [int(each) for each in done.stdout.split()]
    peaks, descriptors, threads = found[:10], found[10:20], found[20:]
    print([round(each / 1e6, 1) for each in peaks], descriptors, threads)
    assert max(descriptors[5:]) <= max(descriptors[:5]) + 2, descriptors
    # Merges of shards start a thread that stays: of 1,000,000 items, one in the sixth tenth.
    assert max(threads[7:]) <= max(threads[:7]), threads
    if ITEMS >= LEAST_ITEMS:
        assert peaks[9] <= 1.03 * peaks[1], peaks
