"""How much of the vision tower's own speed the indexer keeps, which stage holds it up, and how long a query takes."""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm2clip_search.corpora import FolderCorpus
from llm2clip_search.corpora.decode import decode_ahead
from llm2clip_search.encoders import Encoder
from llm2clip_search.engine import SearchIndex
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers import IndexConfig, index_folder
from llm2clip_search.store import Snapshot

QUERY_CAPTIONS = tuple(
    f"{who} {what} {where}, while {other} from a distance under a grey sky"
    for who in ("A black dog", "A small child in a red jacket", "An old man with a long beard", "A group of hikers")
    for what in ("runs through shallow water", "climbs a wet rock", "waits in front of a shop", "jumps over a fence")
    for where in ("near a wooden bridge", "on a crowded beach")
    for other in ("a woman with a camera watches", "several cyclists look on")
)
"""Sixty-four captions of 23 to 31 words, of the length of a careful description's sentence."""


@dataclass(frozen=True, kw_only=True)
class IndexSpeed:
    """Medians over rounds, all from one run on one machine, with the files in the page cache."""

    images: int
    rounds: int
    tower: float
    """Images a second of the vision tower on pixels that lie in memory."""
    read: float
    """Images a second of the walk, reading and hashing, with the indexer's threads and nothing beside them."""
    decode: float
    """Images a second of decoding and resizing, likewise."""
    write: float
    """Images a second of the commits of a whole index run, flushed to disk, and of its approximate index."""
    slowest: str
    """Which of tower, read, decode and write has the lowest rate."""
    index: float
    """Images a second of a whole index run: walk, read, hash, decode, embed, write."""
    first: float
    """Seconds of that run."""
    again: float
    """Seconds of a second run that finds nothing changed."""
    caption: float
    """Seconds from a caption to hits, index and towers loaded."""
    cold: float
    """Seconds of a ``query`` command in a process of its own: start-up, opening the index, loading the text tower."""
    text_tower: float
    """Captions a second of the text tower, of `QUERY_CAPTIONS`, tokenised."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_index_speed(
    encoder: Encoder,
    folder: Path,
    *,
    rounds: int,
    batch_size: int = 32,
    query_options: Sequence[str] = (),
) -> IndexSpeed:
    """Measure each stage alone, then the indexer and queries, ``rounds`` times in turn.

    Args:
        query_options: options of the ``query`` command by which its process loads the towers as ``encoder`` does.

    Raises:
        CorpusError: no image in ``folder`` that can be read, or the ``query`` command failed.
    """
    config = IndexConfig(batch_size=batch_size)
    stages = _Stages.measure(encoder, folder, config)
    pixels = stages.pixels
    encoder.encode_pixels(pixels[:batch_size])  # loads and warms the tower
    encoder.encode_texts(QUERY_CAPTIONS[:1])
    taken: dict[str, list[float]] = {}
    for round_ in range(rounds):
        stages = _Stages.measure(encoder, folder, config)
        measured = {
            "read": stages.images / stages.read,
            "decode": stages.decoded / stages.decode,
            "tower": len(pixels) / _seconds(lambda: _embed(encoder, pixels, batch_size)),
            "text_tower": len(QUERY_CAPTIONS) / _seconds(lambda: encoder.encode_texts(QUERY_CAPTIONS)),
            **_indexed_and_asked(encoder, folder, config, query_options, round_),
        }
        for name, value in measured.items():
            taken.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return IndexSpeed(
        images=stages.images,
        rounds=rounds,
        slowest=min(("tower", "read", "decode", "write"), key=medians.__getitem__),
        **medians,
    )


class _Stages(NamedTuple):
    """A pass over a folder that stops at pixels."""

    images: int
    decoded: int
    """Of these, the ones that gave pixels."""
    read: float
    """Seconds of walk, reading and hashing. Threads work side by side: their time is divided by their number."""
    decode: float
    """Seconds of decoding and resizing, likewise."""
    pixels: np.ndarray
    """uint8 ``[n, height, width, 3]``, of the first sixteen batches."""

    @classmethod
    def measure(cls, encoder: Encoder, folder: Path, config: IndexConfig) -> "_Stages":
        started = time.perf_counter()
        corpus = FolderCorpus(folder)
        files = list(corpus.items())
        walked = time.perf_counter() - started
        if not files:
            raise CorpusError(f"There are no images in {folder}.")
        threads = min(config.threads, len(files))
        results = decode_ahead(
            corpus,
            files,
            encoder.preprocess,
            threads=threads,
            ahead=config.ahead_batches * config.batch_size,
            max_pixels=config.max_pixels,
        )
        pixels: list[np.ndarray] = []
        decoded = 0
        seconds = {"read": 0.0, "decode": 0.0}
        for result in results:
            for stage, spent in result.seconds.items():
                seconds[stage] += spent / threads
            if result.pixels is not None:
                decoded += 1
                if decoded <= 16 * config.batch_size:
                    pixels.append(result.pixels)
        if not pixels:
            raise CorpusError(f"None of the {len(files)} images in {folder} can be read.")
        return cls(len(files), decoded, walked + seconds["read"], seconds["decode"], np.stack(pixels))


def _embed(encoder: Encoder, pixels: np.ndarray, batch_size: int) -> None:
    for first in range(0, len(pixels), batch_size):
        encoder.encode_pixels(pixels[first : first + batch_size])


def _indexed_and_asked(
    encoder: Encoder, folder: Path, config: IndexConfig, query_options: Sequence[str], round_: int
) -> dict[str, float]:
    """Two index runs into a scratch folder, and a query of it in this process and in one of its own."""
    scratch = Path(tempfile.mkdtemp(prefix="llm2clip-speed-"))
    try:
        done = index_folder(folder, encoder=encoder, index=scratch / "index", config=config)
        again = index_folder(folder, encoder=encoder, index=scratch / "index", config=config)
        opened = SearchIndex(Snapshot(scratch / "index"), encoder)
        # Another caption each round, so that nothing of it can be remembered.
        warm = _seconds(lambda: opened.query(f"{QUERY_CAPTIONS[0]}, picture {round_}"))
        return {
            "write": done.indexed / done.seconds["write"],
            "index": done.indexed / done.elapsed,
            "first": done.elapsed,
            "again": again.elapsed,
            "caption": warm,
            "cold": _seconds(lambda: _query_in_a_process(scratch / "index", query_options)),
        }
    finally:
        shutil.rmtree(scratch)


def _query_in_a_process(index: Path, options: Sequence[str]) -> None:
    """Raises CorpusError with the last line that the command wrote when it fails."""
    command = [sys.executable, "-m", "llm2clip_search", "query", QUERY_CAPTIONS[0], "--index", str(index), "--paths"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1].removeprefix("error: ")
        raise CorpusError(f"'llm2clip-search query' in a process of its own ended with {done.returncode}: {last}")


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
