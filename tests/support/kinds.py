"""Sources of every kind, written from the same pictures or texts, so that one test tells what holds for all of them."""

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from llm2clip_search.corpora import SourceOptions
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.encoders import Encoder
from llm2clip_search.indexers import IndexConfig, IndexSummary, index_corpus
from llm2clip_search.store import Snapshot
from tests.support.corpus import write_tar
from tests.support.s3 import KEYS, mirror, s3_server
from tests.support.tables import write_parquet
from tests.support.web import Page, web_server

Content = Mapping[str, int]
"""What a source holds: by name, in the order of names, the number of a picture or text."""
FILES = 3
"""Containers of a source."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of source."""

    name: str
    write: Callable[[Path, Content], None]
    """Writes the containers of a source into a folder, in place of those that are there."""
    pattern: str
    """Of these containers, as the command line takes it."""
    options: SourceOptions = field(default_factory=SourceOptions)
    place: Callable[[Path], AbstractContextManager[str]] = lambda folder: nullcontext(str(folder))
    """Where the folder is, for as long as the context lasts."""
    read: str = ""
    """What the names of files have in common that a second run does not read: of a list, it reads the list itself."""

    def index(self, place: str, index: Path, encoder: Encoder, *, rows_per_commit: int = 7) -> IndexSummary:
        """Bring an index up to date with the source in a place."""
        [corpus] = open_corpora([f"{place}/{self.pattern}"], self.options)
        config = IndexConfig(batch_size=4, threads=2, rows_per_commit=rows_per_commit)
        return index_corpus(corpus, encoder=encoder, index=index, config=config)


@cache
def picture(number: int) -> bytes:
    """A PNG of large fields of colours, which survive how documents and videos store them."""
    fields = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(fields).resize((32, 32), Image.Resampling.NEAREST).save(data, "PNG")
    return data.getvalue()


def caption(number: int) -> str:
    return f"picture {number} of many"


def _write_files(folder: Path, content: Content, *, numbered: bool = False) -> None:
    """A file of each picture; those that stay as they are stay untouched."""
    folder.mkdir(exist_ok=True)
    files = {f"{name}-{number}.png" if numbered else f"{name}.png": number for name, number in content.items()}
    for path in {*folder.glob("*.png")} - {folder / name for name in files}:
        path.unlink()
    for name, number in files.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != picture(number):
            (folder / name).write_bytes(picture(number))


def _write_list(folder: Path, content: Content) -> None:
    """What has a URL is not fetched again, so that a changed picture has another one."""
    _write_files(folder, content, numbered=True)
    numbers = dict(sorted(content.items()))
    urls = [f"{name}-{number}.png" for name, number in numbers.items()]
    write_parquet(folder / "list.parquet", {"url": urls, "number": pa.array(numbers.values(), pa.int64())})


def _write_tars(folder: Path, content: Content) -> None:
    for path, part in _files(folder, content, ".tar"):
        members = dict[str, bytes]()
        for name, number in part.items():
            members[f"{name}.png"] = picture(number)
            members[f"{name}.json"] = json.dumps({"number": number}).encode()
            members[f"{name}.txt"] = caption(number).encode()
        write_tar(path, members)


def _write_tables(folder: Path, content: Content) -> None:
    for path, part in _files(folder, content, ".parquet"):
        numbers = list(part.values())
        columns = {
            "image": pa.array([picture(each) for each in numbers], pa.binary()),
            "caption": pa.array([caption(each) for each in numbers], pa.string()),
            "number": pa.array(numbers, pa.int64()),
        }
        write_parquet(path, columns, row_group_size=4)


def _write_texts(folder: Path, content: Content) -> None:
    for path, part in _files(folder, content, ".jsonl"):
        rows = [{"caption": caption(number), "number": number} for number in part.values()]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def _write_documents(folder: Path, content: Content) -> None:
    for path, part in _files(folder, content, ".pdf"):
        first, *rest = [_image(number) for number in part.values()]
        first.save(path, save_all=True, append_images=rest)


def _write_videos(folder: Path, content: Content) -> None:
    """A frame a second, each compressed by itself: a frame that moves stays the same to the bit."""
    import av

    for path, part in _files(folder, content, ".mkv"):
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mjpeg", rate=1, width=32, height=32, pix_fmt="yuvj444p")
            for number in part.values():
                frame = av.VideoFrame.from_ndarray(np.asarray(_image(number)), format="rgb24")
                file.mux(stream.encode(frame.reformat(format="yuvj444p")))
            file.mux(stream.encode())


def _image(number: int) -> Image.Image:
    return Image.open(io.BytesIO(picture(number))).convert("RGB")


def _files(folder: Path, content: Content, suffix: str) -> list[tuple[Path, dict[str, int]]]:
    """The files of a source and what is in each: consecutive names."""
    folder.mkdir(exist_ok=True)
    names = sorted(content)
    cuts = [len(names) * number // FILES for number in range(FILES + 1)]
    return [
        (folder / f"{number}{suffix}", {name: content[name] for name in names[cuts[number] : cuts[number + 1]]})
        for number in range(FILES)
    ]


class _Pages(dict[str, Page]):
    """The files of a folder as pages, with what changes when they do as their etags."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def get(self, path: str, default: Any = None) -> Any:
        file = self._folder / path.removeprefix("/")
        tag = f'"{file.stat().st_mtime_ns}"'
        return lambda request: request.ranged(file.read_bytes(), ETag=tag, Content_Type="application/octet-stream")


@contextmanager
def _on_the_web(folder: Path) -> Iterator[str]:
    with web_server({}) as server:
        server.pages = _Pages(folder)
        yield server.url


@contextmanager
def _on_s3(folder: Path) -> Iterator[str]:
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        yield f"s3://{_bucket(folder)}"


def _write_objects(folder: Path, content: Content) -> None:
    """The files of a folder as objects of its bucket."""
    _write_files(folder, content)
    objects = {path.name: path.read_bytes() for path in folder.iterdir()}
    mirror(os.environ["AWS_ENDPOINT_URL"], _bucket(folder), objects)


def _bucket(folder: Path) -> str:
    """A name that no other test has."""
    return f"b-{blake2b(str(folder).encode(), digest_size=8).hexdigest()}"


KINDS = (
    Kind(name="folder", write=_write_files, pattern=""),
    Kind(name="s3", write=_write_objects, pattern="", place=_on_s3, read=".png"),
    Kind(
        name="urls",
        write=_write_list,
        pattern="list.parquet",
        options=SourceOptions(allow_private=True),
        place=_on_the_web,
        read=".png",
    ),
    Kind(name="tar", write=_write_tars, pattern=f"{{0..{FILES - 1}}}.tar"),
    Kind(
        name="web",
        write=_write_tars,
        pattern=f"{{0..{FILES - 1}}}.tar",
        options=SourceOptions(allow_private=True),
        place=_on_the_web,
    ),
    Kind(name="table", write=_write_tables, pattern="*.parquet", options=SourceOptions(kind="table")),
    Kind(name="pdf", write=_write_documents, pattern="*.pdf"),
    Kind(name="video", write=_write_videos, pattern="*.mkv", options=SourceOptions(every=1.0)),
    Kind(
        name="texts",
        write=_write_texts,
        pattern="*.jsonl",
        options=SourceOptions(kind="table", modality="text", text="caption"),
    ),
)


def rows(index: Path) -> dict[str, dict[str, Any]]:
    """The rows of an index by path, with their vectors, without what depends on the order of runs."""
    snapshot = Snapshot(index)
    found = dict[str, dict[str, Any]]()
    for row in snapshot.metadata().to_pylist():
        [vector] = snapshot.vectors([row.pop("id")])
        found[row.pop("path")] = {name: value for name, value in row.items() if value is not None} | {
            "vector": vector.tobytes()
        }
    assert len(found) == len(snapshot.metadata())
    return found
