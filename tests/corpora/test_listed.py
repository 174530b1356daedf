"""Lists of paths and URLs, from tables and from lines of text."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llm2clip_search.corpora import Item
from llm2clip_search.corpora.listed import ListCorpus
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.table_columns import kind_of_table
from llm2clip_search.errors import CorpusError
from tests.support.corpus import write_csv
from tests.support.tables import images, write_parquet


def photos(folder: Path, *names: str) -> list[bytes]:
    """Write images with different content."""
    found = images(len(names))
    for name, data in zip(names, found, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return found


def listed(path: Path, **options: Any) -> ListCorpus:
    return ListCorpus(str(path), options=SourceOptions(kind="list", **options))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format of a file's name."""
    if path.suffix == ".parquet":
        return write_parquet(path, pa.Table.from_pylist(rows))
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return path
    return write_csv(path, rows)


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.csv.gz", "list.parquet", "list.jsonl"])
def test_the_images_of_a_table_have_its_columns(tmp_path: Path, name: str) -> None:
    contents = photos(tmp_path / "data", "a.jpg", "b/c.jpg")
    rows = [
        {"id": 7, "TEXT": "a dog", "image_path": "a.jpg", "width": 5},
        {"id": 8, "TEXT": "a cat", "image_path": "b/c.jpg", "width": 6},
    ]
    path = write(tmp_path / "data" / name, rows)
    assert kind_of_table(str(path)) == "list"
    corpus = listed(path)
    items = list(corpus.items())
    assert [item.uri for item in items] == [str(tmp_path / "data/a.jpg"), str(tmp_path / "data/b/c.jpg")]
    assert [corpus.open(item) for item in items] == contents
    assert items[1].columns == {"source_id": 8, "caption": "a cat", "source_width": 6}
    assert items[0].version.startswith(str((tmp_path / "data/a.jpg").stat().st_mtime_ns))
    assert items[0].size == len(contents[0])
    schema = corpus.schema()
    assert schema is not None
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "source_id": pa.int64(),
        "caption": pa.string(),
        "source_width": pa.int64(),
    }
    assert corpus.uri == str(path)
    assert not corpus.is_partial
    assert [set(item.columns) for item in listed(path, columns=("id",)).items()] == [{"source_id"}] * 2


def test_urls_keep_their_version_and_are_listed_once(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *({"url": f"https://example.org/{number}.jpg", "caption": f"caption {number}"} for number in range(2000)),
        {"url": "https://example.org/3.jpg", "caption": "again"},
        {"url": "s3://bucket/a b.jpg", "caption": None},
    ]
    corpus = listed(write(tmp_path / "laion.parquet", rows))
    items = list(corpus.items())
    assert len(items) == 2001
    assert {item.version for item in items} == {"url"}
    assert items[3] == Item(
        uri="https://example.org/3.jpg", version="url", columns={"caption": "caption 3"}, described=items[3].described
    )
    assert items[-1].uri == "s3://bucket/a b.jpg"
    assert corpus.skipped().reasons() == ["rows that name an image again: 1"]
    assert list(corpus.items()) == items


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"url": "https://a/b", "image": "x.jpg"}, "url"),
        ({"key": "0", "image": "x.jpg"}, "image"),
        ({"caption": "a dog.", "local": "photos/x.JPEG"}, "local"),
        ({"page": "https://a/b", "n": 1}, "page"),
        ({"file_name": "IMG 1", "text": "y"}, "file_name"),
    ],
)
def test_the_column_is_told_from_names_and_values(tmp_path: Path, row: dict[str, Any], column: str) -> None:
    path = write(tmp_path / "list.csv", [row])
    assert kind_of_table(str(path)) == "list"
    [item] = listed(path).items()
    assert item.uri in (row[column], str(tmp_path / str(row[column])))


def test_a_table_that_names_nothing_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", [{"caption": "a dog", "n": 1}])
    assert kind_of_table(str(path)) == "table"
    with pytest.raises(CorpusError, match=r"No column of .*list\.csv holds paths or URLs of images; it has caption, n"):
        list(listed(path).items())
    with pytest.raises(CorpusError, match="has no column 'x'"):
        list(listed(path, image="x").items())
    [item] = listed(path, image="caption").items()
    assert item.uri == str(tmp_path / "a dog")
    with pytest.raises(CorpusError, match=r"no\.csv cannot be read: No such file"):
        list(listed(tmp_path / "no.csv").items())
    with pytest.raises(CorpusError, match=r"no\.txt cannot be read: No such file"):
        list(listed(tmp_path / "no.txt").items())


def test_rows_without_an_image_are_failures(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg", "folder.jpg/b.jpg")
    (tmp_path / "list.csv").write_text("file,n\na.jpg,1\n,2\ngone.jpg,3\nunmounted/a.jpg,4\nfolder.jpg,5\na,b,c\n")
    corpus = listed(tmp_path / "list.csv")
    items = list(corpus.items())
    assert [item.fault for item in items] == [
        *("", "the row names no image", "No such file or directory", "", "a folder, not a file"),
        "the row has 3 cells where the header has 2",
    ]
    with pytest.raises(FileNotFoundError):
        corpus.open(items[3])
    assert [item.uri.removeprefix(str(tmp_path)) for item in items] == [
        *("/a.jpg", "/list.csv#row=1", "/gone.jpg", "/unmounted/a.jpg", "/folder.jpg", "/list.csv#row=5")
    ]


def test_lines_of_a_file(tmp_path: Path) -> None:
    contents = photos(tmp_path, "a b.jpg", "ü.jpg", "#c.jpg")
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa b.jpg\r\n\n  \n" + "ü.jpg\n./#c.jpg\na b.jpg\nhttps://a/b?c=d#e\n".encode())
    corpus = listed(path)
    items = list(corpus.items())
    assert [corpus.open(item) for item in items[:3]] == contents
    assert items[3].uri == "https://a/b?c=d#e"
    assert len(items) == 4
    path.write_text((tmp_path / "a b.jpg").as_uri())
    [item] = corpus.items()
    assert item.uri == str(tmp_path / "a b.jpg")


@pytest.mark.parametrize("null", [False, True])
def test_lines_of_a_stream_are_kept_for_listing_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, null: bool
) -> None:
    names = ["line\nbreak.jpg", "b.jpg"] if null else ["a.jpg", "b.jpg"]
    contents = photos(tmp_path, *names)
    text = ("\0" if null else "\n").join(names).encode()
    monkeypatch.chdir(tmp_path)
    options = SourceOptions(kind="list", null_separated=null)
    corpus = ListCorpus(str(tmp_path), options=options, stream=io.BytesIO(text))
    assert next(corpus.items()).uri == str(tmp_path / names[0])
    for _ in range(2):
        assert [corpus.open(item) for item in corpus.items()] == contents
    assert corpus.is_partial
    assert corpus.schema() is None


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = b"\xff.jpg"
    target = tmp_path / name.decode("utf-8", "surrogateescape")
    target.write_bytes(images(1)[0])
    corpus = ListCorpus(str(tmp_path), stream=io.BytesIO(name))
    [item] = corpus.items()
    assert corpus.open(item) == images(1)[0]


def test_a_long_stream_is_read_in_blocks(tmp_path: Path) -> None:
    count = 60_000
    text = "".join(f"https://example.org/{'x' * 30}/{number}.jpg\n" for number in range(count)).encode()
    assert len(text) > 2 << 20
    corpus = ListCorpus(str(tmp_path), stream=io.BytesIO(text))
    uris = [item.uri for item in corpus.items()]
    assert len(uris) == count
    assert uris[-1].endswith(f"/{count - 1}.jpg")


def test_space_around_a_line_is_left_out_unless_it_belongs_to_the_name(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg", "b.jpg", "c.jpg", "c.jpg ")
    path = tmp_path / "list.txt"
    path.write_text("a.jpg  \n\t b.jpg\r\nc.jpg \n c.jpg\n https://host/d.jpg \r\n")
    items = list(listed(path).items())
    local = [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg ", "c.jpg")]
    assert [item.uri for item in items] == [*local, "https://host/d.jpg"]
    assert [item.fault for item in items] == [""] * 5
    path.write_bytes(b" c.jpg\0c.jpg \0")
    items = list(listed(path, null_separated=True).items())
    assert [item.uri for item in items] == [str(tmp_path / " c.jpg"), str(tmp_path / "c.jpg ")]
    assert [bool(item.fault) for item in items] == [True, False]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_lines_in_utf_16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """As ``>`` of Windows PowerShell writes them; read in pieces that end within a letter."""
    monkeypatch.setattr("llm2clip_search.corpora.listed._READ", 5)
    contents = photos(tmp_path, "a.jpg", "日本 \N{CAT FACE}.jpg", "\u0a0d.jpg")
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffa.jpg\r\n日本 \N{CAT FACE}.jpg\r\n\u0a0d.jpg\r\n".encode(encoding))
    corpus = listed(path)
    assert [corpus.open(item) for item in corpus.items()] == contents
    stream = ListCorpus(str(tmp_path), options=SourceOptions(kind="list"), stream=io.BytesIO(path.read_bytes()))
    assert [stream.open(item) for item in stream.items()] == contents
