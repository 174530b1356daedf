"""Speed of the indexer compared with the vision tower alone, its slowest stage, and the time of queries."""

import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm2clip_search.benchmarks.datasets.base import texts_digest
from llm2clip_search.benchmarks.perf.gpu_use import GpuUse, watched_gpus
from llm2clip_search.benchmarks.perf.machine import describe_machine
from llm2clip_search.benchmarks.perf.timing import seconds_of, tower_rate
from llm2clip_search.corpora import FolderCorpus
from llm2clip_search.corpora.decode import decode_ahead
from llm2clip_search.encoders import Encoder
from llm2clip_search.engine import SearchIndex
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers import IndexConfig, index_folder
from llm2clip_search.indexers.embed import decodes_apart
from llm2clip_search.store import Snapshot

QUERY_CAPTIONS = tuple(
    f"{who} {what} {where}, while {other} from a distance under a grey sky"
    for who in ("A black dog", "A small child in a red jacket", "An old man with a long beard", "A group of hikers")
    for what in ("runs through shallow water", "climbs a wet rock", "waits in front of a shop", "jumps over a fence")
    for where in ("near a wooden bridge", "on a crowded beach")
    for other in ("a woman with a camera watches", "several cyclists look on")
)
"""Sixty-four captions of 23 to 31 words, the length of a sentence in a detailed description."""
STAGES = ("tower", "read", "decode", "write")
"""Stages of indexing, as `IndexSpeed` names their rates."""


@dataclass(frozen=True, kw_only=True)
class IndexSpeed:
    """Medians over rounds, from one run on one machine with the files in the page cache; rates are per second."""

    model: str
    """Name of the encoder."""
    fingerprint: str
    data: str
    """16 hex digits of the contents of the images, whatever their names and order."""
    machine: Mapping[str, Any]
    """See `machine.describe_machine`."""
    images: int
    rounds: int
    tower: float
    """Images per second of the vision tower on pixels in memory."""
    read: float
    """Images per second of walking the folder, reading and hashing, with the indexer's threads and nothing else."""
    decode: float
    """Images per second of decoding and resizing, likewise."""
    write: float
    """Images per second of the commits in a complete index run, flushed to disk, including its approximate index."""
    slowest: str
    """The one of `STAGES` with the lowest rate."""
    index: float
    """Images per second of a complete index run: walk, read, hash, decode, embed, write."""
    first: float
    """Time of that run in seconds."""
    again: float
    """Time in seconds of a second run in which nothing has changed."""
    caption: float
    """Time in seconds from a caption to its hits, with the index and the towers loaded."""
    cold: float
    """Time in seconds of a ``query`` command in its own process: start, opening the index, loading the text tower."""
    text_tower: float
    """Captions per second of the text tower on `QUERY_CAPTIONS`, including tokenization."""
    gpu: float | None = None
    """Share of the index run in which the GPU computed, see `gpu_use`; None without a GPU."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Any) -> "IndexSpeed":
        """Read what `to_dict` wrote; keys that are not its own are left out.

        Raises:
            TypeError: it is not an object, or a key is missing or has another type.
            ValueError: a rate or time is not above zero.
        """
        if not isinstance(raw, Mapping):
            raise TypeError("it is not a JSON object")
        given = {"gpu": None, **raw}  # the first release did not measure it
        expected: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,)}
        expected[float | None] = (int, float, type(None))
        for name, kind in cls.__annotations__.items():
            if name not in given:
                raise TypeError(f"it has no {name!r}")
            if not isinstance(given[name], expected.get(kind, (Mapping,))) or isinstance(given[name], bool):
                raise TypeError(f"its {name!r} is {given[name]!r}")
            if kind is float and not 0 < given[name] < math.inf:
                raise ValueError(f"its {name!r} is {given[name]!r}")
        return cls(**{name: given[name] for name in cls.__annotations__})


def measure_index_speed(
    encoder: Encoder,
    folder: Path,
    *,
    rounds: int,
    batch_size: int | None = None,
    query_options: Sequence[str] = (),
    comparable_to: IndexSpeed | None = None,
) -> IndexSpeed:
    """Measure each stage alone, then the indexer and queries; repeat this ``rounds`` times.

    Args:
        batch_size: images per call of the vision tower; None for the encoder's own.
        query_options: options for the ``query`` command, so that its process loads the towers as ``encoder`` does.
        comparable_to: an earlier measurement, which has to be of the same model and images.

    Raises:
        CorpusError: no image in ``folder`` can be read, the ``query`` command fails, or the measurement could not be
            compared with ``comparable_to``.
    """
    if comparable_to is not None and comparable_to.fingerprint != encoder.fingerprint:
        raise CorpusError(
            f"The recorded measurement is of {comparable_to.model} ({comparable_to.fingerprint}), not of"
            f" {encoder.name} ({encoder.fingerprint})."
        )
    config = IndexConfig(batch_size=batch_size)
    batch_size = config.images_at_once(encoder)
    stages = _Stages.measure(encoder, folder, config)
    if comparable_to is not None and comparable_to.data != stages.data:
        raise CorpusError(
            f"The recorded measurement is of {comparable_to.images:,} images, which are not the {stages.images:,}"
            f" images in {folder}."
        )
    pixels = stages.pixels
    encoder.encode_pixels(pixels[:batch_size])  # loads the tower and warms it up
    encoder.encode_texts(QUERY_CAPTIONS[:1])
    taken: dict[str, list[float]] = {}
    busy: list[float | None] = []
    for round_ in range(rounds):
        stages = _Stages.measure(encoder, folder, config)
        measured = {
            "read": stages.images / stages.read,
            "decode": stages.decoded / stages.decode,
            "tower": tower_rate(encoder, pixels, batch_size),
            "text_tower": len(QUERY_CAPTIONS) / seconds_of(lambda: encoder.encode_texts(QUERY_CAPTIONS)),
        }
        timed, use = _index_and_query(encoder, folder, config, query_options, round_)
        measured |= timed
        busy.append(use.mean)
        for name, value in measured.items():
            taken.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return IndexSpeed(
        model=encoder.name,
        fingerprint=encoder.fingerprint,
        data=stages.data,
        machine=describe_machine(),
        images=stages.images,
        rounds=rounds,
        slowest=min(STAGES, key=medians.__getitem__),
        gpu=statistics.median(each) if (each := [mean for mean in busy if mean is not None]) else None,
        **medians,
    )


class _Stages(NamedTuple):
    """A pass over a folder up to the decoded pixels."""

    images: int
    decoded: int
    """Number of images that could be decoded."""
    read: float
    """Seconds of walking, reading and hashing; the time of parallel threads is divided by their number."""
    decode: float
    """Seconds of decoding and resizing, likewise."""
    pixels: np.ndarray
    """Pixels of the first sixteen batches, uint8 ``[n, height, width, 3]``."""
    data: str
    """See `IndexSpeed.data`."""

    @classmethod
    def measure(cls, encoder: Encoder, folder: Path, config: IndexConfig) -> "_Stages":
        batch_size = config.images_at_once(encoder)
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
            ahead=config.ahead_batches * batch_size,
            max_pixels=config.max_pixels,
            isolate=decodes_apart(encoder, config.isolate),
        )
        pixels: list[np.ndarray] = []
        hashes: list[str] = []
        decoded = 0
        seconds = {"read": 0.0, "decode": 0.0}
        for result in results:
            hashes.append(result.content_hash)
            for stage, spent in result.seconds.items():
                seconds[stage] += spent / threads
            if result.pixels is not None:
                decoded += 1
                if decoded <= 16 * batch_size:
                    pixels.append(result.pixels)
        if not pixels:
            raise CorpusError(f"None of the {len(files)} images in {folder} can be read.")
        return cls(
            images=len(files),
            decoded=decoded,
            read=walked + seconds["read"],
            decode=seconds["decode"],
            pixels=np.stack(pixels),
            data=texts_digest(sorted(hashes)),
        )


def _index_and_query(
    encoder: Encoder, folder: Path, config: IndexConfig, query_options: Sequence[str], round_: int
) -> tuple[dict[str, float], GpuUse]:
    """Index into a temporary folder twice, and query it in this process and in a new one.

    Returns:
        Figures as `IndexSpeed` names them, and the GPUs' use by the first index run.
    """
    scratch = Path(tempfile.mkdtemp(prefix="llm2clip-speed-"))
    try:
        with watched_gpus() as use:
            done = index_folder(folder, encoder=encoder, index=scratch / "index", config=config)
        again = index_folder(folder, encoder=encoder, index=scratch / "index", config=config)
        opened = SearchIndex(Snapshot(scratch / "index"), encoder)
        # A different caption in each round, so that nothing can be cached.
        warm = seconds_of(lambda: opened.query(f"{QUERY_CAPTIONS[0]}, picture {round_}"))
        timed = {
            "write": done.indexed / done.seconds["write"],
            "index": done.indexed / done.elapsed,
            "first": done.elapsed,
            "again": again.elapsed,
            "caption": warm,
            "cold": seconds_of(lambda: _query_in_new_process(scratch / "index", query_options)),
        }
        return timed, use
    finally:
        shutil.rmtree(scratch)


def _query_in_new_process(index: Path, options: Sequence[str]) -> None:
    """Run the ``query`` command; raises `CorpusError` with the error that it printed."""
    command = [sys.executable, "-m", "llm2clip_search", "query", QUERY_CAPTIONS[0], "--index", str(index), "--paths"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it printed no error"]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
        raise CorpusError(f"The query command in its own process failed with exit code {done.returncode}: {errors[-1]}")
