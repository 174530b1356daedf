"""What decoding in processes that can be killed costs: ``python -m llm2clip_search.benchmarks.perf.isolation FOLDER``.

Processor time of this process and its children is what is compared, because it depends little on what else a machine
does; the pixels have to be equal.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from llm2clip_search.corpora import FolderCorpus
from llm2clip_search.corpora.decode import decode_ahead
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.isolation import PROCESSES

SIDE = 224
"""Pixels of the sides of what is decoded to."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Decoding the images of a folder."""

    isolate: bool
    images: int
    processor_ms: float
    """Per image: of all threads and processes, with the start of the processes."""
    wall_ms: float
    """Per image."""
    checksum: int
    """Of all pixels."""


def measure_isolation(folder: Path, *, most: int, threads: int) -> Iterator[Cost]:
    """Decode the images of a folder in this process and in others, alternately, twice each."""
    preprocess = PreprocessConfig(height=SIDE, width=SIDE)
    for isolate in (False, True, False, True):
        items = list(islice(FolderCorpus(folder).items(), most))
        before, started, checksum, images = _processor_seconds(), time.perf_counter(), 0, 0
        for decoded in decode_ahead(
            FolderCorpus(folder), items, preprocess, threads=threads, ahead=64, isolate=isolate
        ):
            if decoded.pixels is not None:
                images += 1
                checksum += int(decoded.pixels.astype(np.int64).sum())
        wall = time.perf_counter() - started
        spent = _processor_seconds() - before
        per_image = 1000.0 / max(1, images)
        yield Cost(
            isolate=isolate,
            images=images,
            processor_ms=per_image * spent,
            wall_ms=per_image * wall,
            checksum=checksum,
        )


def _processor_seconds() -> float:
    """Of this process and of those that decode, which count once they have ended."""
    import resource  # absent on Windows

    PROCESSES.close()
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def main() -> None:
    """Measure a folder and write a line of JSON for each pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=1000, help="images")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as out:
        for cost in measure_isolation(given.folder, most=given.most, threads=given.threads):
            out.write(json.dumps(asdict(cost)) + "\n")


if __name__ == "__main__":
    main()
