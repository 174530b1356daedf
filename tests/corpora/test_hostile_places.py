"""Pipes, devices, sockets, loops and endless files where images, sidecars, lists and tables are looked for."""

import os
import socket
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2clip_search.base.files import open_regular
from llm2clip_search.base.memory import peak_bytes
from llm2clip_search.corpora import SourceOptions, files, listed, table_files, table_texts
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.encoders.packets import read_metadata
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers import IndexConfig, IndexSummary, index_corpus
from tests.support.encoders import PixelEncoder
from tests.support.images import photograph

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="makes pipes and devices")
NO_FILE = "not a file but a folder, a pipe, a socket or a device"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "photos"
    made.mkdir()
    photograph(1).save(made / "good.png")
    return made


def update(source: Path, options: SourceOptions = SourceOptions()) -> IndexSummary:
    [corpus] = open_corpora([source], options)
    return index_corpus(corpus, encoder=PixelEncoder(), index=source.parent / "index", config=IndexConfig(threads=2))


def test_a_folder_of_pipes_links_and_devices_is_indexed(folder: Path) -> None:
    os.mkfifo(folder / "good.xmp")  # the sidecar of an image
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "pipe.pdf")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "zero.xmp").symlink_to("/dev/zero")
    (folder / ".llm2clipignore").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "up").symlink_to(folder)
    photograph(2).save(folder / "zero.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(folder / "socket.jpg"))
        summary = update(folder)
    assert (summary.total, summary.failures) == (2, [])
    assert summary.skipped.notes["sidecars that cannot be read"] == 2
    assert [each.rpartition("/")[2] for each in summary.unreadable] == ["loop.jpg: Too many levels of symbolic links"]


@pytest.mark.parametrize("form", ["list", "parquet", "csv"])
def test_lists_and_tables_that_name_devices(folder: Path, form: str) -> None:
    os.mkfifo(folder / "pipe.jpg")
    with (folder / "sparse.jpg").open("wb") as file:
        file.truncate(100 << 30)
    names = ["good.png", "pipe.jpg", "/dev/zero", "sparse.jpg", "/proc/self/mem", "/proc/kmsg", "x\0y.jpg"]
    path = folder / f"names.{'txt' if form == 'list' else form}"
    if form == "parquet":
        pq.write_table(pa.table({"image": names}), path)
    else:
        path.write_text("\n".join(["image", *names][form == "list" :]), encoding="utf-8")
    summary = update(path, SourceOptions(kind="list" if form == "list" else None))
    reasons = {each["path"].rpartition("/")[2]: each["reason"] for each in summary.failures}
    assert summary.total == 1
    assert len(reasons) == len(names) - 1
    assert reasons["pipe.jpg"] == reasons["zero"] == NO_FILE
    assert "107,374,182,400 bytes" in reasons["sparse.jpg"]
    assert peak_bytes() < 8 << 30


def test_a_source_that_is_a_pipe_is_refused(folder: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        os.mkfifo(folder / name)
        with pytest.raises(CorpusError, match=NO_FILE):
            update(folder / name)


@pytest.mark.parametrize(("name", "kind"), [("s.csv", None), ("s.jsonl", None), ("s.tsv", None), ("s.txt", "list")])
def test_a_line_without_end_is_not_read(folder: Path, name: str, kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_texts, "LONGEST_CELL", 1 << 20)
    monkeypatch.setattr(listed, "_LONGEST", 1 << 20)
    with (folder / name).open("wb") as file:
        file.write(b"image\n" * 2 + b"[")
        file.truncate(100 << 30)
    with pytest.raises(CorpusError, match="a line of more than 1,048,576"):
        update(folder / name, SourceOptions(kind=kind))  # type: ignore[arg-type]


@pytest.mark.parametrize("compression", ["zstd", "gzip", "brotli"])
def test_a_parquet_file_that_unpacks_to_much_is_refused(
    folder: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "LONGEST_CELL", 1 << 22)
    path, rows = folder / "rows.parquet", {"image": [(folder / "good.png").read_bytes()], "note": ["a"]}
    pq.write_table(pa.table(rows), path)
    assert update(path).total == 1
    bomb = pa.table({**rows, "note": ["a" * (1 << 23)]})
    pq.write_table(bomb, path, compression=compression, use_dictionary=False)
    with pytest.raises(CorpusError, match="bytes unpack to 8,39"):
        update(path)
    pq.write_table(bomb, path, compression="none", use_dictionary=False)
    assert update(path).total == 1


def test_files_that_are_read_whole_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1000)
    with (folder / "large").open("wb") as file:
        file.truncate(1001)
    with pytest.raises(OSError, match="it has 1,001 bytes, more than 1,000"):
        files.LocalFiles().read(str(folder / "large"))


def test_only_regular_files_are_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for path in (folder / "pipe", folder, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(OSError, match=NO_FILE):
            open_regular(path)
    assert not any(read_metadata(folder / "pipe"))
    with open_regular(folder / "good.png") as file:
        assert file.read(4) == b"\x89PNG"
