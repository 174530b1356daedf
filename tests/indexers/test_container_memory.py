"""Memory of indexing many tiny items from tars, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ITEMS = int(os.environ.get("LLM2CLIP_MEMORY_ITEMS", "0"))
"""1,000,000 take about fifteen minutes and 2 GB of disk. With fewer than 700,000, only small shards are merged in the
second tenth of the items."""
RUN = """
import io
import sys
import tarfile
from pathlib import Path

import numpy as np

from llm2clip_search.base.memory import private_bytes
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.indexers import IndexConfig, index_corpus
from tests.support.encoders import ColourEncoder

folder, items = Path(sys.argv[1]), int(sys.argv[2])
encoder = ColourEncoder()
encoder.preprocess = PreprocessConfig(height=4, width=4)
encoder.encode_pixels = lambda pixels: np.tile(np.eye(16, dtype=np.float32)[0], (len(pixels), 1))
random, size = np.random.default_rng(0), items // 40
for tar in range(40):
    with tarfile.open(folder / f"{tar:02d}.tar", "w", format=tarfile.USTAR_FORMAT) as file:
        for number in range(tar * size, (tar + 1) * size):
            picture = b"P6 4 4 255\\n" + number.to_bytes(8, "big") + random.bytes(40)
            for name, data in ((f"{number:09d}.ppm", picture), (f"{number:09d}.txt", b"caption %d" % number)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
peaks = [0] * 10

def progress(what, done, total, facts):
    if what == "images":
        tenth = min(9, 10 * done // items)
        peaks[tenth] = max(peaks[tenth], private_bytes())

[corpus] = open_corpora([folder / "*.tar"])
config = IndexConfig(batch_size=256)
done = index_corpus(corpus, encoder=encoder, index=folder / "i", config=config, progress=progress)
assert (done.indexed, done.failures) == (items, [])
print(*peaks)
"""


@pytest.mark.slow
@pytest.mark.skipif(not ITEMS, reason="LLM2CLIP_MEMORY_ITEMS says how many items, such as 1000000")
def test_memory_stays_flat(tmp_path: Path) -> None:
    """The last tenth of the items takes at most 5 % more than the second.

    Measured once with 1,000,000: 167.0 MB in the second tenth, 170.7 MB in the last, at most 188.6 MB between them.
    """
    words = [sys.executable, "-c", RUN, str(tmp_path), str(ITEMS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peaks = [int(each) for each in done.stdout.split()]
    print([round(each / 1e6, 1) for each in peaks])
    assert peaks[9] <= 1.05 * peaks[1], peaks
