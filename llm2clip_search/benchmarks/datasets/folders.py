"""Data sets of loose files: images in a folder, captions in text or JSON beside it."""

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
    """The gallery in the order of ``files``, which maps an image's id to its path below the folder.

    Every file is looked up, none is opened. ``what`` names the data set in errors.

    Raises:
        CorpusError: images that are not there, with both counts and the first of them.
    """
    places: dict[str, ByteRange] = {}
    missing: list[str] = []
    for image_id, name in files.items():
        try:
            status = (folder / name).stat()
        except (OSError, ValueError):  # ValueError: a zero byte in a name
            missing.append(name)
            continue
        if stat.S_ISREG(status.st_mode):
            places[image_id] = ByteRange(folder / name, 0, status.st_size)
        else:
            missing.append(name)
    if missing:
        raise CorpusError(
            f"{len(missing):,} of {len(files):,} images of {what} are not in {folder}, such as {missing[0]}."
        )
    return ImageFiles(places)


def retrieval_set(
    *,
    name: str,
    split: str,
    images: ImageFiles,
    captions: Mapping[str, Sequence[tuple[str, str]]],
    expected_images: int = 0,
    notes: Sequence[str] = (),
) -> RetrievalSet:
    """A set of ``(image id, caption)`` pairs by language; captions are stripped and empty ones left out.

    ``expected_images`` is the number of images that others measure on: where this copy has another, a note says so.
    """
    kept = {
        lang: Captions.of([(image, text) for image, caption in pairs if (text := caption.strip())])
        for lang, pairs in captions.items()
    }
    if expected_images and len(images) != expected_images:
        of_all = f"This copy has {len(images):,} images, the published figures are over {expected_images:,}."
        notes = (*notes, of_all)
    return RetrievalSet(name=name, split=split, images=images, captions=kept, notes=tuple(notes))


def first_existing(root: Path, *names: str) -> Path:
    """The first of those names that is there.

    Raises:
        CorpusError: none is.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    raise CorpusError(f"{root} holds no {' or '.join(names)}.")


def read_text(path: Path) -> str:
    """Text in UTF-8, gzipped or not, without a byte-order mark.

    Raises:
        CorpusError: the file is missing, damaged, or in another encoding.
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
    """Lines without the blanks around them; as all of `read_text`.

    Only a line feed ends a line: `str.splitlines` would also break a caption at a line separator inside it,
    and every caption after that would describe its neighbour's image.
    """
    text = read_text(path)
    return [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []


def read_json(path: Path) -> Any:
    """A JSON file, as all of `read_text`.

    Raises:
        CorpusError: it is no JSON.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """A JSON value; ``where`` it stands is for the error.

    Raises:
        CorpusError: it is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is not JSON: {error}.") from error


def read_ids(path: Path) -> list[str]:
    """Image ids, one a line.

    Raises:
        CorpusError: an empty line, or an id that is there twice.
    """
    return unique_ids(read_lines(path), str(path))


def unique_ids(ids: Sequence[str], where: str) -> list[str]:
    """Those ids.

    Raises:
        CorpusError: one is empty or there twice; ``where`` they stand is named.
    """
    for image, times in Counter(ids).most_common(1):
        if times > 1:
            raise CorpusError(
                f"{where} has {image!r} {times} times among {len(ids):,}: its files are mixed or damaged."
            )
    if "" in ids:
        raise CorpusError(f"{where} has no id in place {ids.index('') + 1:,} of {len(ids):,}.")
    return list(ids)


def captions_by_line(ids: Sequence[str], path: Path) -> list[tuple[str, str]]:
    """Captions of a file that has no ids: its n-th line describes the n-th image.

    Raises:
        CorpusError: there are more or fewer lines than images.
    """
    texts = read_lines(path)
    if len(texts) != len(ids):
        raise CorpusError(
            f"{path} has {len(texts):,} lines for {len(ids):,} images, and they meet by their order alone: "
            "one of the two files is of another version."
        )
    return list(zip(ids, texts, strict=True))
