"""Thumbnails of large photographs over HTTP, made and cached, and the size of the page."""

import os
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llm2clip_search.benchmarks.perf.http_client import KeptOpen, answers_per_second
from llm2clip_search.benchmarks.perf.serving import running, wait_until_ready
from llm2clip_search.corpora import FolderCorpus
from llm2clip_search.encoders import Encoder
from llm2clip_search.indexers import index_corpus

PHOTOGRAPHS = 48
WIDTH, HEIGHT = 4000, 3000
_THUMBNAIL = 320


@dataclass(frozen=True, kw_only=True)
class PictureCost:
    """Pictures per second, of one run on one machine, whose cores the client shares."""

    cores: int
    fresh: float
    """Thumbnails of 12-megapixel JPEGs that were not made before."""
    cached: float
    """The same asked again."""
    page_bytes: int
    """Of the page's document and what it loads at once from ``/static``, before compression."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_pictures(encoder: Encoder, photographs: int = PHOTOGRAPHS) -> PictureCost:
    """Index some large photographs and ask for their thumbnails."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="llm2clip-serving-") as scratch:
        folder, index = Path(scratch) / "photographs", Path(scratch) / ".llm2clip"
        write_photographs(folder, photographs)
        index_corpus(FolderCorpus(folder), encoder=encoder, index=index)
        with running(index) as (address, _):
            with KeptOpen(address) as client:
                wait_until_ready(client)
                hits = client.post("/api/v1/search", {"k": photographs})["hits"]
            paths = [f"/api/v1/images/{hit['id']}/thumbnail?width={_THUMBNAIL}&v={hit['hash']}" for hit in hits]
            started = time.perf_counter()
            with ThreadPoolExecutor(2 * cores) as threads:
                list(threads.map(lambda path: _get(address, path), paths))
            fresh = len(paths) / (time.perf_counter() - started)
            cached = answers_per_second(address, paths)
            # The first connection may be closed by now: the server waits half a minute for a further request.
            with KeptOpen(address) as client:
                size = sum(len(client.body(path)) for path in _files(client))
    return PictureCost(cores=cores, fresh=fresh, cached=cached, page_bytes=size)


def write_photographs(folder: Path, count: int) -> None:
    """JPEGs of soft shapes under grain, as large as photographs; no two runs make the same."""
    folder.mkdir()
    generator = np.random.default_rng()
    grain = generator.integers(-12, 12, (HEIGHT, WIDTH, 1), dtype=np.int16)
    for number in range(count):
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        soft = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        pixels = np.clip(np.asarray(soft, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.jpg", quality=90)


def _get(address: str, path: str) -> None:
    with KeptOpen(address) as client:
        client.body(path)


def _files(client: KeptOpen) -> Iterator[str]:
    """The page, and what it loads at once below ``/static``: what its document names, and imports atop a module."""
    seen, waiting = set[str](), ["/"]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            yield path
            text = client.body(path).decode("utf-8", "replace")
            if path == "/":
                waiting += re.findall(r"/static/[\w.-]+", text)
            waiting += [f"/static/{name}" for name in re.findall(r"from '\./([\w.-]+\.js)'", text)]
