"""What a served index costs: from the start to the first answer, a search over HTTP, the next page, thumbnails.

The server runs as users run it, in a process of its own, and is asked over its socket.
"""

import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from llm2clip_search.benchmarks.perf.http_client import KeptOpen
from llm2clip_search.benchmarks.perf.scale import BLOCK, synthetic_row
from llm2clip_search.benchmarks.perf.synthetic import SphereMixture
from llm2clip_search.benchmarks.perf.timing import seconds_of
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers import AnnConfig, build_ann
from llm2clip_search.store import Writer

logger = logging.getLogger(__name__)

STARTS = 5
PAGE = 50
"""Hits of a page, as the page of the server asks for them."""
_SUBJECTS = ("a brown dog", "two children", "an old man with a hat", "a red boat", "a crowd in a stadium")
_PLACES = ("on a beach", "in the snow", "under a bridge at night", "beside a wet road", "in front of a white house")
_LIGHT = ("in the evening sun", "in fog")
CAPTIONS = [f"{who} {where} {light}" for who in _SUBJECTS for where in _PLACES for light in _LIGHT]


@dataclass(frozen=True, kw_only=True)
class ServingCost:
    """Costs at one number of rows; times are medians, of one run on one machine."""

    rows: int
    listening_s: float
    """From the start of the command to its first answer."""
    ready_s: float
    """From the start of the command until captions are answered without waiting for the model."""
    search_ms: float
    """A caption that was not asked before, to the JSON of `PAGE` hits."""
    encode_ms: float
    """Of this, what the server waited for the text tower."""
    overhead_ms: float
    """The rest."""
    next_page_ms: float
    filtered_ms: float
    """A new caption with a condition, less the time of the text tower."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_serving(encoder: Encoder, sizes: Sequence[int]) -> Iterator[ServingCost]:
    """Serve a synthetic index of each size with a real model, and ask it."""
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="llm2clip-serving-") as scratch:
            logger.info("writing %s rows", f"{size:,}")
            index = write_synthetic(Path(scratch) / ".llm2clip", size, encoder)
            yield _measured(index, size)


def write_synthetic(folder: Path, rows: int, encoder: Encoder) -> Path:
    """An index of random vectors under the name of a model; approximate from as many rows on as any other."""
    mixture = SphereMixture.of(rows, encoder.dim)
    with Writer.open(folder, model=encoder.identity, dim=encoder.dim) as writer:
        while (count := min(BLOCK, rows - writer.manifest.live)) > 0:
            made = [synthetic_row(number) for number in writer.allocate(count)]
            writer.commit(made, mixture.draw(count, stream=1 + made[0].id))
        build_ann(writer, AnnConfig(), captions=encoder.caption_sample)
    return folder


def _measured(index: Path, rows: int) -> ServingCost:
    listening = []
    for _ in range(STARTS):
        started = time.perf_counter()
        with running(index):
            listening.append(time.perf_counter() - started)
    started = time.perf_counter()
    with running(index) as (address, _), KeptOpen(address) as client:
        wait_until_ready(client)
        ready = time.perf_counter() - started
        captions = iter(CAPTIONS)
        asked = [_search(client, next(captions)) for _ in range(len(CAPTIONS) - len(_SUBJECTS))]
        filtered = [_search(client, next(captions), where="width > 5000") for _ in range(len(_SUBJECTS))]
    return ServingCost(
        rows=rows,
        listening_s=statistics.median(listening),
        ready_s=ready,
        search_ms=1000 * statistics.median(each.total for each in asked[1:]),
        encode_ms=1000 * statistics.median(each.encode for each in asked[1:]),
        overhead_ms=1000 * statistics.median(each.total - each.encode for each in asked[1:]),
        next_page_ms=1000 * statistics.median(each.next_page for each in asked[1:]),
        filtered_ms=1000 * statistics.median(each.total - each.encode for each in filtered[1:]),
    )


@dataclass(frozen=True)
class _Asked:
    """Seconds of one search."""

    total: float
    encode: float
    next_page: float


def _search(client: KeptOpen, caption: str, where: str | None = None) -> _Asked:
    asked = {"terms": [{"text": caption}], "k": PAGE, "where": where}
    answer: dict[str, Any] = {}
    total = seconds_of(lambda: answer.update(client.post("/api/v1/search", asked)))
    following = {**asked, "cursor": answer["next"]}
    return _Asked(total, answer["seconds"]["encode"], seconds_of(partial(client.post, "/api/v1/search", following)))


@contextmanager
def running(index: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a server that answers; it is stopped at the end.

    Raises:
        CorpusError: it did not start, or ended by itself.
    """
    command = [sys.executable, "-X", "faulthandler", "-m", "llm2clip_search", "serve", "--index", str(index)]
    # A file: nobody reads a pipe while clients ask, and a full one would stop the server.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*command, "--port", "0", *options], stderr=said, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        try:
            address = _address(process, said)
            with KeptOpen(address) as client:
                client.get("/api/v1/health")
            try:
                yield address, process.pid
            finally:  # it explains what clients met
                if process.poll() is not None:
                    raise CorpusError(f"The server ended with status {process.returncode}: {_all_of(said)[-2000:]}")
        finally:
            process.terminate()
            process.wait()


def _address(process: "subprocess.Popen[bytes]", said: IO[bytes]) -> str:
    """Where a server listens, once it says so."""
    while (match := re.search(r"http://\S+(?=\s)", _all_of(said))) is None:
        if process.poll() is not None:
            raise CorpusError(f"The server did not start: {_all_of(said).strip()}")
        time.sleep(0.002)
    return match[0]


def _all_of(file: IO[bytes]) -> str:
    # Without moving the place where the server writes on.
    return os.pread(file.fileno(), 1 << 20, 0).decode("utf-8", "replace")


def wait_until_ready(client: KeptOpen) -> None:
    """Wait until both towers are loaded.

    Raises:
        CorpusError: one cannot be loaded.
    """
    while True:
        answer = client.get("/api/v1/ready", any_status=True)
        states = {answer["state"], answer["text"], answer["vision"]}
        if states == {"ready"}:
            return
        if "failed" in states or answer["state"] == "no-index":
            raise CorpusError(f"The server cannot be asked: {answer['detail']}")
        time.sleep(0.02)
