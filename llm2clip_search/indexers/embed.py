"""Embedding items: decoded ahead in threads, and encoded in batches by the tower of their modality."""

from collections.abc import Callable, Iterable, Iterator

from llm2clip_search.corpora import Item
from llm2clip_search.corpora.corpus import ItemReader, Modality
from llm2clip_search.corpora.decode import Decoded, decode_ahead
from llm2clip_search.corpora.encode import TEXT_BATCHES, encode_decoded
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.images import MAX_PIXELS

LONGEST_WAIT = 8
"""Items that wait for a batch to be full are at most so many batches: others with the same content, and failures, come
between those that fill it, and perhaps no others come at all."""


def embed_ahead(
    reader: ItemReader,
    items: Iterable[Item | Decoded],
    encoder: Encoder,
    *,
    modality: Modality = "image",
    batch_size: int,
    threads: int,
    ahead: int,
    max_pixels: int = MAX_PIXELS,
    drafts: bool = True,
    isolate: bool | None = None,
    known: Callable[[str], bool] | None = None,
) -> Iterator[Decoded]:
    """Decode and embed items, in their order.

    Args:
        items: what is a result already passes through, in its place.
        modality: what the items are.
        batch_size: images per call of the vision tower, or texts per call of the text tower.
        threads: that read and decode.
        ahead: items that may be decoded or in work at once; bounds memory.
        max_pixels, drafts, isolate, known: as for `decode_item`; a known item passes through without pixels, text
            and vector. With ``known``, of several items with the same content the first has the vector, and the others
            pass as known.

    Yields:
        Every item once: with a vector, with an error, or known. One item that fails does not affect the others of its
        batch.

    Raises:
        Llm2ClipError: the model itself fails, not an item.
    """
    together = batch_size if modality == "image" else TEXT_BATCHES * batch_size
    waiting: list[Decoded] = []  # in order: those to be embedded, and what came between them
    first: dict[str, Decoded] = {}  # of each content among those to be embedded; empty if all of them are
    pending = 0
    results = decode_ahead(
        reader,
        items,
        encoder.preprocess,
        modality=modality,
        threads=threads,
        ahead=ahead,
        max_pixels=max_pixels,
        drafts=drafts,
        isolate=isolate,
        known=known or _nothing,
    )
    for decoded in results:
        waiting.append(decoded)
        if known is not None and decoded.is_ready:
            # Its twin may have been embedded, or be about to be, since a thread asked whether its content is known.
            if decoded.content_hash in first or known(decoded.content_hash):
                decoded.pixels = decoded.text = None
            else:
                first[decoded.content_hash] = decoded
        pending += decoded.is_ready
        if pending == together or not pending or len(waiting) == LONGEST_WAIT * together:
            yield from _failed_with(first, encode_decoded(encoder, waiting, batch_size))
            waiting, first, pending = [], {}, 0
    yield from _failed_with(first, encode_decoded(encoder, waiting, batch_size))


def _nothing(content_hash: str) -> bool:
    """Nothing is known."""
    return False


def _failed_with(first: dict[str, Decoded], items: list[Decoded]) -> list[Decoded]:
    """Items of which some have their content embedded with another one, whose failure is theirs too."""
    for item in items:
        twin = first.get(item.content_hash)
        if twin is not None and twin is not item:
            item.error = twin.error
    return items
