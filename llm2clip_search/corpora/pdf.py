"""Pages of PDF documents, as pictures ``scan.pdf#page=3`` or as texts ``scan.pdf#page=3&char=0,812``."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs

from llm2clip_search.corpora.columns import digest
from llm2clip_search.corpora.container import Container
from llm2clip_search.corpora.corpus import Item, Modality
from llm2clip_search.corpora.files import Files
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.passages import with_range
from llm2clip_search.corpora.ppm import ppm
from llm2clip_search.errors import CorpusError, ImageError, first_line

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

SHORT_SIDE = 672
"""Pixels of the shorter side of a page: twice what vision towers read, so that what they resize is sharp."""
LONG_SIDE = 4096
"""Pixels of the longer side at most."""
_HELD_BYTES = 32 << 20
"""Bytes of a file after which it is opened anew: PDFium keeps what it has read until a document is closed."""
_LOCK = Lock()
"""Held in every call of PDFium, which is not thread-safe: calls from two threads can be wrong without an error."""
_HYPHEN = re.compile(r"[\ufffe\x02]\r?\n?")
"""How PDFium marks a hyphen that only the end of a line needs."""
_ROUNDING = 1.0 - 1e-9
"""Keeps a side of a whole number of pixels from being rounded up to the next."""


class PdfContainer(Container):
    """The pages of a PDF, from 1.

    As images, all of them, as a viewer shows them: rotated and cropped, with annotations and filled forms. As texts,
    those that have text; a scan has none. A page that PDFium cannot load is a failure of its own.
    """

    kind = "pdf"
    suffixes = frozenset({".pdf"})
    modalities: frozenset[Modality] = frozenset({"image", "text"})

    def __init__(self) -> None:
        self.extra = "" if find_spec("pypdfium2") else "pdf"

    def parts(self, files: Files, container: Item, options: SourceOptions) -> Iterator[Item]:
        columns = {"format": "PDF"}
        page_of = replace(container, is_container=False, size=0, columns=columns, described=digest(columns))
        with _document(files, container.uri) as document:
            for number in range(1, document.pages + 1):
                item = replace(page_of, uri=f"{container.uri}#page={number}")
                try:
                    if options.modality == "image":
                        data = document.render(number)
                    elif text := document.text(number):
                        item = replace(item, uri=with_range(item.uri, 0, len(text)))
                        data = text.encode()
                    else:
                        continue
                except ImageError as error:
                    yield replace(item, fault=str(error))
                else:
                    yield replace(item, data=data, size=len(data))

    def open(self, files: Files, item: Item, options: SourceOptions = SourceOptions()) -> bytes:
        with _page(files, self.split(item.uri)) as (document, number):
            return document.render(number)

    def text(self, files: Files, item: Item, options: SourceOptions = SourceOptions()) -> str:
        with _page(files, self.split(item.uri)) as (document, number):
            return document.text(number)


class _Document:
    """An open PDF. Its methods are the only calls of PDFium, and hold the lock while they work."""

    def __init__(self, file: BinaryIO, uri: str) -> None:
        """Open a PDF; errors as `_document`."""
        self._file, self._uri = _Watched(file), uri
        self._open()

    def render(self, number: int) -> bytes:
        """The picture of a page, from 1, as PPM.

        Raises:
            ImageError: it cannot be loaded.
            OSError: the file cannot be read.
        """
        with self._loaded(number) as page:
            sides = [max(1.0, side) for side in page.get_size()]
            scale = min(SHORT_SIDE / min(sides), LONG_SIDE / max(sides))
            with closing(page.render(scale=scale * _ROUNDING, rev_byteorder=True)) as bitmap:
                return ppm(bitmap.to_numpy())

    def text(self, number: int) -> str:
        """The text of a page, from 1, line ends as ``\\n``; errors as `render`."""
        with self._loaded(number) as page, closing(page.get_textpage()) as text:
            found = _HYPHEN.sub("", text.get_text_bounded())
        return found.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip()

    def close(self) -> None:
        """Free what PDFium holds."""
        with _LOCK:
            self._document.close()

    def _open(self) -> None:
        import pypdfium2
        from pypdfium2.raw import FPDF_ERR_FILE, FPDF_ERR_PASSWORD, FPDF_LoadDocument

        try:
            with _LOCK:
                # Fails, because PDFium keeps the reason of the last failure, also for a document that has no pages.
                FPDF_LoadDocument(b"", None)
                self._document: PdfDocument = pypdfium2.PdfDocument(self._file)
                self._document.init_forms()
                self.pages = len(self._document)
        except pypdfium2.PdfiumError as error:
            self._file.check()
            reasons = {FPDF_ERR_PASSWORD: "is locked by a password", FPDF_ERR_FILE: "has no pages"}
            why = reasons.get(error.err_code, "cannot be read as a PDF: it is damaged or something else")
            raise CorpusError(f"{self._uri} {why}.") from error
        self._file.bytes_read = 0

    @contextmanager
    def _loaded(self, number: int) -> "Iterator[PdfPage]":
        from pypdfium2 import PdfiumError

        if self._file.bytes_read > _HELD_BYTES:
            self.close()
            self._open()
        with _LOCK:
            try:
                with closing(self._document[number - 1]) as page:
                    yield page
            except PdfiumError as error:
                self._file.check()
                raise ImageError(f"the page cannot be read: {first_line(error)}", stage="decode") from error
            self._file.check()


class _Watched:
    """A file that PDFium reads, which goes on without what it cannot read; `check` raises the error.

    Attributes:
        bytes_read: so far, for the caller to reset.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.read = file.seek, file.tell, file.read
        self._file: Any = file
        self._error: OSError | None = None
        self.bytes_read = 0

    def readinto(self, buffer: Any) -> int:
        try:
            count = int(self._file.readinto(buffer))
        except OSError as error:
            self._error = error
            return 0
        self.bytes_read += count
        return count

    def check(self) -> None:
        """Raise the error of an earlier read."""
        if self._error is not None:
            raise self._error


@contextmanager
def _document(files: Files, uri: str) -> Iterator[_Document]:
    """An open PDF.

    Raises:
        OSError: the file cannot be read.
        CorpusError: it is no PDF, damaged or locked by a password.
    """
    with files.open(uri) as file, closing(_Document(file, uri)) as document:
        yield document


@contextmanager
def _page(files: Files, part: tuple[str, str]) -> Iterator[tuple[_Document, int]]:
    """The document and number of a page, by the document's URI and ``page=3``; for `Container.open`."""
    uri, number = part[0], int(parse_qs(part[1])["page"][0])
    try:
        with _document(files, uri) as document:
            if number > document.pages:
                raise FileNotFoundError(f"{uri} has no page {number} any more")
            yield document, number
    except CorpusError as error:
        raise ImageError(str(error).removesuffix("."), stage="read") from error
