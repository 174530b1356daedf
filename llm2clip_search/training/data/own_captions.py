"""Where captions of own images come from: a table, columns of their source, text files beside them, or themselves."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from llm2clip_search.corpora.addresses import public_uri
from llm2clip_search.corpora.columns import column_name
from llm2clip_search.corpora.containers import container_uri
from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.corpora.table_columns import KEY_NAMES, PLACE_NAMES, TEXT_NAMES
from llm2clip_search.corpora.tables import columns_of, table_rows
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_table import caption_text
from llm2clip_search.training.data.own_recipe import UNKNOWN, OwnSource

BESIDE = (".txt", ".caption")
"""Ends of the names of text files with the captions of the image beside them, one a line."""
Captions = list[tuple[str, str, str]]
"""Language and text of each, and where it is; the text of one that is empty is empty."""
_CAPTIONS = re.compile(r"captions?([_ ]?\d+)?", re.IGNORECASE)
_LANGS = ("lang", "language", "locale")


class CaptionFile:
    """Captions by the image that they describe, from a table with any number of rows for each."""

    def __init__(self, path: Path, source: OwnSource) -> None:
        """Read the table.

        Raises:
            CorpusError: it cannot be read, or has no column that names images or holds captions; or no row is of the
                split.
        """
        self.path = path
        self._rows: dict[str, Captions] = {}
        self._where: dict[str, str] = {}
        self._used: dict[str, str] = {}
        image, has_columns, first = source.image, False, ""
        wanted = [*source.columns, *([image] if image else []), *(["split"] * bool(source.split))]
        for where, row in table_rows(path, wanted):
            first = first or f"{where} has no column with captions; {columns_of(row)}."
            image = image or _usual(row, (*PLACE_NAMES, *KEY_NAMES), f"{where} names no image")
            # Of each row anew, because lines of JSON need not have the same columns.
            columns = source.columns or caption_names([name for name in row if name != image])
            has_columns |= bool(columns)
            if source.split and row["split"] != source.split:
                continue
            named = row.get(image)
            key = _key("" if named is None else str(named))
            if not key:
                raise CorpusError(f"{where} names no image in column {image!r}.")
            place = where.rstrip(",")
            self._where.setdefault(key, place)
            found = self._rows.setdefault(key, [])
            lang = source.lang or str(next((row[name] for name in _LANGS if row.get(name)), UNKNOWN))
            values = [(name, value) for name in columns for value in _listed(row.get(name))] or [("", None)]
            found += [(lang, caption_text(value, name, where), place) for name, value in values]
        if first and not has_columns:
            raise CorpusError(first)
        if not self._rows:
            chosen = f" of split {source.split!r}" if source.split else ""
            raise CorpusError(f"{path} has no captions{chosen}.")
        self._by_path = any("/" in key for key in self._rows)

    def of(self, uri: str, content: str, folder: str) -> Captions:
        """Captions of an image: by its path if the table gives paths, otherwise by its name and stem.

        Args:
            content: hash of the image.
            folder: that the table's paths may be relative to.

        Raises:
            CorpusError: another image has the name that the table gives.
        """
        file, part = container_uri(uri)
        names = [PurePosixPath(each) for each in (part, file) if each]
        paths = [part, uri, *_relative(file, (folder, str(self.path.parent)))]
        if not self._by_path:
            paths += [*(each.name for each in names[:1]), *(each.stem for each in names[:1])]
        # An image that the table names in several ways has the captions of all of them.
        keys = [key for key in dict.fromkeys(map(_key, paths)) if key in self._rows]
        for key in keys:
            if self._used.setdefault(key, content) != content:
                raise CorpusError(
                    f"{self._where[key]} names {key!r}, but several images have that name, such as {uri}."
                )
        return [caption for key in keys for caption in self._rows[key]]

    def unused(self) -> Iterator[tuple[str, str]]:
        """Names of images that were not asked for, and where the table has them."""
        return ((key, self._where[key]) for key in self._rows if key not in self._used)


class ItemsOfSplit:
    """Chooses the images of a split by their own columns, where no table of captions has it."""

    def __init__(self, source: OwnSource) -> None:
        self._source = source
        self._known: set[str] = set()
        self._readable = False

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """Those of the split, and those that cannot be read, of which no split may be known."""
        for item in items:
            split = item.columns.get("split")
            self._readable |= not item.fault
            if split is not None:
                self._known.add(str(split))
            if item.fault if split is None else str(split) == self._source.split:
                yield item

    def check(self) -> None:
        """Raise if nothing was chosen, once all items have passed.

        Raises:
            CorpusError: no image has a column ``split``, or none is of the split.
        """
        name, split = self._source.source, self._source.split
        if self._known and split not in self._known:
            raise CorpusError(f"{name} has no images of split {split!r}; it has {', '.join(sorted(self._known))}.")
        if self._readable and not self._known:
            raise CorpusError(f"{name} has no column 'split', so none of its images is of split {split!r}.")


def captions_of(decoded: Decoded, source: OwnSource) -> Captions:
    """Captions that an image has in its source: in columns, in a text file beside it, or in the file itself.

    Raises:
        CorpusError: a value is not a caption, or a text file is not UTF-8.
    """
    item = decoded.item
    columns: Mapping[str, Any] = item.columns
    names = [column_name(name) for name in source.columns] or caption_names(list(columns))
    lang = source.lang or str(next((columns[name] for name in _LANGS if columns.get(name)), UNKNOWN))
    found = [(caption_text(value, name, item.uri), item.uri) for name in names for value in _listed(columns.get(name))]
    if not any(text for text, _ in found) and not source.columns:
        found = _beside(item.uri) or [((decoded.facts.caption if decoded.facts else None) or "", item.uri)]
    return [(lang, text, place) for text, place in found]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def caption_names(names: Sequence[str]) -> list[str]:
    """The columns that hold captions: all that are named so, else the first of another usual name."""
    named = [name for name in names if _CAPTIONS.fullmatch(str(name))]
    lower = {str(name).casefold(): name for name in reversed(names)}
    return named or [lower[name] for name in (*TEXT_NAMES, "alt_text", "alt") if name in lower][:1]


def beside(uri: str) -> list[Path]:
    """Text files that may hold captions of an image."""
    if "://" in uri or container_uri(uri)[1]:
        return []
    path = Path(uri)
    return [each for suffix in BESIDE for each in (path.with_suffix(suffix), Path(f"{uri}{suffix}")) if each.is_file()]


def texts_without_image(folder: str) -> Iterator[Path]:
    """Text files of a local folder that have no other file of their name beside them, except for hidden ones."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        texts = [Path(name) for name in sorted(files) if name.endswith(BESIDE) and not name.startswith(".")]
        others = [Path(name) for name in files if not name.endswith(BESIDE)] if texts else []
        known = {name for other in others for name in (other.name, other.stem)}
        yield from (Path(root) / text for text in texts if text.stem not in known)


def _beside(uri: str) -> list[tuple[str, str]]:
    """The lines of the text file of an image, and where each is."""
    for path in beside(uri):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1
            raise CorpusError(f"{path}, line {line} is not UTF-8.") from error
        return [(line.strip(), f"{path}, line {number}") for number, line in enumerate(lines, 1)] or [("", str(path))]
    return []


def _usual(row: Mapping[str, Any], names: Sequence[str], missing: str) -> str:
    lower = {str(name).casefold(): str(name) for name in reversed(list(row))}
    found = next((lower[name] for name in names if name in lower), None)
    if found is None:
        raise CorpusError(f"{missing}; {columns_of(row)}.")
    return found


def _relative(file: str, folders: Sequence[str]) -> list[str]:
    if "://" in file:
        return [file.removeprefix(f"{folder.rstrip('/')}/") for folder in folders]
    return [os.path.abspath(file), *(os.path.relpath(file, folder) for folder in folders if "://" not in folder)]  # noqa: PTH100


def _key(name: str) -> str:
    """A name as it is compared: file systems write accented letters in two ways, and Windows other slashes."""
    plain = public_uri(name) if "://" in name else os.path.normpath(name.replace("\\", "/")) if name else ""
    return unicodedata.normalize("NFC", plain)
