"""Files of a folder that belong to an image: the RAW file that it was made from, and sidecars, which describe it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm2clip_search.base.files import open_regular
from llm2clip_search.corpora.columns import DESCRIBED
from llm2clip_search.corpora.exif import exif_columns
from llm2clip_search.corpora.xmp import MAX_BYTES, Description, describe, read_xmp
from llm2clip_search.encoders.image_types import CAMERA_RAW
from llm2clip_search.encoders.packets import read_metadata

SIDECAR = ".xmp"


class Companions:
    """Which files of one folder belong together, by their names: ``IMG_1.CR2``, ``img_1.jpg``, ``IMG_1.xmp``."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        is_listed: Callable[[str], bool],
        extensions: frozenset[str],
        separate_raw: bool,
    ) -> None:
        """The files of a folder.

        Args:
            is_listed: false for a file that is left out by its name.
            extensions: of files that are indexed as images, in lower case, with the dot.
            separate_raw: a RAW file is an image by itself, whatever is beside it.
        """
        raws = [] if separate_raw else [name for name in names if _suffix(name) in CAMERA_RAW.extensions]
        sidecars = [name for name in names if _suffix(name) == SIDECAR] if extensions else []
        self._sidecars = {name.casefold(): name for name in sidecars if is_listed(name)}
        stems = {_stem(name) for name in raws}
        alike = extensions.difference(CAMERA_RAW.extensions) if stems else frozenset()
        images = (name for name in names if _suffix(name) in alike and _stem(name) in stems)
        shown = {_stem(name) for name in images if is_listed(name)}
        self._raws = {name: _stem(name) for name in raws if _stem(name) in shown}
        self._raws_of: dict[str, list[str]] = {}
        for name, stem in self._raws.items():
            self._raws_of.setdefault(stem, []).append(name)

    def is_shown(self, name: str) -> bool:
        """True for a RAW file for which another image stands."""
        return name in self._raws

    def sidecar(self, name: str) -> str | None:
        """The sidecar of an image: its own, that of its stem, or that of the RAW file that it stands for."""
        if not self._sidecars:
            return None
        stem = _stem(name)
        bases = (name.casefold(), stem, *(each.casefold() for each in self._raws_of.get(stem, ())))
        found = (self._sidecars.get(f"{base}{SIDECAR}") for base in bases)
        return next((each for each in found if each is not None), None)


class SidecarColumns(Mapping[str, Any]):
    """What a sidecar says, by column. It is read when this is asked for, so not for an image that is unchanged."""

    def __init__(self, path: Path, *, report: Callable[[str], None] = lambda note: None) -> None:
        """``report``: called with a phrase if the file cannot be read; then it says nothing."""
        self._path, self._report = path, report
        self._columns: dict[str, Any] | None = None

    def __reduce__(self) -> tuple[type["SidecarColumns"], tuple[Path]]:
        """In another process, the file is read there; nobody is told of one that cannot be read."""
        return SidecarColumns, (self._path,)

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, Any]:
        if self._columns is None:
            found = Description()
            try:
                with open_regular(self._path) as file:
                    found = read_xmp(file.read(MAX_BYTES + 1))
            except (OSError, ValueError):
                self._report("sidecars that cannot be read")
            self._columns = {name: value for name, value in columns_of(found).items() if value is not None}
        return self._columns


def sidecar_mark(path: Path) -> str:
    """Mark of a sidecar for `Item.described`: its time and size.

    Raises:
        OSError: it cannot be looked at.
    """
    status = path.stat()
    return f"{SIDECAR}:{status.st_mtime_ns}:{status.st_size}"


def columns_of(description: Description) -> dict[str, Any]:
    """A description by column, all of them."""
    return {name: getattr(description, name) for name in DESCRIBED}


def own_columns(source: bytes | Path) -> dict[str, Any]:
    """What an image file says of itself, by column, all that a source may say in its place; pixels are not decoded."""
    packets, exif = read_metadata(source)
    return columns_of(describe(packets)) | exif_columns(exif)[0]


def _stem(name: str) -> str:
    return name.rpartition(".")[0].casefold()


def _suffix(name: str) -> str:
    """As `PurePath.suffix` of names of files that have one, for folders with a million files."""
    return f".{name.rpartition('.')[2].lower()}"
