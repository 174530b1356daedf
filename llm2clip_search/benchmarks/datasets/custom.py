"""A user's own captions and images: webdataset shards, or a table beside its images.

Captions that tell no language are taken for that of ``--langs`` if it names one, and for English otherwise.
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
"""What the split is called where the files have none."""

TABLES = tuple(f"captions.{suffix}{gz}" for suffix in ("csv", "tsv", "jsonl", "parquet") for gz in ("", ".gz"))


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One caption."""

    image: str
    text: str
    lang: str = ""
    """Empty where the files do not tell."""
    caption_id: str | None = None
    """None where the files have no such column."""


def read_webdataset(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Shards of ``KEY.jpg`` with ``KEY.txt``, one caption a line, or ``KEY.json``.

    JSON has ``caption`` or ``captions``: a text, a list of texts, or either by language. It is read only for
    images without a ``.txt``, as img2dataset writes the same caption into both.

    Raises:
        CorpusError: no shard, a damaged one, captions that cannot be read or have no image, or none at all.
    """
    shards = find_shards(root, split)
    images = ImageFiles.scan(root, [str(path.relative_to(root)) for path in shards])
    seen: set[str] = set()
    captions: dict[str, list[_Row]] = {}
    for path in shards:
        for name, data in _members(path, tuple(_CAPTION_ROWS)):
            if name in seen:
                raise CorpusError(f"Caption file {name!r} is in {path} and again in another shard or place.")
            seen.add(name)
            key, dot, suffix = name.rpartition(".")
            if suffix.lower() == "txt" or key not in captions:
                where = f"{path}, {name},"
                captions[key] = list(_CAPTION_ROWS[dot + suffix.lower()](key, _decode(data, where), where))
    described = [key for key, found in captions.items() if found]
    places = _with_images({key: images.find(key) for key in described}, "shards", root)
    kept = [_placed(row, places) for key in described for row in captions[key]]
    return RetrievalSet(
        name="webdataset",
        split=split or ALL,
        images=images,
        captions=_by_language(kept, langs, str(root)),
        notes=_undescribed(len(images), len({row.image for row in kept})),
    )


def find_shards(root: Path, split: str = "") -> list[Path]:
    """Shards of a split: those in its folder, or with its name between ``-``, ``_`` or ``.`` in theirs.

    Raises:
        CorpusError: there is none; folders that hold shards are named.
    """
    if split:
        word = re.compile(rf"(^|[-_.]){re.escape(split)}([-_.]|$)")
        found = sorted((root / split).glob("*.tar")) or sorted(p for p in root.glob("*.tar") if word.search(p.name))
    else:
        found = sorted(root.glob("*.tar"))
    if not found:
        folders = sorted({path.parent.name for path in root.glob("*/*.tar")})
        hint = f"; --split may be {', '.join(folders)}" if folders else ""
        raise CorpusError(f"{root} holds no .tar{f' of split {split!r}' if split else ''}{hint}.")
    return found


def read_table(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Rows of ``captions.csv`` (or .tsv, .jsonl, .parquet): ``image``, ``caption``, and where they like
    ``lang``, ``split``, ``caption_id``.

    The gallery is the images of the split's rows, in their order. An image is the path below ``root`` or below
    one of its folders, with or without its suffix.

    Raises:
        CorpusError: no table or several, a column or language that is missing, no such split, several splits of
            which none is asked for, or images that are missing.
    """
    tables = [root / name for name in TABLES if (root / name).is_file()]
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise CorpusError(f"{root} must hold one captions.csv, .tsv, .jsonl or .parquet; there is {names}.")
    of_split: dict[str, list[_Row]] = {}
    for where, row in table_rows(tables[0], ("caption",)):
        of_split.setdefault(_cell(row, "split"), []).extend(_table_rows(row, where))
    if not of_split:
        raise CorpusError(f"{tables[0]} has no rows.")
    named = ", ".join(name or "rows without one" for name in sorted(of_split))
    if split and split not in of_split:
        raise CorpusError(f"{tables[0]} has no split {split!r}; it has {named}.")
    if not split and len(of_split) > 1:
        raise CorpusError(f"{tables[0]} has {len(of_split)} splits, of which --split chooses one: {named}.")
    chosen = split or next(iter(of_split))
    found = of_split[chosen]
    files = ImageFiles.scan(root, ["."])
    folders = sorted(f"{path.name}/" for path in root.iterdir() if path.is_dir())
    places = _with_images({row.image: _find(files, row.image, folders) for row in found}, "images", root)
    kept = [_placed(row, places) for row in found]
    gallery = files.only(list(dict.fromkeys(row.image for row in kept)))
    return RetrievalSet(
        name="table",
        split=chosen or ALL,
        images=gallery,
        captions=_by_language(kept, langs, str(tables[0])),
        notes=_undescribed(len(gallery), len({row.image for row in kept if row.text})),
    )


def _find(files: ImageFiles, image: str, folders: Sequence[str]) -> str | None:
    """The image below the root, or below the only one of its folders that has it."""
    if hit := files.find(image):
        return hit
    hits = [hit for folder in folders if (hit := files.find(f"{folder}{image}"))]
    if len(hits) > 1:
        raise CorpusError(f"Image {image!r} may be {hits[0]} or {hits[1]}: its row must tell the folder.")
    return hits[0] if hits else None


def _table_rows(row: Mapping[str, Any], where: str) -> Iterator[_Row]:
    image = _cell(row, "image") or _cell(row, "image_id")
    if not image:
        raise CorpusError(f"{where} has no image: neither column image nor image_id tells one.")
    caption_id = _cell(row, "caption_id") if "caption_id" in row else None
    texts = _texts(row["caption"], where)
    if caption_id == "" or (caption_id and len(texts) > 1):
        raise CorpusError(f"{where} has {len(texts)} captions for the caption_id {caption_id!r}: each needs its own.")
    # A row without a caption still puts its image into the gallery.
    for text in texts or [""]:
        yield _Row(image=image, text=text, lang=_cell(row, "lang"), caption_id=caption_id)


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()


def _text_rows(key: str, text: str, where: str) -> Iterator[_Row]:
    # Not splitlines: a line separator inside a caption is no end of it.
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
    """Stripped captions of a cell that holds none, one or several; empty ones left out."""
    several = value if isinstance(value, list) else [] if value is None else [value]
    for text in several:
        if not isinstance(text, str):
            raise CorpusError(f"{where} has a caption that is no text but {type(text).__name__}.")
    return [text.strip() for text in several if text.strip()]


_CAPTION_ROWS: dict[str, Callable[[str, str, str], Iterator[_Row]]] = {".txt": _text_rows, ".json": _object_rows}


def _with_images(found: Mapping[str, str | None], what: str, root: Path) -> dict[str, str]:
    """Of each id in the captions, the image's own."""
    if missing := [image for image, hit in found.items() if hit is None]:
        raise CorpusError(
            f"{len(missing):,} of {len(found):,} images that captions tell of are in none of the {what} "
            f"below {root}, such as {missing[0]}."
        )
    return {image: hit for image, hit in found.items() if hit is not None}


def _placed(row: _Row, images: Mapping[str, str]) -> _Row:
    return replace(row, image=images[row.image])


def _by_language(found: Sequence[_Row], langs: Sequence[str], where: str) -> dict[str, Captions]:
    """Captions of the languages asked for, or of all that there are."""
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
        title="This webdataset",
        langs=(),
        splits=(),
        fetch=(
            "--root names a folder of .tar shards, or of one folder of shards a split, with KEY.jpg and "
            "KEY.txt (a caption a line) or KEY.json (caption or captions)."
        ),
        read=read_webdataset,
    ),
    DatasetInfo(
        name="table",
        title="This table",
        langs=(),
        splits=(),
        fetch=(
            "--root names a folder with captions.csv, .tsv, .jsonl or .parquet (columns image, caption and, if you "
            "like, lang, split, caption_id) and the images, in it or in a folder of it."
        ),
        read=read_table,
    ),
)
