"""Embedding items: decoded ahead in threads, and encoded in batches by the tower of their modality.

A batch is embedded while the next one is decoded and the one before is committed.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from llm2clip_search.corpora import Item
from llm2clip_search.corpora.corpus import ItemReader, Modality
from llm2clip_search.corpora.decode import Decoded, decode_ahead
from llm2clip_search.corpora.encode import TEXT_BATCHES, encode_decoded
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.images import MAX_PIXELS
from llm2clip_search.encoders.isolation import can_isolate

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
        isolate: as `decodes_apart`.
        max_pixels, drafts, known: as for `decode_item`; a known item passes through without pixels, text and vector.
            With ``known``, of several items with the same content the first has the vector, and the others pass as
            known.

    Yields:
        Every item once: with a vector, with an error, or known. One item that fails does not affect the others of its
        batch.

    Raises:
        Llm2ClipError: the model itself fails, not an item.
    """
    together = batch_size if modality == "image" else TEXT_BATCHES * batch_size
    first: dict[str, Decoded] = {}  # of each content that is being embedded for all items that have it
    results = decode_ahead(
        reader,
        items,
        encoder.preprocess,
        modality=modality,
        threads=threads,
        ahead=ahead,
        max_pixels=max_pixels,
        drafts=drafts,
        isolate=decodes_apart(encoder, isolate),
        known=known or _nothing,
    )
    with ThreadPoolExecutor(encoder.calls_at_once, thread_name_prefix="encode") as pool:
        batch, working = _Batch(), deque[_Batch]()
        try:
            for decoded in results:
                twin = None
                if known is not None and decoded.is_ready:
                    # It may have been embedded, or be about to be, since a thread asked whether its content is known.
                    twin = first.get(decoded.content_hash)
                    if twin is not None or known(decoded.content_hash):
                        decoded.pixels = decoded.text = None
                    else:
                        first[decoded.content_hash] = decoded
                batch.add(decoded, twin)
                if batch.pending == together or len(batch.items) == LONGEST_WAIT * together:
                    batch.work = pool.submit(encode_decoded, encoder, batch.items, batch_size)
                    working.append(batch)
                    batch = _Batch()
                while working and (len(working) > encoder.calls_at_once or working[0].is_done):
                    yield from _embedded(working.popleft(), first)
                if not batch.pending and not working:  # nothing that it could wait for
                    yield from _embedded(batch, first)
                    batch = _Batch()
            batch.work = pool.submit(encode_decoded, encoder, batch.items, batch_size)
            for each in (*working, batch):
                yield from _embedded(each, first)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # if the consumer has stopped early


def decodes_apart(encoder: Encoder, isolate: bool | None) -> bool | None:
    """Whether images are decoded in processes of their own, as `decode_item` takes it.

    Threads share Python's lock, which they need for a part of each image: sixteen decode little more than four. So an
    encoder may want processes for all images, where ``isolate`` does not say.
    """
    return True if isolate is None and encoder.wants_processes and can_isolate() else isolate


class _Batch:
    """Items in order: those to be embedded in one call, and what came between them."""

    def __init__(self) -> None:
        self.items: list[Decoded] = []
        self.twins: dict[int, Decoded] = {}
        """By position: the earlier item that has the same content, and is embedded for both."""
        self.pending = 0
        """Items to be embedded."""
        self.work: Future[object] | None = None
        """The call that embeds them, once it is waiting or has begun."""

    @property
    def is_done(self) -> bool:
        return self.work is None or self.work.done()

    def add(self, item: Decoded, twin: Decoded | None) -> None:
        if twin is not None:
            self.twins[len(self.items)] = twin
        self.items.append(item)
        self.pending += item.is_ready


def _embedded(batch: _Batch, first: dict[str, Decoded]) -> Iterator[Decoded]:
    """The items of a batch once they are embedded. One whose twin has failed fails too."""
    if batch.work is not None:
        batch.work.result()
    for position, item in enumerate(batch.items):
        if (twin := batch.twins.get(position)) is not None:
            item.error = twin.error
        yield item
    for item in batch.items:  # the consumer has those that were embedded, and knows them itself
        if first.get(item.content_hash) is item:
            del first[item.content_hash]


def _nothing(content_hash: str) -> bool:
    """Nothing is known."""
    return False
