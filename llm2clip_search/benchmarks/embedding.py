"""Cached embeddings of a benchmark's images and captions; an interrupted run continues where it stopped.

The cache folder contains ``FINGERPRINT/KIND-DIGEST/NNNNNN.npy``, float32 ``[<= PART, dim]``: the fingerprint of the
encoder, and a digest of the bytes and order of what was embedded. Any change to either, such as another version of a
caption file or a retrained head, gives another folder, and everything is embedded again. The kind of captions names the
precision of the text tower, so that a recall measured with 8-bit weights is not read as one of exact weights.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.benchmarks.datasets.base import images_digest, texts_digest
from llm2clip_search.cluster.items import images_on_ray, texts_on_ray
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.cluster.work import EncoderSource
from llm2clip_search.corpora import Item
from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.cache import cache_dir
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers.embed import embed_ahead

PART = 1024
"""Images or captions per file; at most this many are embedded again after an interruption."""
THREADS = 4
"""Threads that decode ahead of the vision tower."""


def default_cache() -> Path:
    """The default folder of cached embeddings."""
    return cache_dir() / "embeddings"


def embed_images(
    encoder: Encoder,
    images: ImageFiles,
    *,
    cache: Path | None,
    drafts: bool = False,
    batch_size: int = 32,
    cluster: ClusterConfig | None = None,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Embed images.

    Args:
        cache: folder of cached embeddings; None to cache nothing.
        drafts: read large JPEGs at reduced size, as indexing does. Papers measured with whole ones.
        cluster: embed there; by default in this process.

    Returns:
        float32 ``[n_images, dim]``, L2-normalised, in the order of ``images``.

    Raises:
        CorpusError: an image cannot be decoded; leaving it out would change the benchmark.
    """
    ids = list(images)

    def embed(rows: np.ndarray) -> np.ndarray:
        items = [Item(uri=ids[row]) for row in rows]
        results = embed_ahead(
            images, items, encoder, batch_size=batch_size, threads=THREADS, ahead=2 * batch_size, drafts=drafts
        )
        return np.stack([vector_of(result) for result in results])

    def embed_parts(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        if cluster is None:
            return map(embed, parts)
        return images_on_ray(
            [[Item(uri=ids[row]) for row in rows] for rows in parts],
            images,
            EncoderSource.of(encoder),
            cluster,
            owner=str(cache or default_cache()),
            drafts=drafts,
            batch_size=batch_size,
        )

    def vector_of(image: Decoded) -> np.ndarray:
        if image.error is not None or image.vector is None:
            image_id = image.item.uri
            raise CorpusError(f"Image {image_id!r} in {images.path(image_id)} cannot be measured: {image.error}.")
        return image.vector

    kind = "drafts" if drafts else "whole-images"
    folder = cache / encoder.fingerprint / f"{kind}-{images_digest(images)}" if cache else None
    return _in_parts("images", np.arange(len(ids)), encoder.dim, embed_parts, folder, progress)


def embed_captions(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    cache: Path | None,
    cluster: ClusterConfig | None = None,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Embed captions.

    Args:
        cache: folder of cached embeddings; None to cache nothing.
        cluster: embed there; by default in this process.

    Returns:
        float32 ``[n, dim]``, L2-normalised, in the order of ``texts``.
    """
    kind = f"captions-{encoder.text_precision}"
    folder = cache / encoder.fingerprint / f"{kind}-{texts_digest(texts)}" if cache else None
    # Sorted by length over all captions, so that little is spent on padding.
    order = np.argsort(encoder.count_tokens(texts), kind="stable")

    def embed_parts(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        chosen = ([texts[row] for row in rows] for rows in parts)
        if cluster is None:
            return map(encoder.encode_texts, chosen)
        return texts_on_ray(chosen, EncoderSource.of(encoder), cluster, owner=str(cache or default_cache()))

    return _in_parts("captions", order, encoder.dim, embed_parts, folder, progress)


def _in_parts(
    what: str,
    order: np.ndarray,
    dim: int,
    embed: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]],
    folder: Path | None,
    progress: Progress,
) -> np.ndarray:
    """Vectors of all rows, computed in parts of ``order``; parts that are cached are read instead."""
    out = np.empty((len(order), dim), dtype=np.float32)
    missing: list[tuple[Path | None, np.ndarray]] = []
    done = 0
    for start in range(0, len(order), PART):
        rows = order[start : start + PART]
        path = folder / f"{start // PART:06d}.npy" if folder else None
        found = _cached_part(path, (len(rows), dim)) if path else None
        if found is None:
            missing.append((path, rows))
        else:
            out[rows] = found
            done += len(rows)
            progress(what, done, len(order), {})
    embedded = embed(rows for _, rows in missing)
    for path, rows in missing:
        out[rows] = vectors = next(embedded)
        if path:
            _cache_part(path, vectors)
        done += len(rows)
        progress(what, done, len(order), {})
    return out


def _cached_part(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """A cached part; None if there is none or it is damaged."""
    try:
        vectors: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float32 else None


def _cache_part(path: Path, vectors: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    np.save(data, vectors)
    replace_file(path, data.getvalue())
