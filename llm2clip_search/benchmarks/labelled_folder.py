"""Images with one label each: a folder with one subfolder per class."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm2clip_search.corpora import FolderCorpus, Item
from llm2clip_search.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class LabelledFolder:
    """Images labelled by the subfolder of the root that contains them."""

    root: Path
    folders: tuple[str, ...]
    """Subfolders of the classes, sorted; a subfolder without images is not a class."""
    names: tuple[str, ...]
    """Names of the classes in prompts."""
    files: tuple[Item, ...]
    labels: np.ndarray
    """int64 ``[n_files]``, rows of ``folders``."""
    notes: tuple[str, ...]
    """What was left out, one sentence each."""


def read_labelled_folder(root: Path, class_names: Path | None = None) -> LabelledFolder:
    """Find the images below ``root``. Each subfolder is a class, named after it with underscores as spaces.

    Args:
        class_names: a file with other names for the classes, see `read_class_names`.

    Raises:
        CorpusError: fewer than two subfolders contain images, or ``class_names`` lacks a subfolder.
    """
    corpus = FolderCorpus(root)
    found = [(Path(item.uri).relative_to(corpus.root).parts, item) for item in corpus.items()]
    labelled = [(parts[0], file) for parts, file in found if len(parts) > 1]
    folders = tuple(sorted({folder for folder, _ in labelled}))
    if len(folders) < 2:
        raise CorpusError(
            f"{root} has {len(folders)} subfolders with images, but classification needs at least 2, one per class."
        )
    notes = []
    if loose := len(found) - len(labelled):
        notes.append(f"{loose:,} images are in {root.name} itself, so they have no class and are left out")
    if unreadable := corpus.unreadable():
        notes.append(f"{len(unreadable):,} folders or files cannot be read, such as {next(iter(unreadable))}")
    names = tuple(folder.replace("_", " ") for folder in folders)
    if class_names is not None:
        called = read_class_names(class_names)
        if missing := [folder for folder in folders if folder not in called]:
            raise CorpusError(
                f"{class_names} names {len(called):,} classes, but {len(missing):,} of the {len(folders):,} subfolders"
                f" of {root} are not among them, such as {missing[0]!r}."
            )
        if unused := len(called) - len(folders):
            notes.append(f"{class_names.name} names {unused:,} classes without images; they are not used")
        names = tuple(called[folder] for folder in folders)
    if len(set(names)) < len(names):
        twice = next(name for row, name in enumerate(names) if name in names[:row])
        notes.append(f"two classes are both called {twice!r}, so prompts cannot tell them apart")
    row_of = {folder: row for row, folder in enumerate(folders)}
    return LabelledFolder(
        root=root,
        folders=folders,
        names=names,
        files=tuple(file for _, file in labelled),
        labels=np.array([row_of[folder] for folder, _ in labelled], dtype=np.int64),
        notes=tuple(notes),
    )


def read_class_names(path: Path) -> dict[str, str]:
    """Read names by subfolder: a JSON object, or CSV rows of subfolder and name without a header.

    Raises:
        CorpusError: the file is missing or has another form, or a subfolder occurs twice.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".json":
            pairs = json.loads(text, object_pairs_hook=list)  # a dict would drop a class that is named twice
        else:
            pairs = list(csv.reader(io.StringIO(text), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise CorpusError(f"{path} cannot be read as class names: {error}.") from error
    if path.suffix == ".json" and not text.lstrip().startswith("{"):
        raise CorpusError(f"{path} is not a JSON object that maps subfolders to names.")
    called: dict[str, str] = {}
    for number, pair in enumerate((pair for pair in pairs if pair), 1):
        folder, name = _folder_and_name(pair, path, number)
        if folder in called:
            raise CorpusError(f"{path} names the class {folder!r} twice, {called[folder]!r} and {name!r}.")
        called[folder] = name
    return called


def _folder_and_name(pair: Sequence[object], path: Path, number: int) -> tuple[str, str]:
    texts = [part.strip() for part in pair if isinstance(part, str)]
    if len(texts) != 2 or len(pair) != 2 or not all(texts):
        raise CorpusError(f"{path}, entry {number}, is not a subfolder and its name: {', '.join(map(str, pair))}.")
    return texts[0], texts[1]
