"""Data sets of separate files: images in a folder, captions in text or JSON files."""

import gzip
import json
import stat
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm2clip_search.benchmarks.datasets.base import Captions, RetrievalSet
from llm2clip_search.corpora.image_files import ByteRange, ImageFiles
from llm2clip_search.errors import CorpusError


def images_in(folder: Path, files: Mapping[str, str], *, what: str) -> ImageFiles:
    """The gallery of a folder of images; the files are looked up but not opened.

    Args:
        files: path relative to ``folder`` by image id, in the order of the gallery.
        what: name of the data set, for errors.

    Raises:
        CorpusError: images are missing; the message has both counts and the first missing path.
    """
    ranges: dict[str, ByteRange] = {}
    missing: list[str] = []
    for image_id, name in files.items():
        try:
            status = (folder / name).stat()
        except (OSError, ValueError):  # ValueError: a null byte in the name
            missing.append(name)
            continue
        if stat.S_ISREG(status.st_mode):
            ranges[image_id] = ByteRange(folder / name, 0, status.st_size)
        else:
            missing.append(name)
    if missing:
        raise CorpusError(
            f"{len(missing):,} of {len(files):,} images of {what} are missing from {folder}, such as {missing[0]}."
        )
    return ImageFiles(ranges)


def retrieval_set(
    *,
    name: str,
    split: str,
    images: ImageFiles,
    captions: Mapping[str, Sequence[tuple[str, str]]],
    expected_images: int = 0,
    notes: Sequence[str] = (),
) -> RetrievalSet:
    """Build a set; captions are stripped and empty ones left out.

    Args:
        captions: ``(image id, caption)`` pairs by language.
        expected_images: number of images behind published results, or 0 if unknown; a note says if this copy has a
            different number.
    """
    kept = {
        lang: Captions.of([(image, text) for image, caption in pairs if (text := caption.strip())])
        for lang, pairs in captions.items()
    }
    if expected_images and len(images) != expected_images:
        notes = (*notes, f"This copy has {len(images):,} images; published results use {expected_images:,}.")
    return RetrievalSet(name=name, split=split, images=images, captions=kept, notes=tuple(notes))


def first_existing(root: Path, *names: str) -> Path:
    """The first of these paths below ``root`` that exists.

    Raises:
        CorpusError: none exists.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    raise CorpusError(f"{root} does not contain {' or '.join(names)}.")


def read_text(path: Path) -> str:
    """Read UTF-8 text, gzipped or not; a byte-order mark is dropped.

    Raises:
        CorpusError: the file is missing, damaged or in another encoding.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise CorpusError(f"{path} does not exist.") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8: byte {error.start:,} is 0x{error.object[error.start]:02x}.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{path} cannot be read: {error}.") from error


def read_lines(path: Path) -> list[str]:
    """Read stripped lines; encoding, compression and errors as for `read_text`.

    Only a line feed ends a line. `str.splitlines` would also split a caption at a Unicode line separator inside it,
    and every later caption would be mapped to the wrong image.
    """
    text = read_text(path)
    return [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CorpusError: the file cannot be read, see `read_text`, or is not JSON.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Parse JSON; ``where`` names its source in the error.

    Raises:
        CorpusError: the text is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is not JSON: {error}.") from error


def read_ids(path: Path) -> list[str]:
    """Read image ids, one per line.

    Raises:
        CorpusError: a line is empty or an id is repeated.
    """
    return unique_ids(read_lines(path), str(path))


def unique_ids(ids: Sequence[str], where: str) -> list[str]:
    """Check that ids are unique and not empty; ``where`` names their source in errors.

    Raises:
        CorpusError: an id is empty or repeated.
    """
    for image, times in Counter(ids).most_common(1):
        if times > 1:
            raise CorpusError(
                f"{where} has {image!r} {times} times among {len(ids):,} ids: its files are mixed or damaged."
            )
    if "" in ids:
        raise CorpusError(f"{where} has an empty id: number {ids.index('') + 1:,} of {len(ids):,}.")
    return list(ids)


def captions_by_line(ids: Sequence[str], path: Path) -> list[tuple[str, str]]:
    """``(image id, caption)`` pairs from a file without ids: its n-th line describes the n-th image.

    Raises:
        CorpusError: the numbers of lines and images differ.
    """
    texts = read_lines(path)
    if len(texts) != len(ids):
        raise CorpusError(
            f"{path} has {len(texts):,} lines for {len(ids):,} images; they are matched by order alone, so one of the "
            "two files is of another version."
        )
    return list(zip(ids, texts, strict=True))
