"""How much of the vision tower's own speed the indexer keeps."""

import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.images import read_rgb, to_pixels
from llm2clip_search.engine import SearchIndex
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers.folder import FolderConfig, index_folder
from llm2clip_search.indexers.walk import walk_images
from llm2clip_search.store import Snapshot


@dataclass(frozen=True, kw_only=True)
class SpeedResult:
    """Medians over rounds, all from one run on one machine."""

    images: int
    rounds: int
    tower: float
    """Images a second of the vision tower on pixels that lie in memory."""
    index: float
    """Images a second of a whole index run: walk, read, hash, decode, embed, write."""
    first: float
    """Seconds of that run."""
    again: float
    """Seconds of a second run that finds nothing changed."""
    caption: float
    """Seconds from a caption to hits, index and towers loaded."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_speed(encoder: Encoder, folder: Path, *, rounds: int, batch_size: int = 32) -> SpeedResult:
    """Measure the tower and the indexer in turn, ``rounds`` times.

    Raises:
        CorpusError: no image in ``folder``.
    """
    files = [file.path for file in walk_images(folder).files]
    if not files:
        raise CorpusError(f"There are no images in {folder}.")
    sample = files[: 16 * batch_size]
    pixels = np.stack([to_pixels(read_rgb(path), encoder.preprocess) for path in sample])
    encoder.encode_pixels(pixels[:batch_size])  # loads and warms the tower
    encoder.encode_texts(["a caption"])
    tower, index, again, caption = [], [], [], []
    for round_ in range(rounds):
        started = time.perf_counter()
        for first in range(0, len(pixels), batch_size):
            encoder.encode_pixels(pixels[first : first + batch_size])
        tower.append(len(pixels) / (time.perf_counter() - started))
        scratch = Path(tempfile.mkdtemp(prefix="llm2clip-speed-"))
        try:
            config = FolderConfig(batch_size=batch_size)
            done = index_folder(folder, encoder=encoder, index=scratch / "index", config=config)
            index.append((done.indexed / done.elapsed, done.elapsed))
            again.append(index_folder(folder, encoder=encoder, index=scratch / "index", config=config).elapsed)
            opened = SearchIndex(Snapshot(scratch / "index"), encoder)
            started = time.perf_counter()
            opened.query(f"two children play in the shallow water of a lake, picture {round_}")
            caption.append(time.perf_counter() - started)
        finally:
            shutil.rmtree(scratch)
    return SpeedResult(
        images=len(files),
        rounds=rounds,
        tower=statistics.median(tower),
        index=statistics.median(rate for rate, _ in index),
        first=statistics.median(seconds for _, seconds in index),
        again=statistics.median(again),
        caption=statistics.median(caption),
    )
