"""Images in tar archives, with the captions and JSON beside them, as webdataset and img2dataset write them."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import groupby
from typing import BinaryIO, NamedTuple

import numpy as np

from llm2clip_search.corpora.columns import digest, source_columns
from llm2clip_search.corpora.container import Container
from llm2clip_search.corpora.corpus import Item, Modality
from llm2clip_search.corpora.files import Files
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.samples import SampleColumns
from llm2clip_search.corpora.shards import all_members
from llm2clip_search.corpora.skipped import is_system_name
from llm2clip_search.encoders.image_types import image_extensions, of_name
from llm2clip_search.errors import CorpusError, first_line

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_PLACE = re.compile(r"(\d+)\+(\d+)@")
"""How the version of a member begins: offset and size of its data, in bytes."""
_HEADER = tarfile.BLOCKSIZE
"""Bytes of a member's header, which is right before its data."""
_LATEST = 1 << 33
"""Seconds since 1970 that count as a time; a nanosecond of it still is an int64."""
_HELD_BYTES = 64 << 20
"""Bytes of one sample's images that are held while the rest of it is read; what is beyond is read again."""
_HELD_ITEMS = 1000
"""Images of one sample that wait for the rest of it. There are so many only where names have other dots: ``img.0.jpg``,
``img.1.jpg``, ..."""
_NAMED = 5
"""Extensions that the failure of a sample without an image names."""
_MAX_HEADER = 16 << 20
"""Bytes of a member's extended headers; `tarfile` reads them whole."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""Methods of compression by the first bytes of a file."""


class TarContainer(Container):
    """Members of an uncompressed tar that are images: ``shard.tar#000012.jpg``.

    As in webdataset, a sample is neighbouring members of one key, which ends at the first dot of the base name; its
    texts and JSON become columns of all of its images (see `samples`). A sample without an image is a failure. Members
    without an extension are no samples; hidden and system files are left out unless ``options.everything``. A name that
    comes again, as tar appends a new version of a file, gets its number: ``a.jpg#2``.

    The version of a member is ``OFFSET+SIZE@`` and that of the tar. Of a tar elsewhere, which is read in order anyway,
    items carry their data.
    """

    kind = "tar"
    suffixes = frozenset(_SUFFIXES)
    modalities: frozenset[Modality] = frozenset({"image"})
    has_columns = True
    extra = ""

    def parts(self, files: Files, container: Item, options: SourceOptions) -> Iterator[Item]:
        names = _Names()
        with files.open(container.uri) as file:
            members = _members(file, container.uri, everything=options.everything)
            reading = _Reading(file, container, options, keeps_data=files.is_remote)
            for key, sample in groupby(members, key=lambda member: member.key):
                for item in _items(key, sample, reading):
                    yield replace(item, uri=f"{container.uri}#{names.unused(item.uri)}")

    def open(self, files: Files, item: Item, options: SourceOptions = SourceOptions()) -> bytes:
        uri, name = self.split(item.uri)
        place = _PLACE.match(item.version or self._version(files, uri, item.uri))
        if place is None:
            raise FileNotFoundError(f"nothing says where {item.uri} lies")
        offset, size = map(int, place.groups())
        read = files.read_range(uri, offset - _HEADER, _HEADER + size)
        if not _is_header(read[:_HEADER], name, size):
            raise FileNotFoundError(f"{uri} has changed and has something else in its place")
        if len(read) < _HEADER + size:
            raise OSError(f"{uri} ends within it, after {len(read) - _HEADER:,} of {size:,} bytes")
        return read[_HEADER:]

    def _version(self, files: Files, container: str, uri: str) -> str:
        """The version of a part of which only the URI is known: the headers before it are read."""
        options = SourceOptions(everything=True, columns=())
        found = self.parts(files, Item(uri=container, is_container=True), options)
        return next((part.version for part in found if part.uri == uri), "")


class _Member(NamedTuple):
    """A member of a sample: its key, the rest of its name, and where it is."""

    key: str
    extension: str
    info: tarfile.TarInfo


class _Reading(NamedTuple):
    """The tar that is read, and how."""

    file: BinaryIO
    container: Item
    options: SourceOptions
    keeps_data: bool

    def read(self, info: tarfile.TarInfo) -> bytes:
        """The data of a member."""
        self.file.seek(info.offset_data)
        return self.file.read(info.size)

    def image(self, info: tarfile.TarInfo, *, held: int) -> Item:
        """A member that is an image, with its data if these shall be kept and fit beside those that are held."""
        item, version, fault = _item(info), self.container.version, _fault(info)
        if fault:
            return replace(item, fault=fault)
        data = self.read(info) if self.keeps_data and info.size <= _HELD_BYTES - held else None
        if data is not None and len(data) < info.size:
            return replace(item, fault=f"the tar ends within it, after {len(data):,} of {info.size:,} bytes")
        if not version and data is not None:
            version = blake2b(data, digest_size=8).hexdigest()
        return replace(item, version=f"{info.offset_data}+{info.size}@{version}", data=data)


def _members(file: BinaryIO, uri: str, *, everything: bool) -> Iterator[_Member]:
    """The members of samples."""
    head = file.read(6)
    file.seek(0)
    if method := next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), ""):
        raise CorpusError(
            f"{uri} is compressed with {method}, so that no member of it can be read without all those before it.",
            hint="Decompress it first; images are compressed already.",
        )
    try:
        # Names are decoded as Python decodes those of files, whatever the locale.
        with tarfile.open(fileobj=_Bounded(file), mode="r:", encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[call-overload]
            for info in all_members(tar):
                folder, slash, base = info.name.removeprefix("./").rpartition("/")
                stem, dot, extension = base.partition(".")
                is_left_out = not everything and (_is_hidden(base, is_folder=False) or _is_in_hidden(folder))
                if dot and stem and not info.isdir() and not is_left_out:
                    yield _Member(f"{folder}{slash}{stem}", extension, info)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise CorpusError(f"{uri} cannot be read as a tar to its end: {first_line(error)}.") from error


def _items(key: str, sample: Iterator[_Member], reading: _Reading) -> Iterator[Item]:
    """The items of one sample, with names as URIs; first its images, then what is wrong with it."""
    images, faults, others = list[Item](), list[Item](), list[str]()
    columns, options, held, count = SampleColumns(), reading.options, 0, 0
    damage = None
    try:
        for _, extension, info in sample:
            suffix = f".{extension.rpartition('.')[2].lower()}"
            if _is_image(suffix):
                images.append(item := reading.image(info, held=held))
                held += len(item.data or b"")
                count += 1
            elif len(others) < _NAMED:
                others.append(f".{extension}")
            if options.columns != () and columns.reads(suffix):
                fault = _fault(info) or columns.add(extension, info.size, partial(reading.read, info))
                faults += [replace(_item(info), fault=fault)] if fault else []
            if len(images) + len(faults) >= _HELD_ITEMS:
                yield from _described(images, columns, options)
                yield from faults
                images, faults, held = [], [], 0
    except CorpusError as error:
        damage = error
    yield from _described(images, columns, options)
    yield from faults
    if damage is not None:
        raise damage
    if not count:
        yield Item(uri=key, fault=f"the sample has no image, but {', '.join(others)}")


def _item(info: tarfile.TarInfo) -> Item:
    return Item(
        uri=info.name.removeprefix("./"),
        size=info.size,
        mtime_ns=int(info.mtime * 10**9) if 0 <= info.mtime < _LATEST else 0,
    )


def _described(images: list[Item], columns: SampleColumns, options: SourceOptions) -> Iterator[Item]:
    values = source_columns(columns.values, options.columns)
    described = digest(values)
    return (replace(item, columns=values, described=described) for item in images)


def _fault(info: tarfile.TarInfo) -> str:
    """Why the data of a member cannot be read by one range; empty if they can."""
    if info.islnk() or info.issym():
        return f"it is a link to {info.linkname}"
    if info.issparse():
        return "it is a sparse file, which the tar holds in pieces"
    return "" if info.isreg() else "it is not a file"


def _is_header(header: bytes, name: str, size: int) -> bool:
    """True if a header is that of a member, as far as one block tells: longer names and others than ASCII are cut."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    found = info.name.removeprefix("./")
    is_whole = name.isascii() and len(name) < tarfile.LENGTH_NAME - 2
    return info.size == size and (found == name.rpartition("#")[0] or found == name or not is_whole)


@lru_cache(maxsize=1024)
def _is_image(suffix: str) -> bool:
    """True for images of any type: one that is not read is a failure, with the reason."""
    return suffix in image_extensions() or of_name(f"x{suffix}") is not None


@lru_cache(maxsize=1024)
def _is_in_hidden(folder: str) -> bool:
    return any(_is_hidden(part, is_folder=True) for part in folder.split("/"))


def _is_hidden(name: str, *, is_folder: bool) -> bool:
    return (name.startswith(".") and name not in (".", "..")) or is_system_name(name, is_folder=is_folder)


class _Bounded:
    """A file for `tarfile`, which reads headers of any size that they declare."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header has {size:,} bytes")
        return self._file.read(size)


class _Names:
    """Names that a tar has had so far, in 8 bytes each; nothing is looked up while they ascend, as most do."""

    def __init__(self) -> None:
        self._last = ""
        self._recent = set[int]()
        self._sorted: list[np.ndarray] = []
        """int64 ``[n]`` each, ascending; each at least twice as long as the next."""

    def unused(self, name: str) -> str:
        """The name, with a number if it was there before."""
        found, number = name, 1
        while found <= self._last and self._has(hash(found)):
            number += 1
            found = f"{name}#{number}"
        self._last = max(self._last, found)
        self._recent.add(hash(found))
        if len(self._recent) >= 4096:
            merged = np.array([*self._recent], dtype=np.int64)
            while self._sorted and len(self._sorted[-1]) < 2 * len(merged):
                merged = np.concatenate([self._sorted.pop(), merged])
            self._sorted.append(np.sort(merged))
            self._recent = set()
        return found

    def _has(self, key: int) -> bool:
        found = ((names, int(np.searchsorted(names, key))) for names in self._sorted)
        return key in self._recent or any(at < len(names) and names[at] == key for names, at in found)
