"""Sources by name: a folder of this machine, or a corpus that another package adds by an entry point."""

import os
from collections.abc import Sequence
from typing import cast

from llm2clip_search.base.plugins import Plugins
from llm2clip_search.corpora.corpus import Corpus
from llm2clip_search.corpora.folder import FolderCorpus
from llm2clip_search.errors import CorpusError

CORPUS_PLUGINS = Plugins("llm2clip_search.corpora")
"""Each entry point is named for a URI scheme and is a callable from a URI to a `Corpus`."""


def open_corpus(source: str | os.PathLike[str], *, exclude: Sequence[str] = (), everything: bool = False) -> Corpus:
    """The corpus that a source names: ``scheme://...`` of an installed plug-in, otherwise a folder.

    Args:
        exclude: gitignore patterns, for folders only.
        everything: read hidden files and system folders too, of a folder.

    Raises:
        CorpusError: a scheme that no plug-in has, a plug-in that cannot be loaded, or patterns for one.
    """
    name = os.fspath(source)
    scheme, separator, _ = name.partition("://")
    if not separator:
        return FolderCorpus(name, exclude=exclude, everything=everything)
    if exclude:
        raise CorpusError(f"{name} is not a folder, so no patterns can be excluded from it.", hint="Omit --exclude.")
    try:
        return cast("Corpus", CORPUS_PLUGINS.load(scheme, name, error=CorpusError))
    except LookupError as error:
        known = ", ".join(CORPUS_PLUGINS.schemes())
        raise CorpusError(
            f"No package adds a corpus {scheme}:// ({f'there are: {known}' if known else 'none is installed'})."
        ) from error
