"""Sources by name: a folder of this machine, or a corpus that another package adds by an entry point."""

import os
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from llm2clip_search.corpora.corpus import Corpus
from llm2clip_search.corpora.folder import FolderCorpus
from llm2clip_search.errors import CorpusError

ENTRY_POINTS = "llm2clip_search.corpora"
"""Group of entry points; each is named for a scheme and is a callable from a URI to a `Corpus`."""


def open_corpus(source: str | os.PathLike[str], *, exclude: Sequence[str] = ()) -> Corpus:
    """The corpus that a source names: ``scheme://...`` of an installed plug-in, otherwise a folder.

    Args:
        exclude: gitignore patterns, for folders only.

    Raises:
        CorpusError: a scheme that no plug-in has, a plug-in that cannot be loaded, or patterns for one.
    """
    name = os.fspath(source)
    scheme, separator, _ = name.partition("://")
    if not separator:
        return FolderCorpus(name, exclude=exclude)
    if exclude:
        raise CorpusError(f"{name} is not a folder, so no patterns can be excluded from it.", hint="Omit --exclude.")
    found: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if scheme not in found:
        known = f"there are: {', '.join(sorted(found))}" if found else "none is installed"
        raise CorpusError(f"No package adds a corpus {scheme}:// ({known}).")
    try:
        corpus: Corpus = found[scheme].load()(name)
    except CorpusError:
        raise
    except Exception as error:  # the plug-in is somebody else's code
        package = distribution.name if (distribution := found[scheme].dist) else found[scheme].value
        raise CorpusError(
            f"The corpus {scheme}:// of the package {package} cannot be opened: {type(error).__name__}: {error}."
        ) from error
    return corpus
