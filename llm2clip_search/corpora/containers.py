"""Files that hold many items: which reader reads which file, and what the parts of a file are called."""

from dataclasses import replace
from functools import cache

from llm2clip_search.corpora.container import Container, container_end
from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.files import Files, files_of
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.passages import char_range


def container_uri(uri: str) -> tuple[str, str]:
    """A part's URI as that of its container and which part it is; an empty string if it is no part.

    Args:
        uri: with a path that can be opened, because what is a file on this machine is no part, see `container_end`.

    >>> container_uri("a/scan.pdf#page=3")
    ('a/scan.pdf', 'page=3')
    """
    end = container_end(uri, lambda name: container_for(name) is not None)
    return uri[:end], uri[end + 1 :]


def container_for(uri: str, kind: str | None = None) -> Container | None:
    """The reader of a container by its kind, or by its name; None for any other file."""
    if kind is not None:
        return next((reader for reader in containers() if reader.kind == kind), None)
    name = uri[uri.rfind("/") + 1 :].casefold()  # a million times: `PurePosixPath` takes ten times as long
    last = name.rfind(".")
    if last <= 0:
        return None
    by_suffix = _by_suffix()
    return by_suffix.get(name[max(name.rfind(".", 0, last), 0) :]) or by_suffix.get(name[last:])


@cache
def containers() -> tuple[Container, ...]:
    """All readers; where two fit a name, the first is taken."""
    from llm2clip_search.corpora.pdf import PdfContainer
    from llm2clip_search.corpora.table import TableContainer
    from llm2clip_search.corpora.tar import TarContainer
    from llm2clip_search.corpora.texts import TextContainer
    from llm2clip_search.corpora.video import VideoContainer

    return TarContainer(), TableContainer(), PdfContainer(), VideoContainer(), TextContainer()


@cache
def _by_suffix() -> dict[str, Container]:
    return {suffix: reader for reader in reversed(containers()) for suffix in reader.suffixes}


def open_item(item: Item, files: Files, kind: str | None = None, *, options: SourceOptions = SourceOptions()) -> bytes:
    """The bytes of a file, or of a part of one, by its URI and version.

    Args:
        kind: of the container, if its name does not tell.
        options: how its source is read.

    Raises:
        OSError: it cannot be read, or is not there any more.
        ImageError: it is damaged.
        CorpusError: the extra that reads it is not installed.
    """
    container, part = container_uri(item.uri)
    reader = container_for(container, kind)
    if reader is None or not part:
        return files.read(item.uri)
    reader.check_extra(container)
    uri, characters = char_range(item.uri)
    if characters is None:
        return reader.open(files, item, options)
    return reader.text(files, replace(item, uri=uri), options)[slice(*characters)].encode()


def open_uri(uri: str, version: str = "", *, options: SourceOptions = SourceOptions()) -> bytes:
    """The bytes of a file or a part of one, wherever it is, by what an index knows of it; as `open_item`."""
    return open_item(Item(uri=uri, version=version), files_of(uri, options), options=options)
