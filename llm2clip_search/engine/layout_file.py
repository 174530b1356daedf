"""Layouts as files, complete or absent; they can be made again, so one that cannot be read counts as absent."""

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from llm2clip_search.base.files import replaced_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.engine.candidates import Part
from llm2clip_search.engine.layout import Landmarks, Layout

FORMAT = 1
"""Number of this form of the file, and of what decides the places; files of others are not read."""
MOST_BYTES = 1 << 30
"""Of all layouts in a folder; those that were written first are removed."""


def layout_file(folder: Path, parts: Sequence[Part]) -> Path:
    """Where the layout of some indices is, whatever their state."""
    names = [str(part.snapshot.folder) for part in parts]
    return folder / f"{json_sha256([FORMAT, parts[0].snapshot.manifest.model.fingerprint, names])[:16]}.npz"


def write_layout(path: Path, layout: Layout) -> None:
    """Write a layout, and keep the folder within `MOST_BYTES`.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    marks = {f"landmarks_{name}": getattr(layout.landmarks, name) for name in _LANDMARKS}
    with replaced_file(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            keys=layout.keys,
            places=layout.places,
            groups=layout.groups,
            made=np.array([layout.state, layout.method]),
            **marks,
        )
    others = sorted((other for other in path.parent.glob("*.npz") if other != path), key=_written, reverse=True)
    room = MOST_BYTES - path.stat().st_size
    for other in others:
        room -= _size(other)
        if room < 0:
            other.unlink(missing_ok=True)


def read_layout(path: Path) -> Layout | None:
    """The layout in a file; None if there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            marks = {name: file[f"landmarks_{name}"] for name in _LANDMARKS}
            state, method = file["made"].tolist()
            keys, places, groups = file["keys"], file["places"], file["groups"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    if not len(keys) == len(places) == len(groups):
        return None
    landmarks = Landmarks(**marks)
    return Layout(keys=keys, places=places, groups=groups, landmarks=landmarks, state=state, method=method)


_LANDMARKS = ("keys", "mean", "basis", "vectors", "places", "centres")


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed by another process
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
