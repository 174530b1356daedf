"""Buckets of a real S3 server, and folders of fsspec: listing, reading, what is left out, and what goes wrong."""

import io
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm2clip_search.corpora import FolderCorpus, Item, SourceOptions, read_ahead
from llm2clip_search.corpora.corpus import ItemReader
from llm2clip_search.corpora.decode import Decoded, decode_ahead
from llm2clip_search.corpora.files import Files, files_of
from llm2clip_search.corpora.range_file import RangeFile, buffered
from llm2clip_search.corpora.read_ahead import READS, ReadAhead
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.corpora.remote import RemoteFolder
from llm2clip_search.errors import CorpusError
from tests.support.images import PREPROCESS
from tests.support.s3 import KEYS, fill_bucket, s3_server

BODY = bytes(range(256)) * 1000
ODD = ("a b.jpg", "ü.jpg", "100%.jpg", "%41.jpg", "x#y.jpg", "q?z.jpg", "p+q.jpg", "t~[x].jpg", "日本.png", "a&b=c.jpg")
TREE = (
    *("a.jpg", "b/c.PNG", "b/d/e.webp", "z.jpeg"),
    *(".hidden.jpg", ".git/x.jpg", "b/@eaDir/x.jpg", "b/@eaDir/deep/y.jpg", "b/Thumbs.db", "._a.jpg"),
    *("_SUCCESS", ".part.crc", "part.crc", "n.txt.bak", "no", "c.jxx", "raw/w.x3f", "drafts/a.jpg", "drafts/b/c.jpg"),
)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        fill_bucket(address, "files", {"data.bin": BODY, "empty.bin": b""})
        yield address


@pytest.fixture(params=["s3", "memory"])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """A folder elsewhere with the files of `TREE`."""
    if request.param == "s3":
        fill_bucket(request.getfixturevalue("endpoint"), "tree", {f"top/{name}": b"x" for name in TREE})
        yield "s3://tree/top"
    else:
        system = fsspec.filesystem("memory")
        for name in TREE:
            system.pipe_file(f"/top/{name}", b"x")
        yield "memory://top"
        system.rm("/top", recursive=True)


@pytest.mark.parametrize("options", [{}, {"everything": True}, {"exclude": ("drafts", "*.webp")}])
def test_a_prefix_is_read_as_a_folder_with_the_same_files(
    place: str, tmp_path: Path, options: dict[str, object]
) -> None:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    here = FolderCorpus(tmp_path, **options)  # type: ignore[arg-type]
    there = RemoteFolder(place, options=SourceOptions(**options))  # type: ignore[arg-type]
    expected = {item.uri.removeprefix(str(tmp_path)) for item in here.items()}
    found = [item.uri.removeprefix(place) for item in there.items()]
    assert set(found) == expected
    assert len(found) == len(expected) > 2
    assert there.skipped() == here.skipped()
    assert [item.uri for item in there.items()] == [f"{place}{name}" for name in found]


def test_an_ignore_file_of_a_bucket_counts(endpoint: str) -> None:
    fill_bucket(endpoint, "ignoring", {"a.jpg": b"x", "b.jpg": b"x", ".llm2clipignore": b"a.*\n"})
    assert [item.uri for item in RemoteFolder("s3://ignoring").items()] == ["s3://ignoring/b.jpg"]


def test_any_key_is_read_as_it_is_listed(endpoint: str) -> None:
    fill_bucket(endpoint, "odd", {f"p/{name}": name.encode() for name in ODD})
    corpus = RemoteFolder("s3://odd/p/")
    assert {item.uri: corpus.open(item) for item in corpus.items()} == {f"s3://odd/p/{n}": n.encode() for n in ODD}


@pytest.mark.parametrize("scheme", ["s3", "memory", "file"])
def test_files_are_read_whole_by_ranges_and_as_files(
    scheme: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if scheme == "s3":
        request.getfixturevalue("endpoint")
    folder = {"s3": "s3://files", "memory": "memory://files", "file": f"file://{tmp_path}"}[scheme]
    if scheme != "s3":
        system, base = fsspec.core.url_to_fs(folder)
        system.pipe_file(f"{base}/data.bin", BODY)
    files, uri = files_of(folder), f"{folder}/data.bin"
    assert files is files_of(uri)
    status = files.status(uri)
    assert status.uri == uri
    assert status.size == len(BODY)
    assert status.version
    assert [each for each in files.walk(folder) if each.uri == uri] == [status]
    assert files.read(uri) == BODY
    assert files.read_range(uri, 1000, 300) == BODY[1000:1300]
    assert files.read_range(uri, len(BODY) - 10, 300) == BODY[-10:]
    assert files.read_range(uri, 5, 0) == b""
    with files.open(uri) as file:
        assert file.read(7) == BODY[:7]
        file.seek(-3, io.SEEK_END)
        assert file.read() == BODY[-3:]
        file.seek(100_000)
        assert file.read(50_000) == BODY[100_000:150_000]
    with pytest.raises(FileNotFoundError):
        files.read(f"{folder}/missing.bin")
    with pytest.raises(FileNotFoundError):
        files.status(f"{folder}/missing.bin")


def test_a_changed_object_has_another_version(endpoint: str) -> None:
    files, versions = files_of("s3://changing"), list[str]()
    for body in (b"one", b"one", b"two"):
        fill_bucket(endpoint, "changing", {"a.jpg": body})
        versions.append(files.status("s3://changing/a.jpg").version)
    assert versions[0] == versions[1] != versions[2]


def _place(uri: str) -> Files:
    """A place whose connection is made anew, with the environment as it is."""
    from llm2clip_search.corpora.object_store import ObjectStoreFiles

    return ObjectStoreFiles(uri)


def test_a_bucket_that_is_not_there_is_told_in_one_sentence(endpoint: str) -> None:
    with pytest.raises(CorpusError, match=r"^s3://no-such-bucket/x cannot be read: there is no such bucket\.$"):
        list(RemoteFolder("s3://no-such-bucket/x").items())
    [corpus] = open_corpora(["s3://files/missing.jpg"])
    with pytest.raises(CorpusError, match=r"^s3://files/missing\.jpg cannot be read: there is no such object\.$"):
        list(corpus.items())


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (403, "AccessDenied", "the server denies access to it"),
        (403, "InvalidAccessKeyId", "the server does not accept the credentials"),
        (403, "SignatureDoesNotMatch", "the server does not accept the credentials"),
        (301, "PermanentRedirect", "the bucket is in another region than the one that is set (AWS_REGION)"),
        (400, "AuthorizationHeaderMalformed", "the bucket is in another region than the one that is set (AWS_REGION)"),
        (404, "NoSuchBucket", "there is no such bucket"),
        (418, "Teapot", "the object store fails (GenericError)"),
    ],
)
def test_faults_of_a_bucket_are_sentences_without_secrets(
    status: int, code: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.web import Request, web_server

    pytest.importorskip("obstore")

    def page(request: Request) -> None:
        body = f"<Error><Code>{code}</Code><Message>no {KEYS['AWS_SECRET_ACCESS_KEY']}</Message></Error>".encode()
        request.answer(body, status, Content_Type="application/xml")

    with web_server({"/bucket": page, "/bucket/a.jpg": page}) as server:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": server.url}.items():
            monkeypatch.setenv(name, value)
        files = _place("s3://bucket")
        for call in (lambda: list(files.walk("s3://bucket")), lambda: files.read("s3://bucket/a.jpg")):
            with pytest.raises(OSError) as caught:  # noqa: PT011 - compared below
                call()
            assert str(caught.value) == reason


def test_credentials_of_a_profile_are_used_where_the_environment_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.web import Request, web_server

    pytest.importorskip("obstore")
    with web_server({"/bucket/a.jpg": lambda request: Request.answer(request, b"x")}) as server:
        (tmp_path / "credentials").write_text("[work]\naws_access_key_id = FROMPROFILE\naws_secret_access_key = s\n")
        (tmp_path / "config").write_text(f"[profile work]\nregion = eu-west-3\nendpoint_url = {server.url}\n")
        for name in (*KEYS, "AWS_ENDPOINT_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_PROFILE", "work")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        assert _place("s3://bucket").read("s3://bucket/a.jpg") == b"x"
        [sent] = server.headers
        assert "Credential=FROMPROFILE/" in sent["authorization"]
        assert "/eu-west-3/s3/" in sent["authorization"]


def test_what_no_package_reads_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match=r"^Nothing here reads nonsense:// addresses"):
        files_of("nonsense://x/y")
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(CorpusError, match=r"needs the package obstore") as caught:
        _place("gs://bucket")
    assert caught.value.hint.endswith("'llm2clip-search[gcs]'.")


def test_web_servers_are_not_listed() -> None:
    with pytest.raises(OSError, match=r"does not list its files"):
        list(files_of("https://example.com/photos").walk("https://example.com/photos"))


@pytest.mark.parametrize(
    ("source", "uris"),
    [
        ("s3://tars/{0..1}.tar", ["s3://tars/0.tar", "s3://tars/1.tar"]),
        ("s3://tars/*.tar", ["s3://tars/0.tar", "s3://tars/1.tar"]),
        ("s3://tars", ["s3://tars/0.tar", "s3://tars/1.tar", "s3://tars/deep/2.tar"]),
    ],
)
def test_shards_in_a_bucket_are_named_by_braces_stars_or_their_prefix(
    endpoint: str, source: str, uris: list[str]
) -> None:
    fill_bucket(endpoint, "tars", {name: bytes(1024) for name in ("0.tar", "1.tar", "deep/2.tar", "x.txt")})
    items = [item for corpus in open_corpora([source]) for item in corpus.items()]
    assert [item.uri for item in items] == uris
    assert all(item.is_container for item in items)


def test_a_file_that_nothing_reads_is_refused_unless_its_kind_is_said(endpoint: str) -> None:
    with pytest.raises(CorpusError, match=r"^s3://files/data\.bin is a \.bin, which nothing here reads as images\.$"):
        open_corpora(["s3://files/*.bin"])
    [corpus] = open_corpora(["s3://files/data.bin"], SourceOptions(kind="tar"))
    assert [item.is_container for item in corpus.items()] == [True]
    with pytest.raises(CorpusError, match=r"^No file matches s3://files/\*\.tar\.$"):
        open_corpora(["s3://files/*.tar"])


@settings(deadline=None)
@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 320), st.integers(0, 120)), max_size=12))
def test_a_file_of_ranges_reads_as_one_in_memory(content: bytes, moves: list[tuple[int, int]]) -> None:
    file = buffered(lambda offset, size: content[offset : offset + size], len(content))
    twin = io.BytesIO(content)
    for position, count in moves:
        assert file.seek(position) == twin.seek(position)
        assert file.read(count) == twin.read(count)
        assert file.read(3) == twin.read(3)
        assert file.tell() == twin.tell()


def test_ranges_grow_while_a_file_is_read_on() -> None:
    asked: list[tuple[int, int]] = []

    def read(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return bytes(size)

    total = 64 << 20
    file = io.BufferedReader(RangeFile(read, total))
    file.seek(-8, io.SEEK_END)
    file.read(8)
    file.seek(0)
    while file.read(10_000):
        pass
    assert asked[0] == (total - 8, 8)
    sizes = [size for _, size in asked[1:]]
    assert sum(sizes) == total
    assert sizes[0] == 64 << 10
    assert max(sizes) == 8 << 20
    assert len(sizes) < 20


def test_a_file_that_ends_too_early_is_an_error() -> None:
    file = buffered(lambda offset, size: bytes(10) if offset == 0 else b"", 100)
    with pytest.raises(OSError, match="ends after 10 of 100 bytes"):
        file.read(50)


class _Slow(ItemReader):
    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def open(self, item: Item) -> bytes:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1
        if item.uri.endswith("13"):
            raise OSError("thirteen")
        return item.uri.encode()


def test_items_elsewhere_are_read_at_once_and_those_of_this_machine_when_they_are_opened() -> None:
    slow = _Slow()
    items = [Item(uri=f"{'s3://b/' if number % 8 else '/local/'}{number}") for number in range(64)]
    ahead = ReadAhead(slow, largest=100)
    listed = list(ahead.listed(items))
    for item in listed:
        if item.uri.endswith("13"):
            with pytest.raises(OSError, match="thirteen"):
                ahead.open(item)
        else:
            assert ahead.open(item) == item.uri.encode()
    ahead.stop()
    assert listed == items
    assert 16 < slow.most <= READS + 1


def test_what_is_too_large_or_listed_with_its_content_is_not_read_ahead() -> None:
    slow = _Slow()
    items = [
        Item(uri="s3://b/1", size=101),
        Item(uri="s3://b/2", data=b"x"),
        Item(uri="s3://b/3", fault="none"),
        Item(uri="s3://b/4", is_container=True),
    ]
    ahead = ReadAhead(slow, largest=100)
    assert list(ahead.listed(items)) == items
    time.sleep(0.05)
    assert slow.most == 0


def test_a_run_that_stops_does_not_wait_for_a_slow_server() -> None:
    class Hanging(ItemReader):
        def open(self, item: Item) -> bytes:
            released.wait(20.0)
            return b""

    released = threading.Event()
    items = [Item(uri=f"https://host/{number}.png") for number in range(50)]
    started = time.monotonic()
    results = decode_ahead(Hanging(), [Decoded(item=items[0]), *items], PREPROCESS, threads=2, ahead=8)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5.0
    released.set()


class _Counting(ItemReader):
    """Items of as many bytes as their names say; counts those that were read and not yet taken."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.held = self.most = self.begun = 0

    def open(self, item: Item) -> bytes:
        size = int(item.uri.rpartition("/")[2])
        with self.changed:
            self.begun += 1
            self.held += size
            self.most = max(self.most, self.held)
            self.changed.notify_all()
        return bytes(size)

    def take(self, data: bytes) -> None:
        with self.changed:
            self.held -= len(data)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=300), shuffled=st.none() | st.randoms())
@example(sizes=[50] * 2000, shuffled=None)
def test_what_was_read_ahead_has_bounded_bytes(sizes: list[int], shuffled: random.Random | None) -> None:
    """In whatever order items are opened, and though nobody knows their sizes, all are read."""
    items = [Item(uri=f"https://host/{size}") for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_ahead, "HELD_BYTES", 200)
        patch.setattr(read_ahead, "READS", 4)
        reader = _Counting()
        ahead = ReadAhead(reader, largest=100)
        order = list(ahead.listed(items))
        with reader.changed:  # at least these can be held together
            assert reader.changed.wait_for(lambda: reader.begun >= min(len(items), 200 // 50), 20.0)
        if shuffled is not None:
            shuffled.shuffle(order)
        for item in order:
            data = ahead.open(item)
            assert len(data) == int(item.uri.rpartition("/")[2])
            reader.take(data)
        ahead.stop()
    assert reader.held == 0
    if shuffled is None:  # what is waited for is read in any case
        assert reader.most <= 200 + (4 + 1) * 50
