"""Training captions read from files of any common format into one Arrow table.

Formats: CSV, TSV, JSON lines, Parquet, Arrow, and webdataset shards whose ``.json`` members contain captions; all
except Parquet and Arrow may be gzipped. Paths may contain braces: ``cc3m-{00000..00331}.tar``.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""Columns of a caption table. ``image_id`` is null for text without an image, ``source`` is the index of the row's
source in the recipe, and a ``negative`` describes something other than its photograph."""

UNNAMED = "en"
"""Language of captions of which nothing says it."""

EMPTY, REPEATED = "empty captions", "repeated captions, which are kept"
"""Reasons for which a row of captions is reported."""

Report = Callable[[str, str, str], None]
"""Takes a reason, the file and row, and the caption."""

_FLICKR = re.compile(
    r"(?:.*/)?([1-9]\d{7,}|[1-9]\d{4,}(?=_[0-9a-f]{10}))(?:_[0-9a-f]{10})?(?:_\w)?(?:\.jpe?g)?"
    r"|([1-9]\d{4,})\.jpe?g",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class CaptionColumn:
    """A column of captions or lists of captions."""

    name: str = "caption"
    """Name of the column."""
    lang: str = ""
    """Language of all rows; if empty, a ``lang`` column gives it. Rows without one are `UNNAMED`, and counted."""
    length: LengthClass = "short"
    """Class that stage 2 draws captions by."""


@dataclass(frozen=True, kw_only=True)
class CaptionSource:
    """Files that captions are read from, and which rows and columns to use."""

    path: str
    """Relative to the data folder; may contain braces and ``*``."""
    image: str = "image_id"
    """Column with the image id; ``__key__`` is the name of a webdataset sample. Empty for pairs of texts without
    images: each row then counts as a photograph of its own, and only stage 1 uses it."""
    columns: tuple[CaptionColumn, ...] = (CaptionColumn(),)
    """Columns with captions."""
    negatives: str = ""
    """Column of hard negatives: captions, or lists of them, that do not describe the row's image, in the language
    of the first of ``columns``. Empty for none."""
    split: str = ""
    """Use only rows with this value in their ``split`` column; empty uses all."""
    langs: tuple[str, ...] = ()
    """Use only these languages; empty uses all."""
    per_image: int = 0
    """Use at most this many captions per image and language, the first ones; 0 uses all."""
    weight: float = 1.0
    """Sampling weight, relative to the other sources: how often stage 1 draws a batch from this source, and how often
    stage 2 shows an image that it describes."""


@dataclass(frozen=True, kw_only=True)
class HeldOutSplit:
    """A benchmark split whose photographs must not be trained on."""

    path: str
    """Caption file of the benchmark, in any of the formats above."""
    split: str
    """Value of the column ``split``."""
    image: str = "image_id"
    """Column with the image id."""


def photo_key(image_id: str) -> str:
    """A key that is the same for one photograph in different data sets.

    Flickr8k has ``1000268201_693b08cb0e.jpg`` where Flickr30k has ``1000268201.jpg``: the number is Flickr's id of
    the photograph. All other ids are their own key. That includes zero-padded numbers, and short numbers in a folder,
    because such names occur in many folders.
    """
    match = _FLICKR.fullmatch(image_id)
    return f"flickr:{match[1] or match[2]}" if match else image_id


def caption_id(text: str) -> int:
    """Key of a caption in caption stores: 64 bits of BLAKE2b over its UTF-8 bytes.

    The LLM's embedding depends on nothing else, so equal captions are embedded once. The probability that any two
    of 60 million different captions share a key is one in ten thousand.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def read_caption_table(
    root: Path, sources: Sequence[CaptionSource], report: Report = lambda reason, where, text: None
) -> tuple[pa.Table, dict[str, int]]:
    """Read all captions of all sources.

    Args:
        report: called for each `EMPTY` or `REPEATED` caption.

    Returns:
        A table with `CAPTION_SCHEMA`, and counts: ``empty`` captions, which were skipped; those ``without a
        language``, see `UNNAMED`; and those that a source has ``repeated`` for the same photograph, which are kept, so
        that they count more than once.

    Raises:
        CorpusError: a file is missing or damaged, a column is missing, a row has no image id or no text as its
            caption, or a source has no captions.
    """
    parts: list[pa.Table] = []
    empty = unnamed = repeated = 0
    for number, source in enumerate(sources):
        columns: dict[str, list[Any]] = {name: [] for name in CAPTION_SCHEMA.names}
        seen = empty
        taken: Counter[tuple[str, str]] = Counter()
        known: set[tuple[str, str, str, bool]] = set()
        for where, image, photo, text, named, length, negative in _captions_of(root, source, number):
            if not text:
                empty += not negative
                if not negative:
                    report(EMPTY, where, "")
                continue
            lang = named or UNNAMED
            if source.per_image and not negative:
                if taken[photo, lang] == source.per_image:
                    continue
                taken[photo, lang] += 1
            unnamed += not named
            if (key := (photo, text, lang, negative)) in known:
                repeated += 1
                report(REPEATED, where, text)
            known.add(key)
            row = (caption_id(text), image, photo, text, lang, length, number, negative)
            for name, value in zip(CAPTION_SCHEMA.names, row, strict=True):
                columns[name].append(value)
        if all(columns["negative"]):
            chosen = f" of split {source.split!r}" if source.split else ""
            chosen += f" in {' or '.join(source.langs)}" if source.langs else ""
            raise CorpusError(f"{root / source.path} has no captions{chosen}; {empty - seen:,} are empty.")
        parts.append(pa.table(columns, schema=CAPTION_SCHEMA))
    return pa.concat_tables(parts), {"empty": empty, "without a language": unnamed, "repeated": repeated}


def content_digest(captions: pa.Table) -> str:
    """A mark of the captions of a table and of the images, languages and classes that they have, in any order.

    Args:
        captions: a table with `CAPTION_SCHEMA`.

    Returns:
        16 hex digits.
    """
    names = [name for name in CAPTION_SCHEMA.names if name != "caption"]  # which its id stands for
    digest = hashlib.blake2b(digest_size=8)
    for column in captions.select(names).sort_by([(name, "ascending") for name in names]).columns:
        if pa.types.is_string(column.type):
            digest.update(pc.fill_null(pc.binary_length(column), -1).to_numpy().tobytes())
            digest.update("".join(pc.fill_null(column, "").to_pylist()).encode())
        else:
            digest.update(column.to_numpy().tobytes())
    return digest.hexdigest()


def captions_of_images(captions: pa.Table) -> pa.Table:
    """The captions that stage 2 uses: those with an image, without negatives."""
    return captions.filter(pc.and_(pc.is_valid(captions["image_id"]), pc.invert(captions["negative"])))


def without_photos(captions: pa.Table, photos: Iterable[str]) -> pa.Table:
    """The captions of all photographs except these; see `photo_key`."""
    return captions.filter(pc.invert(pc.is_in(captions["photo"], value_set=pa.array(sorted(photos), pa.string()))))


def held_out_photos(root: Path, held_out: Sequence[HeldOutSplit]) -> set[str]:
    """Keys of the photographs in benchmark splits (see `photo_key`).

    Comparing keys is needed because 934 of Flickr8k's 1,000 dev images are in Multi30k under other names.

    Raises:
        CorpusError: a split is missing, so that nothing would be held out.
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
            raise CorpusError(f"{root / split.path} has no split {split.split!r} to hold out of training.")
        keys |= found
    return keys


def _captions_of(
    root: Path, source: CaptionSource, number: int
) -> Iterator[tuple[str, str | None, str, str, str, LengthClass, bool]]:
    """Yield the file and row of a caption, its image id, photograph key, text, language if it is named, length class,
    and whether it is a negative."""
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
            lang = column.lang or str(row.get("lang") or "")
            if source.langs and (lang or UNNAMED) not in source.langs:
                continue
            value = row[column.name]
            for each in value if isinstance(value, list) else [value]:
                text = caption_text(each, column.name, where)
                yield where.rstrip(","), image, photo, text, lang, column.length, negative


def _image_id(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row[column]
    if not isinstance(value, str | int) or value == "":
        raise CorpusError(f"{where} has {value!r} in column {column!r}, which is not an image id.")
    return str(value)


def caption_text(value: Any, column: str, where: str) -> str:
    """A caption without surrounding white space; empty for null.

    Raises:
        CorpusError: the value is no text.
    """
    text = "" if value is None else value
    try:
        text.encode()  # a lone surrogate, which JSON can write, has no UTF-8 form
    except (AttributeError, UnicodeEncodeError) as error:
        raise CorpusError(f"{where} has {value!r:.60} in column {column!r}, which is not a caption.") from error
    return str(text).strip()
