"""Vectors of texts and of images by the part, for training and benchmarks: each part is a unit of work."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llm2clip_search.base.files import user_path
from llm2clip_search.cluster.pipeline import embed_units
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.cluster.work import EncoderSource, Note, Work
from llm2clip_search.corpora.corpus import Item, ItemReader, Modality
from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.errors import CorpusError, ImageError

_NOTHING = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True, kw_only=True)
class _Texts(Work):
    """Units are lists of texts."""

    modality: Modality = "text"

    def open(self, item: Item) -> bytes:
        raise CorpusError(f"{item.uri} is a text that nothing opens.")

    def check(self) -> None:
        return

    def listed(self, unit: Sequence[str], encoder: EncoderSource) -> Iterator[Item | Decoded | Note]:
        for number, text in enumerate(unit):
            yield Decoded(item=Item(uri=f"text:{number}"), text=text)


@dataclass(frozen=True, kw_only=True)
class _Images(Work):
    """Units are lists of items."""

    reader: ItemReader
    sample: Item
    drafts: bool
    modality: Modality = "image"

    def open(self, item: Item) -> bytes:
        return self.reader.open(item)

    def check(self) -> None:
        self.reader.open(self.sample)

    def listed(self, unit: Sequence[Item], encoder: EncoderSource) -> Iterator[Item | Decoded | Note]:
        yield from unit


def texts_on_ray(
    parts: Iterable[Sequence[str]], source: EncoderSource, config: ClusterConfig, *, owner: str, batch_size: int = 64
) -> Iterator[np.ndarray]:
    """Vectors of texts, part by part; an encoder gets the whole of a part at once, as it would in this process.

    Args:
        owner: path of the folder that the vectors are for; the staging place is in it if none is named.

    Yields:
        float32 ``[len(part), dim]`` for each part, in order.

    Raises:
        ClusterError, Llm2ClipError: as `embed_units`.
        ImageError: a text cannot be embedded.
    """
    yield from _vectors(_Texts(), [list(part) for part in parts], source, config, owner, batch_size)


def images_on_ray(
    parts: Sequence[Sequence[Item]],
    reader: ItemReader,
    source: EncoderSource,
    config: ClusterConfig,
    *,
    owner: str,
    drafts: bool,
    batch_size: int,
) -> Iterator[np.ndarray]:
    """Vectors of images, part by part; arguments and result as of `texts_on_ray`, with what reads the items."""
    if parts:
        work = _Images(reader=reader, sample=parts[0][0], drafts=drafts)
        yield from _vectors(work, parts, source, config, owner, batch_size)


def _vectors(
    work: Work,
    parts: Sequence[Sequence[str] | Sequence[Item]],
    source: EncoderSource,
    config: ClusterConfig,
    owner: str,
    batch_size: int,
) -> Iterator[np.ndarray]:
    if not parts:
        return
    results = embed_units(
        work,
        parts,
        source,
        replace(config, staging=config.staging or str(user_path(owner).absolute() / ".cluster")),
        owner=owner,
        batch_size=batch_size,
        together=max(map(len, parts)) if work.modality == "text" else batch_size,
        known=_NOTHING,
    )
    vectors = (_vector(result) for result in results if isinstance(result, Decoded))
    for part in parts:
        yield np.stack([next(vectors) for _ in part])


def _vector(result: Decoded) -> np.ndarray:
    if result.error is not None:
        raise ImageError(f"{result.item.uri}: {result.error}", stage=result.error.stage)
    assert result.vector is not None, "what does not fail is embedded"
    return result.vector
