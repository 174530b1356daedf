"""Files that a caller names, one by one or by a pattern: images, archives, tables, documents, videos."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llm2clip_search.corpora.containers import container_for, open_item
from llm2clip_search.corpora.corpus import Corpus, Item
from llm2clip_search.corpora.file_status import FileStatus
from llm2clip_search.corpora.files import files_of, unreadable
from llm2clip_search.corpora.options import SourceOptions

if TYPE_CHECKING:
    import pyarrow as pa


class NamedFiles(Corpus):
    """A file, or some files of one folder, whose other files stay in the index for as long as they are there."""

    def __init__(
        self,
        uri: str,
        files: Sequence[str],
        *,
        options: SourceOptions,
        part_of: str = "",
        is_partial: bool = True,
    ) -> None:
        """Files that are read when `items` is called.

        Args:
            uri: path or URI of the file, or of the folder that all of them lie in; that of the corpus.
            files: their paths or URIs.
            is_partial: False for one file, and if these are all files of the folder that hold items.
            part_of: URI of a source that the folder lies in, if these files belong to it.

        Raises:
            CorpusError: the package that reads one of them is missing.
        """
        self._uri, self._files, self._options = uri, list(dict.fromkeys(files)), options
        self.modality, self.options, self.part_of = options.modality, options.to_dict(), part_of
        self.is_partial = is_partial
        self._kind = None if options.kind == "files" else options.kind
        for name in self._files:
            if (reader := container_for(name, self._kind)) is not None:
                reader.check_extra(name)

    @property
    def uri(self) -> str:
        return self._uri

    def items(self) -> Iterator[Item]:
        place = files_of(self._uri, self._options)
        for uri in self._files:
            try:
                status = place.status(uri)
            except OSError as error:
                raise unreadable(uri, error) from error
            yield item_of(status, is_container=container_for(uri, self._kind) is not None)

    def parts(self, container: Item) -> Iterator[Item]:
        reader = container_for(container.uri, self._kind)
        assert reader is not None, "only containers have parts"
        return reader.parts(files_of(self._uri, self._options), container, self._options)

    def schema(self, container: Item | None = None) -> "pa.Schema | None":
        reader = None if container is None else container_for(container.uri, self._kind)
        if container is None or reader is None:
            return None
        return reader.schema(files_of(self._uri, self._options), container, self._options)

    def open(self, item: Item) -> bytes:
        return open_item(item, files_of(self._uri, self._options), self._kind, options=self._options)


def item_of(status: FileStatus, *, is_container: bool = False) -> Item:
    """A file as an item."""
    return Item(
        uri=status.uri,
        version=status.version,
        former_version=status.former_version,
        size=status.size,
        mtime_ns=status.mtime_ns,
        is_container=is_container,
    )
