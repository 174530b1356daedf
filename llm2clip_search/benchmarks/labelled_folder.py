"""Images with one label each: a folder with one subfolder a class."""

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
    """Images with one label each: the subfolder of the root that they lie in."""

    root: Path
    folders: tuple[str, ...]
    """The classes' subfolders, sorted; those without any image are no classes."""
    names: tuple[str, ...]
    """As prompts call the classes."""
    files: tuple[Item, ...]
    labels: np.ndarray
    """int64 ``[n_files]``, rows of ``folders``."""
    notes: tuple[str, ...]
    """What was left out, a sentence each."""


def read_labelled_folder(root: Path, class_names: Path | None = None) -> LabelledFolder:
    """The images below ``root``; a class is a subfolder, called by its name with underscores as spaces.

    Args:
        class_names: a file that calls the classes otherwise, see `read_class_names`.

    Raises:
        CorpusError: fewer than two subfolders with images, or a subfolder that ``class_names`` leaves out.
    """
    corpus = FolderCorpus(root)
    found = [(Path(item.uri).relative_to(corpus.root).parts, item) for item in corpus.items()]
    labelled = [(parts[0], file) for parts, file in found if len(parts) > 1]
    folders = tuple(sorted({folder for folder, _ in labelled}))
    if len(folders) < 2:
        raise CorpusError(
            f"{root} has {len(folders)} subfolders with images, but classification needs 2: one subfolder a class."
        )
    notes = []
    if loose := len(found) - len(labelled):
        notes.append(f"{loose:,} images lie in {root.name} itself, so they have no class and are left out")
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
            notes.append(f"{class_names.name} names {unused:,} classes without images; they are no answers here")
        names = tuple(called[folder] for folder in folders)
    if len(set(names)) < len(names):
        twice = next(name for row, name in enumerate(names) if name in names[:row])
        notes.append(f"two classes are called {twice!r}: no prompt tells them apart")
    place = {folder: row for row, folder in enumerate(folders)}
    return LabelledFolder(
        root=root,
        folders=folders,
        names=names,
        files=tuple(file for _, file in labelled),
        labels=np.array([place[folder] for folder, _ in labelled], dtype=np.int64),
        notes=tuple(notes),
    )


def read_class_names(path: Path) -> dict[str, str]:
    """Names by subfolder: a JSON object, or CSV rows of subfolder and name without a header.

    Raises:
        CorpusError: a file that is missing or of another form, or a subfolder that it names twice.
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
        raise CorpusError(f"{path} holds no JSON object of subfolders and names.")
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
        raise CorpusError(f"{path}, entry {number}, is no subfolder and its name: {', '.join(map(str, pair))}.")
    return texts[0], texts[1]
