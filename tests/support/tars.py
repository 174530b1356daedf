"""Listing of tar archives."""

from pathlib import Path
from typing import BinaryIO

from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.files import LocalFiles
from llm2clip_search.corpora.named import item_of
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.tar import TarContainer
from llm2clip_search.errors import CorpusError


class RemoteFiles(LocalFiles):
    """Files of this machine that pretend to be far away, and count what is asked of them."""

    is_remote = True

    def __init__(self) -> None:
        self.opened = 0
        self.ranges = 0

    def open(self, uri: str) -> BinaryIO:
        self.opened += 1
        return super().open(uri)

    def read_range(self, uri: str, offset: int, size: int) -> bytes:
        self.ranges += 1
        return super().read_range(uri, offset, size)


def listed(
    path: Path, options: SourceOptions = SourceOptions(), *, files: LocalFiles = LocalFiles()
) -> tuple[list[Item], str]:
    """The items of a tar, and the message of the error that ends them."""
    items = list[Item]()
    try:
        items.extend(TarContainer().parts(files, item_of(files.status(str(path)), is_container=True), options))
    except CorpusError as error:
        return items, str(error)
    return items, ""
