"""Captions for training: tables of any common format as one Arrow table, keyed by photograph.

Formats: CSV and TSV, JSON lines, Parquet, and webdataset shards whose ``.json`` members carry captions;
all but Parquet also gzipped. A path may hold braces: ``cc3m-{00000..00331}.tar``.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.corpora.shards import find_files
from llm2clip_search.corpora.tables import table_rows
from llm2clip_search.errors import CorpusError

LengthClass = Literal["short", "long"]

CAPTION_SCHEMA = pa.schema(
    [
        ("caption_id", pa.int64()),
        ("image_id", pa.string()),
        ("photo", pa.string()),
        ("caption", pa.string()),
        ("lang", pa.string()),
        ("length", pa.string()),
        ("source", pa.int32()),
        ("negative", pa.bool_()),
    ]
)
"""Of `read_caption_table`; ``image_id`` is null where text has no image, ``source`` is the place of the row's
source in the recipe, and a ``negative`` describes something else than its photograph."""

_FLICKR = re.compile(
    r"(?:.*/)?([1-9]\d{7,}|[1-9]\d{4,}(?=_[0-9a-f]{10}))(?:_[0-9a-f]{10})?(?:_\w)?(?:\.jpe?g)?"
    r"|([1-9]\d{4,})\.jpe?g",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class CaptionColumn:
    """One column that holds captions, or lists of them."""

    name: str = "caption"
    lang: str = ""
    """Language of every row; empty where a ``lang`` column says it, English where that is missing too."""
    length: LengthClass = "short"


@dataclass(frozen=True, kw_only=True)
class CaptionSource:
    """Where captions come from."""

    path: str
    """Relative to the data folder; braces and ``*`` allowed."""
    image: str = "image_id"
    """Column of the image's id; ``__key__`` is the name of a webdataset sample. Empty for plain pairs of
    texts: every row is then an item of its own, for stage 1 only."""
    columns: tuple[CaptionColumn, ...] = (CaptionColumn(),)
    negatives: str = ""
    """Column of captions, or lists of them, that describe something else than the row's image: hard
    negatives, in the language of the first of ``columns``. Empty for none."""
    split: str = ""
    """Only rows whose ``split`` column says this; empty takes all."""
    langs: tuple[str, ...] = ()
    """Only these languages; empty takes all."""
    per_image: int = 0
    """At most this many captions of an image in each language, the first ones; 0 takes all."""
    weight: float = 1.0
    """How often stage 1 draws a batch from this source, relative to the others."""


@dataclass(frozen=True, kw_only=True)
class HeldOutSplit:
    """A benchmark split that training may not touch."""

    path: str
    """Its caption file, in any of the formats above."""
    split: str
    image: str = "image_id"


def photo_key(image_id: str) -> str:
    """What two data sets call the same photograph.

    Flickr8k says ``1000268201_693b08cb0e.jpg`` where Flickr30k says ``1000268201.jpg``: the number is
    Flickr's own id of the photograph. Every other id stands for itself, numbers that are padded, or
    short and in a folder, among them: such names repeat from folder to folder.
    """
    match = _FLICKR.fullmatch(image_id)
    return f"flickr:{match[1] or match[2]}" if match else image_id


def caption_id(text: str) -> int:
    """Key of a caption wherever embeddings are stored: 64 bits of BLAKE2b over its UTF-8 bytes.

    An LLM's embedding depends on nothing else, so that equal captions are embedded once. Among 60
    million captions two different ones share a key with a probability of one in ten thousand.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def read_caption_table(root: Path, sources: Sequence[CaptionSource]) -> tuple[pa.Table, int]:
    """All captions of all sources, and how many empty ones were left out.

    Raises:
        CorpusError: a file that is missing or damaged, a column it lacks, a row without an image's id
            or with something else than captions, or a source without captions.
    """
    parts: list[pa.Table] = []
    empty = 0
    for number, source in enumerate(sources):
        columns: dict[str, list[Any]] = {name: [] for name in CAPTION_SCHEMA.names}
        seen = empty
        taken: Counter[tuple[str, str]] = Counter()
        for image, photo, text, lang, length, negative in _captions_of(root, source, number):
            if not text:
                empty += not negative
                continue
            if source.per_image and not negative:
                if taken[photo, lang] == source.per_image:
                    continue
                taken[photo, lang] += 1
            row = (caption_id(text), image, photo, text, lang, length, number, negative)
            for name, value in zip(CAPTION_SCHEMA.names, row, strict=True):
                columns[name].append(value)
        if all(columns["negative"]):
            chosen = f" of split {source.split!r}" if source.split else ""
            chosen += f" in {' or '.join(source.langs)}" if source.langs else ""
            raise CorpusError(f"{root / source.path} has no captions{chosen}; {empty - seen:,} are empty.")
        parts.append(pa.table(columns, schema=CAPTION_SCHEMA))
    return pa.concat_tables(parts), empty


def captions_of_images(captions: pa.Table) -> pa.Table:
    """The captions that stage 2 sees: those of images, and no negatives."""
    return captions.filter(pc.and_(pc.is_valid(captions["image_id"]), pc.invert(captions["negative"])))


def without_photos(captions: pa.Table, photos: Iterable[str]) -> pa.Table:
    """The captions of all other photographs; see `photo_key`."""
    return captions.filter(pc.invert(pc.is_in(captions["photo"], value_set=pa.array(sorted(photos), pa.string()))))


def held_out_photos(root: Path, held_out: Sequence[HeldOutSplit]) -> set[str]:
    """Photographs of benchmark splits, by `photo_key`: 934 of Flickr8k's 1,000 dev images lie in Multi30k
    under other names.

    Raises:
        CorpusError: a split that is not there: a check against nothing would pass everything.
    """
    keys: set[str] = set()
    for split in held_out:
        found = {
            photo_key(_image_id(row, split.image, where))
            for path in find_files(root, split.path)
            for where, row in table_rows(path, (split.image, "split"))
            if row["split"] == split.split
        }
        if not found:
            raise CorpusError(f"{root / split.path} has no split {split.split!r} to keep out of training.")
        keys |= found
    return keys


def _captions_of(
    root: Path, source: CaptionSource, number: int
) -> Iterator[tuple[str | None, str, str, str, LengthClass, bool]]:
    """Image id, photograph, caption, language, length class, whether negative; an empty caption is ``""``."""
    columns = [(column, False) for column in source.columns]
    if source.negatives:
        columns.append((replace(source.columns[0], name=source.negatives), True))
    wanted = [column.name for column, _ in columns]
    wanted += [name for name in (source.image, "split" if source.split else "") if name]
    items = ((where, row) for path in find_files(root, source.path) for where, row in table_rows(path, wanted))
    for item, (where, row) in enumerate(items):
        if source.split and row["split"] != source.split:
            continue
        image = _image_id(row, source.image, where) if source.image else None
        photo = photo_key(image) if image is not None else f"text:{number}:{item}"
        for column, negative in columns:
            lang = column.lang or str(row.get("lang") or "en")
            if source.langs and lang not in source.langs:
                continue
            value = row[column.name]
            for text in value if isinstance(value, list) else [value]:
                yield image, photo, _caption(text, column.name, where), lang, column.length, negative


def _image_id(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row[column]
    if not isinstance(value, str | int) or value == "":
        raise CorpusError(f"{where} has {value!r} for an image's id in column {column!r}.")
    return str(value)


def _caption(value: Any, column: str, where: str) -> str:
    """Text without the white space around it; empty for null."""
    text = "" if value is None else value
    try:
        text.encode()  # a lone surrogate, which JSON can write, has no UTF-8 form
    except (AttributeError, UnicodeEncodeError) as error:
        raise CorpusError(f"{where} has {value!r:.60} in column {column!r}, which is no caption.") from error
    return str(text).strip()
