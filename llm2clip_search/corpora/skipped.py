"""What a walk leaves out: files and folders of systems and tools, told by their names; and counts of all that."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from llm2clip_search.encoders import image_types

Reason = Literal["system", "hidden", "excluded"]
"""Why a walk passes over a file or folder."""

SYSTEM_FOLDERS = frozenset(
    name.casefold()
    for name in (
        # Synology and QNAP
        *("#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "@tmp", "@eaDir", "@sharebin", "@appstore"),
        *("@database", "@docker", "@download", "@img_bkp_cache", "@autoupdate", "@S2S", "@quarantine", "@__thumb"),
        *(".@__thumb", ".@upload_cache", ".@__comp", ".streams"),
        # other servers and file systems
        *("lost+found", ".snapshot", ".snapshots", "~snapshot", ".zfs", ".recycle", ".deleted", ".versions"),
        # Windows
        *("System Volume Information", "$RECYCLE.BIN", "RECYCLER", "RECYCLED", "$WinREAgent", "$Extend", "found.000"),
        # macOS
        *(".Trashes", ".Trash", ".Spotlight-V100", ".fseventsd", ".DocumentRevisions-V100", ".TemporaryItems"),
        *("Network Trash Folder", "Temporary Items", ".AppleDouble", ".AppleDB", "__MACOSX"),
        # desktops and tools
        *(".thumbnails", ".thumb", ".thumbs", ".picasaoriginals", "node_modules", "__pycache__"),
    )
)
"""Waste bins, snapshots, thumbnails and caches, in lower case."""
_SYSTEM_PREFIXES = ("@syno", ".trash-", ".sync-", ".stversions", ".stfolder")
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", ".ds_store"})
_RESOURCE_FORK = "._"
"""macOS puts the attributes of ``x.jpg`` into ``._x.jpg`` where a disk has no place for them."""


def is_system_name(name: str, *, is_folder: bool) -> bool:
    """True for a folder or file that a system or tool made for itself."""
    lower = name.casefold()
    if is_folder:
        return lower in SYSTEM_FOLDERS or lower.startswith(_SYSTEM_PREFIXES)
    return lower in SYSTEM_FILES or lower.startswith(_RESOURCE_FORK)


@dataclass(kw_only=True)
class Skipped:
    """Counts of what a corpus left out. What is in a folder that is not entered is not counted."""

    types: Counter[str] = field(default_factory=Counter)
    """Image files of types that are not read, by extension: lower case, with the dot."""
    extras: dict[str, str] = field(default_factory=dict)
    """The extra that reads further files among ``types``, such as PDFs, by extension."""
    system: Counter[str] = field(default_factory=Counter)
    """System folders and files, by name; ``._*`` stands for resource forks of macOS."""
    hidden: int = 0
    """Hidden image files."""
    hidden_folders: int = 0
    excluded: int = 0
    """Image files and folders that a pattern matches."""
    raw: int = 0
    """RAW files for which an image of the same name stands."""
    other: int = 0
    """Files that are not images."""
    notes: Counter[str] = field(default_factory=Counter)
    """What else is to be said of the items, each with its count: ``rows that name an image again``."""

    def add(self, name: str, why: Reason, *, is_folder: bool, is_image: bool) -> None:
        """Count a file or folder that was passed over."""
        if why == "system":
            self.system["._*" if not is_folder and name.startswith(_RESOURCE_FORK) else name] += 1
        elif why == "hidden":
            self.hidden += is_image
            self.hidden_folders += is_folder
        else:
            self.excluded += is_folder or is_image

    def add_unread(self, name: str, *, is_image: bool, extra: str = "") -> None:
        """Count a file that is nothing to index, or an image that is no regular file.

        Args:
            extra: the one that reads it, of a document or video.
        """
        suffix = PurePath(name).suffix.lower()
        if extra:
            self.extras[suffix] = extra
        if extra or (not is_image and image_types.of_name(name) is not None):
            self.types[suffix] += 1
        else:
            self.other += 1

    def reasons(self) -> list[str]:
        """Phrases for people: what was skipped that may be images, and why. Excluded images are left out."""
        found = []
        for extension, count in sorted(self.types.items()):
            found.append(f"{count:,} {extension} {'file' if count == 1 else 'files'} skipped: {self._lack(extension)}")
        if self.raw:
            files, them = ("1 RAW file", "it") if self.raw == 1 else (f"{self.raw:,} RAW files", "them")
            found.append(f"{files} skipped: a JPEG or other image of the same name is beside {them}")
        if self.system:
            total, names = sum(self.system.values()), ", ".join(sorted(self.system)[:6])
            more = f" and {len(self.system) - 6} other names" if len(self.system) > 6 else ""
            found.append(
                f"{total:,} system {'folder or file' if total == 1 else 'folders and files'} skipped: {names}{more}"
            )
        if self.hidden:
            found.append(f"{self.hidden:,} hidden {'image' if self.hidden == 1 else 'images'} skipped")
        return [*found, *(f"{note}: {count:,}" for note, count in self.notes.items())]

    def _lack(self, extension: str) -> str:
        if extension in self.extras:
            return f"pip install 'llm2clip-search[{self.extras[extension]}]'"
        kind = image_types.of_name(f"x{extension}")
        return kind.lack if kind else "cannot be decoded"

    def hint(self) -> str:
        """How to have the first type read that something here can read; empty if there is none."""
        kinds = (image_types.of_name(f"x{extension}") for extension in sorted(self.types))
        return next((kind.hint for kind in kinds if kind is not None and kind.hint), "")

    def to_dict(self) -> dict[str, Any]:
        """As JSON: types by extension, each with its number of ``files`` and the ``extra`` that reads them or null."""
        types = {}
        for extension, count in sorted(self.types.items()):
            kind = image_types.of_name(f"x{extension}")
            extra = self.extras.get(extension) or (kind.extra if kind else "")
            types[extension] = {"files": count, "extra": extra or None}
        counts = ("hidden", "hidden_folders", "excluded", "raw", "other")
        rest = {name: getattr(self, name) for name in counts}
        notes = {"notes": dict(self.notes)} if self.notes else {}
        return {"types": types, "system": dict(sorted(self.system.items())), **rest, **notes}
