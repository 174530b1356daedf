"""Which files of a folder are indexed, on this machine and elsewhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm2clip_search.corpora.container import Container
from llm2clip_search.corpora.containers import container_for
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.skipped import Reason, is_system_name
from llm2clip_search.encoders.image_types import image_extensions
from llm2clip_search.errors import CorpusError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".llm2clipignore"
"""Its lines are patterns of what is left out of the folder that it lies in."""
_IN_FOLDERS = ("pdf", "video", "text")
"""Kinds of files with items that are read where images are; other kinds must be asked for."""


def patterns(exclude: Sequence[str], ignore_file: str, content: bytes | None) -> "GitIgnoreSpec":
    """What a caller and an ignore file leave out.

    Args:
        ignore_file: path or URI of the file, for messages.
        content: of the file; None if there is none.

    Raises:
        CorpusError: the file is no text, or something is no gitignore pattern.
    """
    from pathspec import GitIgnoreSpec

    try:
        lines = (content or b"").decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{ignore_file} cannot be read as UTF-8 text: {error}.") from error
    try:
        return GitIgnoreSpec.from_lines([*exclude, *lines])
    except ValueError as error:
        source = f"{ignore_file} or the patterns to exclude" if lines else "The patterns to exclude"
        raise CorpusError(
            f"{source} contain something that is not a gitignore pattern: {error}.", hint="See --exclude."
        ) from error


def why_not(relative: str, ignored: "GitIgnoreSpec", *, everything: bool, is_folder: bool) -> Reason | None:
    """Why a file or folder is passed over; None if it is not.

    Args:
        relative: its path below the folder that the patterns are relative to, with slashes.
    """
    name = relative.rpartition("/")[2]
    if not everything:
        if is_system_name(name, is_folder=is_folder):
            return "system"
        if name.startswith("."):
            return "hidden"
    return "excluded" if ignored.patterns and ignored.match_file(relative + "/" * is_folder) else None


def extensions_in_folder(options: SourceOptions) -> frozenset[str]:
    """Extensions of images that are indexed from a folder; none if it is read for other files."""
    reads_images = options.modality == "image" and options.kind in (None, "folder")
    return image_extensions() if reads_images else frozenset()


def reader_in_folder(name: str, options: SourceOptions) -> Container | None:
    """The reader of a file that holds items, if a folder is read for such files."""
    reader = container_for(name)
    if reader is None or options.modality not in reader.modalities:
        return None
    kinds = _IN_FOLDERS if options.kind in (None, "folder") else (options.kind,)
    return reader if reader.kind in kinds else None


def missing_extra(name: str, options: SourceOptions) -> str:
    """The extra that would read a file of a folder; empty if it is installed, or none would."""
    reader = reader_in_folder(name, options)
    return "" if reader is None else reader.extra


def images_looked_for() -> str:
    """What counts as an image in a folder, for people."""
    some = [ext for ext in (".jpg", ".png", ".webp", ".heic", ".avif") if ext in image_extensions()]
    return f"{', '.join(some)} and others"
