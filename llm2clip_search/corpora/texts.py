"""Text files, each one text that is cut into passages: ``notes.md#char=0,812``."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from dataclasses import replace

from llm2clip_search.corpora.container import Container
from llm2clip_search.corpora.corpus import Item, Modality
from llm2clip_search.corpora.files import Files
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.passages import with_range
from llm2clip_search.errors import CorpusError

LARGEST = 1 << 28
"""Bytes of a text file that is read; larger ones are logs or dumps, and take several times as much memory."""


class TextContainer(Container):
    """Files of plain text and Markdown.

    They are UTF-8, or UTF-16 with a byte-order mark; what is neither is read as Windows-1252, of which Latin-1 is a
    part. A file without any text has no parts. The version is that of the file.
    """

    kind = "text"
    suffixes = frozenset({".txt", ".text", ".md", ".markdown", ".rst"})
    modalities: frozenset[Modality] = frozenset({"text"})
    extra = ""

    def parts(self, files: Files, container: Item, options: SourceOptions) -> Iterator[Item]:
        text = _read(files, container.uri, container.size)
        if inside := text.strip():
            start, data = len(text) - len(text.lstrip()), inside.encode()
            uri = with_range(container.uri, start, start + len(inside))
            yield replace(container, uri=uri, is_container=False, data=data, size=len(data))

    def open(self, files: Files, item: Item, options: SourceOptions = SourceOptions()) -> bytes:
        return _read(files, item.uri).encode()


def _read(files: Files, uri: str, size: int = 0) -> str:
    if size > LARGEST:
        raise CorpusError(f"{uri} has {size:,} bytes; text files are read up to {LARGEST:,}.")
    return decode_text(files.read(uri), name=uri)


def decode_text(data: bytes, *, name: str) -> str:
    """The text of a file, line ends as ``\\n``, as RFC 5147 counts them.

    Raises:
        CorpusError: it is no text, or has an encoding that is not told.
    """
    is_utf16 = data.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    if not is_utf16 and b"\0" in data:
        raise CorpusError(f"{name} is not text: it holds a zero byte.")
    for encoding in ("utf-16",) if is_utf16 else ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
    known = "UTF-16, as it begins" if is_utf16 else "UTF-8, UTF-16 or Windows-1252"
    raise CorpusError(f"{name} is not text in {known}.")
