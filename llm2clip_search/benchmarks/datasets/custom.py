"""A user's own captions and images: webdataset shards, or a table with a folder of images.

Captions without a language are assumed to be in the requested language if exactly one is requested, otherwise in
English.
"""

import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from llm2clip_search.benchmarks.datasets.base import ALL_LANGS, Captions, DatasetInfo, RetrievalSet
from llm2clip_search.benchmarks.datasets.folders import parse_json
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.corpora.shards import shard_members
from llm2clip_search.corpora.tables import table_rows
from llm2clip_search.errors import CorpusError

ALL = "all"
"""Name of the split if the files have none."""

TABLES = tuple(f"captions.{suffix}{gz}" for suffix in ("csv", "tsv", "jsonl", "parquet") for gz in ("", ".gz"))


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One caption."""

    image: str
    text: str
    lang: str = ""
    """Empty if the files do not say."""
    caption_id: str | None = None
    """None if the files have no such column."""


def read_webdataset(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Shards of ``KEY.jpg`` with ``KEY.txt``, one caption per line, or ``KEY.json``.

    JSON has ``caption`` or ``captions``: a string, a list of strings, or either of them by language. It is read only
    for images without a ``.txt``, because img2dataset writes the same caption into both.

    Raises:
        CorpusError: there is no shard, a shard is damaged, captions cannot be read or have no image, or there are none.
    """
    shards = find_shards(root, split)
    images = ImageFiles.scan(root, [str(path.relative_to(root)) for path in shards])
    seen: set[str] = set()
    captions: dict[str, list[_Row]] = {}
    for path in shards:
        for name, data in _members(path, tuple(_CAPTION_ROWS)):
            if name in seen:
                raise CorpusError(
                    f"Caption file {name!r} is in {path} and also in another shard or again in the same one."
                )
            seen.add(name)
            key, dot, suffix = name.rpartition(".")
            if suffix.lower() == "txt" or key not in captions:
                where = f"{path}, {name},"
                captions[key] = list(_CAPTION_ROWS[dot + suffix.lower()](key, _decode(data, where), where))
    described = [key for key, found in captions.items() if found]
    images_of = _with_images({key: images.find(key) for key in described}, "shards", root)
    kept = [_with_image(row, images_of) for key in described for row in captions[key]]
    return RetrievalSet(
        name="webdataset",
        split=split or ALL,
        images=images,
        captions=_by_language(kept, langs, str(root)),
        notes=_undescribed(len(images), len({row.image for row in kept})),
    )


def find_shards(root: Path, split: str = "") -> list[Path]:
    """Shards of a split: those in a folder of that name, or with that name between ``-``, ``_`` or ``.`` in theirs.

    Raises:
        CorpusError: there are none; the message lists folders that contain shards.
    """
    if split:
        word = re.compile(rf"(^|[-_.]){re.escape(split)}([-_.]|$)")
        found = sorted((root / split).glob("*.tar")) or sorted(p for p in root.glob("*.tar") if word.search(p.name))
    else:
        found = sorted(root.glob("*.tar"))
    if not found:
        folders = sorted({path.parent.name for path in root.glob("*/*.tar")})
        named = ", ".join(folders)
        raise CorpusError(
            f"{root} contains no .tar shards{f' of split {split!r}' if split else ''}"
            f"{f'; there are shards in its folders {named}' if folders else ''}.",
            hint=f"--split may be {named}." if folders else "",
        )
    return found


def read_table(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Rows of ``captions.csv`` (or .tsv, .jsonl, .parquet).

    The columns are ``image``, ``caption`` and optionally ``lang``, ``split`` and ``caption_id``. The gallery consists
    of the images of the split's rows, in their order. ``image`` is a path relative to ``root`` or to one of its
    folders, with or without suffix.

    Raises:
        CorpusError: there is no table or more than one, a column, language or split is missing, there are several
            splits and none is requested, or images are missing.
    """
    tables = [root / name for name in TABLES if (root / name).is_file()]
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise CorpusError(f"{root} must contain one captions.csv, .tsv, .jsonl or .parquet; it contains {names}.")
    of_split: dict[str, list[_Row]] = {}
    for where, row in table_rows(tables[0], ("caption",)):
        of_split.setdefault(_cell(row, "split"), []).extend(_table_rows(row, where))
    if not of_split:
        raise CorpusError(f"{tables[0]} has no rows.")
    named = ", ".join(name or "rows without split" for name in sorted(of_split))
    if split and split not in of_split:
        raise CorpusError(f"{tables[0]} has no split {split!r}; it has {named}.")
    if not split and len(of_split) > 1:
        raise CorpusError(
            f"{tables[0]} has {len(of_split)} splits, and none is chosen: {named}.", hint="--split chooses one."
        )
    chosen = split or next(iter(of_split))
    found = of_split[chosen]
    files = ImageFiles.scan(root, ["."])
    folders = sorted(f"{path.name}/" for path in root.iterdir() if path.is_dir())
    images_of = _with_images({row.image: _find(files, row.image, folders) for row in found}, "images", root)
    kept = [_with_image(row, images_of) for row in found]
    gallery = files.only(list(dict.fromkeys(row.image for row in kept)))
    return RetrievalSet(
        name="table",
        split=chosen or ALL,
        images=gallery,
        captions=_by_language(kept, langs, str(tables[0])),
        notes=_undescribed(len(gallery), len({row.image for row in kept if row.text})),
    )


def _find(files: ImageFiles, image: str, folders: Sequence[str]) -> str | None:
    """The image relative to the root, or to the only one of its folders that contains it."""
    if hit := files.find(image):
        return hit
    hits = [hit for folder in folders if (hit := files.find(f"{folder}{image}"))]
    if len(hits) > 1:
        raise CorpusError(f"Image {image!r} may be {hits[0]} or {hits[1]}: its row must include the folder.")
    return hits[0] if hits else None


def _table_rows(row: Mapping[str, Any], where: str) -> Iterator[_Row]:
    image = _cell(row, "image") or _cell(row, "image_id")
    if not image:
        raise CorpusError(f"{where} has no image: columns image and image_id are both empty or missing.")
    caption_id = _cell(row, "caption_id") if "caption_id" in row else None
    texts = _texts(row["caption"], where)
    if caption_id == "" or (caption_id and len(texts) > 1):
        raise CorpusError(
            f"{where} has {len(texts)} captions for the caption_id {caption_id!r}: each needs an id of its own."
        )
    # A row without a caption still adds its image to the gallery.
    for text in texts or [""]:
        yield _Row(image=image, text=text, lang=_cell(row, "lang"), caption_id=caption_id)


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()


def _text_rows(key: str, text: str, where: str) -> Iterator[_Row]:
    # Not splitlines: a Unicode line separator inside a caption does not end it.
    return (_Row(image=key, text=line.strip()) for line in text.split("\n") if line.strip())


def _object_rows(key: str, text: str, where: str) -> Iterator[_Row]:
    found = parse_json(text, where)
    if not isinstance(found, dict):
        raise CorpusError(f"{where} is not a JSON object.")
    value = found.get("captions", found.get("caption"))
    by_lang = value if isinstance(value, dict) else {_cell(found, "lang"): value}
    for lang, texts in by_lang.items():
        yield from (_Row(image=key, text=caption, lang=lang) for caption in _texts(texts, where))


def _texts(value: Any, where: str) -> list[str]:
    """Stripped captions of a cell with none, one or several; empty ones are left out."""
    several = value if isinstance(value, list) else [] if value is None else [value]
    for text in several:
        if not isinstance(text, str):
            raise CorpusError(f"{where} has a caption of type {type(text).__name__} instead of a string.")
    return [text.strip() for text in several if text.strip()]


_CAPTION_ROWS: dict[str, Callable[[str, str, str], Iterator[_Row]]] = {".txt": _text_rows, ".json": _object_rows}


def _with_images(found: Mapping[str, str | None], what: str, root: Path) -> dict[str, str]:
    """Image id by id in the captions; ``found`` maps to None if there is no such image."""
    if missing := [image for image, hit in found.items() if hit is None]:
        raise CorpusError(
            f"{len(missing):,} of {len(found):,} images with captions are in none of the {what} in {root}, "
            f"such as {missing[0]}."
        )
    return {image: hit for image, hit in found.items() if hit is not None}


def _with_image(row: _Row, images: Mapping[str, str]) -> _Row:
    return replace(row, image=images[row.image])


def _by_language(found: Sequence[_Row], langs: Sequence[str], where: str) -> dict[str, Captions]:
    """Captions in the requested languages, or in all languages of the rows."""
    langs = () if langs == (ALL_LANGS,) else langs
    unnamed = langs[0] if len(langs) == 1 else "en"
    of_lang: dict[str, list[_Row]] = {}
    for row in found:
        if row.text:
            of_lang.setdefault(row.lang or unnamed, []).append(row)
    if not of_lang:
        raise CorpusError(f"{where} has no captions.")
    if absent := [lang for lang in langs if lang not in of_lang]:
        raise CorpusError(f"{where} has no captions in {absent[0]!r}; it has {', '.join(sorted(of_lang))}.")
    return {lang: _captions(of_lang[lang]) for lang in langs or sorted(of_lang)}


def _captions(found: Sequence[_Row]) -> Captions:
    numbered = Captions.of([(row.image, row.text) for row in found])
    ids = [
        own if row.caption_id is None else row.caption_id for row, own in zip(found, numbered.caption_ids, strict=True)
    ]
    return Captions(texts=numbered.texts, image_ids=numbered.image_ids, caption_ids=ids)


def _undescribed(images: int, described: int) -> tuple[str, ...]:
    if images == described:
        return ()
    return (f"{images - described:,} of {images:,} images have no caption: text retrieval counts them as missed.",)


def _members(path: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in shard_members(tar):
                if member.name.lower().endswith(suffixes) and (file := tar.extractfile(member)) is not None:
                    yield str(PurePosixPath(member.name)), file.read()
    except (OSError, tarfile.TarError) as error:
        first = str(error).partition("\n")[0].rstrip(":")
        raise CorpusError(f"{path} cannot be read as an uncompressed tar shard: {first}.") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where} is not UTF-8: byte {error.start:,} is 0x{data[error.start]:02x}.") from error


DATASETS = (
    DatasetInfo(
        name="webdataset",
        title="Custom webdataset",
        langs=(),
        splits=(),
        fetch=(
            "ROOT contains .tar shards, or one folder of shards per split, with KEY.jpg and KEY.txt (one caption per "
            "line) or KEY.json (caption or captions)."
        ),
        read=read_webdataset,
    ),
    DatasetInfo(
        name="table",
        title="Custom table",
        langs=(),
        splits=(),
        fetch=(
            "ROOT contains captions.csv, .tsv, .jsonl or .parquet (columns image, caption and optionally lang, split, "
            "caption_id) and the images, directly or in folders."
        ),
        read=read_table,
    ),
)
