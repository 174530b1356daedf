"""One item to what an index stores of it: content hash, and the facts and pixels of an image, or a text."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import numpy as np

from llm2clip_search.corpora.companions import columns_of, own_columns
from llm2clip_search.corpora.corpus import Item, ItemReader, Modality
from llm2clip_search.corpora.exif import exif_columns
from llm2clip_search.corpora.lookahead import map_ahead
from llm2clip_search.corpora.read_ahead import ReadAhead
from llm2clip_search.corpora.xmp import describe
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.decode_memory import BYTES_PER_PIXEL, MemoryBudget
from llm2clip_search.encoders.images import MAX_PIXELS, Picture, reading, to_pixels
from llm2clip_search.encoders.isolation import PROCESSES, can_isolate
from llm2clip_search.errors import CorpusError, ImageError, first_line

Passing = TypeVar("Passing")
_CONTENTS = MemoryBudget()
"""The contents of files that are being decoded. Without it, each thread could hold one as large as its limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """Metadata that an image's header holds."""

    width: int
    """Pixels, after EXIF rotation."""
    height: int
    format: str | None
    taken: datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    damage: str | None = None
    """What is wrong with the file, if its picture could be read nevertheless."""
    caption: str | None = None
    rating: int | None = None
    """Stars, 0 to 5; -1 for rejected."""
    keywords: list[str] | None = None


@dataclass(kw_only=True, slots=True)
class Decoded:
    """An item after its thread: hashed, and decoded unless its content is known or it failed."""

    item: Item
    """Its image or text; or a container whose parts have all passed, with ``error`` if listing them failed."""
    redescribed: int | None = None
    """Position of the row that gets the item's columns; nothing else of it has changed."""
    parts: int = 0
    """Of a container: parts that were listed."""
    unchanged: int = 0
    """Of a container: parts that were not read, because their version is known."""
    content_hash: str = ""
    size: int = 0
    """Bytes that were read."""
    facts: ImageFacts | None = None
    own: Mapping[str, Any] | None = None
    """What an image that is not decoded says of itself, in place of the columns of a row whose content or past it
    shares: caption, rating, keywords, time, camera and place; None if they are as that row says."""
    pixels: np.ndarray | None = None
    """uint8 ``[height, width, 3]`` for the vision tower."""
    text: str | None = None
    """The text itself, for the LLM."""
    error: ImageError | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by stage: ``read`` and ``decode`` in a thread, and its share of ``encode`` once it is embedded."""
    vector: np.ndarray | None = None
    """float32 ``[dim]``, unit length, once it is embedded."""

    @property
    def is_ready(self) -> bool:
        """True if it is to be embedded, and has not been."""
        return self.vector is None and self.error is None and (self.pixels is not None or self.text is not None)


def decode_item(
    reader: ItemReader,
    item: Item,
    preprocess: PreprocessConfig,
    *,
    modality: Modality = "image",
    max_pixels: int = MAX_PIXELS,
    drafts: bool = True,
    isolate: bool | None = None,
    known: Callable[[str], bool] = lambda content_hash: False,
) -> Decoded:
    """Read, hash and decode one item; a failure is a result, never an exception.

    Args:
        modality: what the item is; the bytes of a text are UTF-8.
        max_pixels: images that declare more fail, before they are decoded.
        drafts: whether large JPEGs are decoded at reduced size, which takes a fraction of the time and changes pixels
            slightly, see `reading`.
        isolate: whether an image is decoded in a process that can be killed, see `isolation`; None for those that have
            an address, on systems where that can be done.
        known: called with the content hash; if it returns True, the item is not decoded, because its vector and
            facts are in the index.
    """
    # A result waits for its commit, which takes thousands of them; what listing has read must not wait with it.
    out = Decoded(item=item if item.data is None else replace(item, data=None))
    size = 0 if item.data is not None else min(item.size, BYTES_PER_PIXEL * max_pixels)
    with _CONTENTS.hold(size, max_pixels=max_pixels):
        _decode_into(out, reader, item, preprocess, modality, max_pixels, drafts, isolate, known)
    return out


def _decode_into(
    out: Decoded,
    reader: ItemReader,
    item: Item,
    preprocess: PreprocessConfig,
    modality: Modality,
    max_pixels: int,
    drafts: bool,
    isolate: bool | None,
    known: Callable[[str], bool],
) -> None:
    """`decode_item` with the memory for the content of the file."""
    started = time.perf_counter()
    try:
        if item.fault:
            raise ImageError(item.fault, stage="header")
        if modality == "image" and item.size > BYTES_PER_PIXEL * max_pixels:
            raise ImageError(
                f"the file has {item.size:,} bytes, more than {BYTES_PER_PIXEL} for each of {max_pixels:,} pixels",
                stage="read",
                hint="Raise the limit with --max-pixels.",
            )
        try:
            data = reader.open(item) if item.data is None else item.data
        except OSError as error:
            raise ImageError(error.strerror or str(error), stage="read") from error
        except CorpusError as error:  # an address that nothing here reads
            raise ImageError(str(error).rstrip("."), stage="read", hint=error.hint) from error
        out.size = len(data)
        out.content_hash = hashlib.blake2b(data, digest_size=16).hexdigest()
        out.seconds["read"] = time.perf_counter() - started
        if not data:
            raise ImageError("the file is empty", stage="header")
        is_apart = ("://" in item.uri and can_isolate()) if isolate is None else isolate
        call = partial(PROCESSES.run, max_pixels=max_pixels) if is_apart else _call
        if known(out.content_hash):
            out.own = call(own_columns, data) if modality == "image" else None
            return
        started = time.perf_counter()
        if modality == "text":
            out.text = _read_text(data)
        else:
            out.facts, out.pixels = call(read_image, data, preprocess, max_pixels, drafts)
        out.seconds["decode"] = time.perf_counter() - started
    except ImageError as error:
        out.error = error
    except MemoryError:
        out.error = ImageError("reading it takes more memory than there is", stage="decode")
    except Exception as error:  # no item may end a run
        out.error = ImageError(f"it cannot be decoded: {first_line(error)}", stage="decode")


def read_image(
    data: bytes, preprocess: PreprocessConfig, max_pixels: int, drafts: bool
) -> tuple[ImageFacts, np.ndarray]:
    """The facts and the pixels of an image file; arguments, results and errors as of `decode_item` and `reading`."""
    with reading(data, max_pixels=max_pixels, shortest=preprocess.shortest if drafts else None) as picture:
        return read_facts(picture), to_pixels(picture.rgb, preprocess)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def content_key(content_hash: str) -> np.uint64:
    """The first half of a content hash, BLAKE2b-128 in hex."""
    return np.uint64(int(content_hash[:16] or "0", 16))


def decode_ahead(
    reader: ItemReader,
    items: Iterable[Item | Passing],
    preprocess: PreprocessConfig,
    *,
    modality: Modality = "image",
    threads: int,
    ahead: int,
    max_pixels: int = MAX_PIXELS,
    drafts: bool = True,
    isolate: bool | None = None,
    known: Callable[[str], bool] = lambda content_hash: False,
) -> Iterator[Decoded | Passing]:
    """`decode_item` for every item in threads, in order, with at most ``ahead`` items waiting or in work; results and
    whatever else is among the items pass through."""

    source = ReadAhead(reader, largest=BYTES_PER_PIXEL * max_pixels)

    def decoded(item: Item | Passing) -> Decoded | Passing:
        if not isinstance(item, Item):
            return item
        return decode_item(
            source,
            item,
            preprocess,
            modality=modality,
            max_pixels=max_pixels,
            drafts=drafts,
            isolate=isolate,
            known=known,
        )

    listed = source.listed(items)
    return map_ahead(decoded, listed, threads=threads, ahead=ahead, weigh=held_bytes, stop=source.stop)


def held_bytes(item: object) -> int:
    """Bytes that an item holds before it is decoded: content that was listed with it, or is being read elsewhere."""
    if not isinstance(item, Item):
        return 0
    return len(item.data) if item.data is not None else item.size * ("://" in item.uri)


def _read_text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ImageError("the text is not UTF-8", stage="decode") from error
    if not text.strip():
        raise ImageError("the text is empty", stage="header")
    return text


def read_facts(picture: Picture) -> ImageFacts:
    """Size, EXIF data, caption, rating and keywords of a picture; damaged data leaves its columns empty."""
    columns, is_damaged = exif_columns(picture.exif)
    return ImageFacts(
        width=picture.size[0],
        height=picture.size[1],
        format=picture.format,
        damage=picture.damage or ("damaged EXIF" if is_damaged else None),
        **columns,
        **columns_of(describe(picture.packets)),
    )
