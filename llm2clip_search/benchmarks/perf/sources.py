"""The same images indexed from every place that they can be in: the same vectors, and how fast."""

import os
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.benchmarks.perf.loopback import has_s3_server, http_server, s3_server
from llm2clip_search.benchmarks.perf.timing import tower_rate
from llm2clip_search.corpora import FolderCorpus, SourceOptions
from llm2clip_search.corpora.decode import decode_ahead
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers import IndexConfig, index_corpus
from llm2clip_search.store import Snapshot

_PER_TAR = 1000
_PER_GROUP = 100
_BATCHES = 8
"""Batches that the vision tower is timed with, before and after each source."""
_KEYS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True, kw_only=True)
class SourceSpeed:
    """One source; rates are images per second, all of one run on one machine."""

    source: str
    """folder, tar, table, urls or s3."""
    images: int
    rate: float
    """Of a complete index run."""
    tower: float
    """Of the vision tower alone on pixels in memory: the mean of just before and just after the run."""
    again: float
    """Seconds of a second run, in which nothing has changed."""
    same: bool
    """The vectors are those of the folder, to the bit."""

    @property
    def share(self) -> float:
        """Of the tower's speed."""
        return self.rate / self.tower

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "share": self.share}


def measure_sources(
    encoder: Encoder,
    folder: Path,
    *,
    limit: int | None = None,
    config: IndexConfig = IndexConfig(),
    progress: Progress = no_progress,
) -> Iterator[SourceSpeed]:
    """Index the images of a folder from the folder, from tar shards, from the bytes in a Parquet file, from URLs of a
    server on loopback, and from an S3 server on loopback, if moto is installed.

    Args:
        limit: number of images, the first of the folder; None for all.

    Raises:
        CorpusError: the folder holds no images, or one of them cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="llm2clip-sources-") as name, ExitStack() as stack:
        scratch = Path(name)
        images = _link_images(folder, scratch / "images", limit)
        pixels = _pixels(encoder, scratch / "images", config)
        tower_rate(encoder, pixels, config.images_at_once(encoder))  # loads it
        expected: np.ndarray | None = None
        places = _places(scratch, images, stack)
        for number, (source, (uri, options)) in enumerate(places.items()):
            progress("sources", number, len(places), {})
            index = scratch / f"index-{source}"
            [corpus] = open_corpora([uri], options)
            before = tower_rate(encoder, pixels, config.images_at_once(encoder))
            done = index_corpus(corpus, encoder=encoder, index=index, config=config)
            after = tower_rate(encoder, pixels, config.images_at_once(encoder))
            if done.failures:
                raise CorpusError(f"{done.failures[0]['path']} cannot be indexed: {done.failures[0]['reason']}.")
            vectors = _vectors(index)
            expected = vectors if expected is None else expected
            yield SourceSpeed(
                source=source,
                images=done.indexed,
                rate=done.indexed / done.elapsed,
                tower=(before + after) / 2,
                again=index_corpus(corpus, encoder=encoder, index=index, config=config).elapsed,
                same=np.array_equal(vectors, expected),
            )
        progress("sources", len(places), len(places), {})


def _link_images(folder: Path, images: Path, limit: int | None) -> list[Path]:
    """Links to images of a folder, named by their order, so that every source has them in the same one."""
    images.mkdir()
    links = list[Path]()
    for number, item in enumerate(FolderCorpus(folder).items()):
        if number == limit:
            break
        links.append(images / f"{number:07}{Path(item.uri).suffix}")
        links[-1].symlink_to(Path(item.uri).resolve())
    if not links:
        raise CorpusError(f"There are no images in {folder}.")
    return links


def _places(scratch: Path, images: Sequence[Path], stack: ExitStack) -> dict[str, tuple[str, SourceOptions]]:
    """Where the images are, by the kind of source; servers run until the stack is closed."""
    _write_tars(scratch / "tars", images)
    _write_table(scratch / "table.parquet", images)
    server = stack.enter_context(http_server(scratch / "images"))
    pq.write_table(pa.table({"url": [f"{server}/{image.name}" for image in images]}), scratch / "urls.parquet")
    found = {
        "folder": (str(scratch / "images"), SourceOptions()),
        "tar": (str(scratch / "tars"), SourceOptions()),
        "table": (str(scratch / "table.parquet"), SourceOptions()),
        "urls": (str(scratch / "urls.parquet"), SourceOptions(allow_private=True)),
    }
    if has_s3_server():
        endpoint = stack.enter_context(s3_server())
        stack.enter_context(_environment({**_KEYS, "AWS_ENDPOINT_URL": endpoint}))
        bucket = f"images-{time.time_ns()}"
        _fill_bucket(endpoint, bucket, images)
        found["s3"] = (f"s3://{bucket}", SourceOptions())
    return found


def _write_tars(folder: Path, images: Sequence[Path]) -> None:
    folder.mkdir()
    for first in range(0, len(images), _PER_TAR):
        with tarfile.open(folder / f"{first // _PER_TAR:04}.tar", "w", dereference=True) as tar:
            for image in images[first : first + _PER_TAR]:
                tar.add(image, image.name)


def _write_table(path: Path, images: Sequence[Path]) -> None:
    schema = pa.schema({"image": pa.binary()})
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, len(images), _PER_GROUP):
            content = [image.read_bytes() for image in images[first : first + _PER_GROUP]]
            writer.write_table(pa.table({"image": content}, schema))


def _fill_bucket(endpoint: str, bucket: str, images: Sequence[Path]) -> None:
    import obstore
    import urllib3
    from obstore.store import S3Store

    urllib3.PoolManager().request("PUT", f"{endpoint}/{bucket}")
    store = S3Store(bucket, client_options={"allow_http": True})
    for image in images:
        obstore.put(store, image.name, image.read_bytes())


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables, as they are read by whoever looks for credentials, for as long as the context lasts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _pixels(encoder: Encoder, folder: Path, config: IndexConfig) -> np.ndarray:
    """Pixels of the first batches, uint8 ``[n, height, width, 3]``."""
    corpus = FolderCorpus(folder)
    some = islice(corpus.items(), _BATCHES * config.images_at_once(encoder))
    decoded = decode_ahead(
        corpus, some, encoder.preprocess, threads=config.threads, ahead=config.images_at_once(encoder)
    )
    found = [each.pixels for each in decoded if each.pixels is not None]
    if not found:
        raise CorpusError(f"None of the first images of {folder} can be read.")
    return np.stack(found)


def _vectors(index: Path) -> np.ndarray:
    """The vectors of an index in the order of its rows, which is that of the images."""
    snapshot = Snapshot(index)
    return snapshot.vectors(snapshot.metadata().column("id").to_pylist())
