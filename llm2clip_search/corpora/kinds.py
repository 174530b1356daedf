"""What a source is, told from its name and from what it holds."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from llm2clip_search.corpora.containers import container_for
from llm2clip_search.corpora.corpus import Modality
from llm2clip_search.corpora.dataset_folders import dataset_tables
from llm2clip_search.corpora.options import Kind
from llm2clip_search.corpora.table_columns import kind_of_table
from llm2clip_search.encoders.image_types import image_extensions
from llm2clip_search.errors import CorpusError

_LOOKED_AT = 10_000
"""Files of a folder whose names are looked at."""
UNKNOWN_HINT = (
    "If it is a list of paths or URLs, use --as list; --as tar, table, pdf, video or text names its kind, and"
    " --modality text indexes texts."
)
"""What to do about a file whose name does not tell what it is."""


def kind_of(path: Path, modality: Modality) -> Kind:
    """What a file or folder of this machine is.

    A folder that holds images, or for texts text files, is walked. One without, that holds shards or tables, is read
    for these: an output of img2dataset, a data set of Hugging Face.

    What is not there counts as what its name says: whoever reads it says that it is missing.

    Raises:
        CorpusError: a file that nothing here reads.
    """
    try:
        if path.is_dir() or not (path.suffix or path.exists()):
            return _of_folder(path, modality)
        return _of_file(path, modality)
    except OSError as error:  # a name that is too long, a parent that may not be entered
        raise CorpusError(f"{path} cannot be read: {error.strerror}.") from error


def _of_folder(path: Path, modality: Modality) -> Kind:
    names = list(islice(_names(path), _LOOKED_AT))
    wanted = ("text", "pdf") if modality == "text" else ("pdf", "video")
    kinds = {reader.kind for name in names if (reader := container_for(name)) is not None}
    has_images = modality == "image" and any(Path(name).suffix.lower() in image_extensions() for name in names)
    if has_images or kinds & set(wanted):
        return "folder"
    if modality == "image" and "tar" in kinds:
        return "tar"
    return "table" if dataset_tables(path) else "folder"


def _names(path: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from sorted(name for name in names if not name.startswith("."))
        if folder.count(os.sep) - str(path).count(os.sep) >= 4:
            folders.clear()


def _of_file(path: Path, modality: Modality) -> Kind:
    reader = container_for(path.name)
    if reader is not None and reader.kind == "table" and modality == "image" and path.exists():
        return kind_of_table(str(path))
    is_image = modality == "image" and path.suffix.lower() in image_extensions()
    if is_image or (reader is not None and modality in reader.modalities):
        return "files"
    if not path.exists():
        return "folder"
    raise CorpusError(
        f"{path} is a {path.suffix or 'file without a suffix'}, which nothing here reads as {modality}s.",
        hint=UNKNOWN_HINT,
    )
