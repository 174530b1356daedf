"""A mapped file that is cut off while it is read ends the process, and nothing that was committed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm2clip_search.store import Snapshot, verify_index

RUN = """
import io
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.indexers import IndexConfig, index_corpus
from tests.support.encoders import ColourEncoder

table, index = Path(sys.argv[1]), Path(sys.argv[2])

def png(seed):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()

images = pa.table({"image": [png(seed) for seed in range(300)]})
with pa.ipc.new_file(str(table), images.schema) as writer:
    writer.write_table(images, max_chunksize=20)
encoder = ColourEncoder()
real = encoder.encode_pixels

def cut_off(pixels):
    if encoder.embedded == 96:
        os.truncate(table, 4096)
    return real(pixels)

encoder.encode_pixels = cut_off
[corpus] = open_corpora([table])
index_corpus(corpus, encoder=encoder, index=index, config=IndexConfig(batch_size=16, rows_per_commit=16, threads=2))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse to cut off a mapped file, or send SIGSEGV")
def test_a_mapped_table_that_is_cut_off_costs_what_was_not_committed(tmp_path: Path) -> None:
    """The kernel has no page to give, and the process cannot be asked to go on."""
    words = [sys.executable, "-c", RUN, str(tmp_path / "table.arrow"), str(tmp_path / "index")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGBUS, done.stderr
    # Five batches were committed when the seventh began to be embedded; how many more were depends on the threads.
    live = Snapshot(tmp_path / "index").manifest.live
    assert 80 <= live < 300
    assert live % 16 == 0
    assert verify_index(tmp_path / "index", full=True).damaged == ()
