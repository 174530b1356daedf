"""Buckets, URLs and what lies in them through an index: the same rows as from a folder, and only changes cost."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2clip_search.corpora import SourceOptions
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.encoders import Encoder
from llm2clip_search.engine import SearchIndex
from llm2clip_search.indexers import IndexConfig, IndexSummary, index_corpus
from llm2clip_search.store import Snapshot
from tests.support.corpus import write_tar
from tests.support.encoders import ColourEncoder
from tests.support.images import png
from tests.support.reads import note_reads
from tests.support.s3 import KEYS, fill_bucket, remove_objects, s3_server
from tests.support.web import Page, Request, web_server

NAMES = [f"p{number:02d}.png" for number in range(40)]
SECRETS = ("s3cr3t", KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"])
PRIVATE = SourceOptions(allow_private=True)
LIST = SourceOptions(kind="list", allow_private=True)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        yield address


def run(source: str | Path, index: Path, encoder: Encoder, options: SourceOptions = PRIVATE) -> IndexSummary:
    [corpus] = open_corpora([source], options)
    return index_corpus(corpus, encoder=encoder, index=index, config=IndexConfig(batch_size=8, threads=2))


def vectors(index: Path) -> dict[str, bytes]:
    """Vectors by file name."""
    snapshot = Snapshot(index)
    found = snapshot.metadata().to_pylist()
    return {row["path"].rpartition("/")[2].rpartition("#")[2]: snapshot.vectors([row["id"]]).tobytes() for row in found}


def page(content: bytes) -> Page:
    return lambda request: request.ranged(content, ETag='"e"')


def pictures(first: int = 0) -> dict[str, bytes]:
    return {name: png(first + number) for number, name in enumerate(NAMES)}


def test_every_place_gives_the_vectors_of_a_folder_and_a_second_run_reads_nothing(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for name, content in pictures().items():
        (tmp_path / "photos" / name).write_bytes(content)
    run(tmp_path / "photos", tmp_path / "folder", ColourEncoder())
    expected = vectors(tmp_path / "folder")
    assert len(expected) == 40
    write_tar(tmp_path / "0.tar", pictures())
    fill_bucket(endpoint, "places", {f"photos/{name}": content for name, content in pictures().items()})
    fill_bucket(endpoint, "places", {"shards/0.tar": (tmp_path / "0.tar").read_bytes()})
    pages = {f"/{name}": page(content) for name, content in pictures().items()}
    pages["/0.tar"] = page((tmp_path / "0.tar").read_bytes())
    with web_server(pages) as server:
        urls = [f"{server.url}/{name}" for name in NAMES]
        pq.write_table(pa.table({"url": urls}), tmp_path / "urls.parquet")
        (tmp_path / "urls.txt").write_text("\n".join(urls))
        pages["/urls.parquet"] = page((tmp_path / "urls.parquet").read_bytes())
        server.pages = pages
        sources: dict[str | Path, SourceOptions] = {
            "s3://places/photos": PRIVATE,
            "s3://places/shards": PRIVATE,
            "s3://places/shards/{0..0}.tar": PRIVATE,
            f"{server.url}/0.tar": PRIVATE,
            f"{server.url}/urls.parquet": PRIVATE,
            tmp_path / "urls.parquet": PRIVATE,
            tmp_path / "urls.txt": LIST,
        }
        read = note_reads(monkeypatch)
        for number, (source, options) in enumerate(sources.items()):
            encoder, index = ColourEncoder(), tmp_path / str(number)
            first = run(source, index, encoder, options)
            assert (first.indexed, first.failures) == (40, []), source
            assert vectors(index) == expected, source
            assert [each for each in read if ".png" in each or "parts" in each], source
            server.hits.clear()
            read.clear()
            second = run(source, index, encoder, options)
            assert (second.indexed, second.unchanged, encoder.embedded) == (0, 40, 40), source
            assert not {*server.hits} & {f"/{name}" for name in NAMES}, source
            assert not [each for each in read if ".png" in each or "parts" in each], source


def test_ten_changed_ten_moved_and_ten_removed_objects_cost_ten_embeddings(endpoint: str, tmp_path: Path) -> None:
    encoder = ColourEncoder()
    fill_bucket(endpoint, "edited", {f"p/{name}": content for name, content in pictures().items()})
    run("s3://edited/p", tmp_path / "i", encoder)
    changed = {f"p/{name}": content for name, content in list(pictures(first=100).items())[:10]}
    moved = {f"p/moved/{name}": content for name, content in list(pictures().items())[10:20]}
    fill_bucket(endpoint, "edited", {**changed, **moved})
    remove_objects(endpoint, "edited", [f"p/{name}" for name in NAMES[10:30]])
    done = run("s3://edited/p", tmp_path / "i", encoder)
    assert (done.indexed, done.reused, done.unchanged, done.total) == (10, 10, 10, 30)
    assert encoder.embedded == 50
    run("s3://edited/p", tmp_path / "fresh", encoder)
    assert vectors(tmp_path / "i") == vectors(tmp_path / "fresh")


def test_failures_of_urls_are_rows_with_their_reasons(tmp_path: Path) -> None:
    pages: dict[str, Page] = {
        "/good.png": page(png(1)),
        "/page": lambda request: request.answer(b"<html>", Content_Type="text/html"),
        "/noai.png": lambda request: request.answer(png(2), X_Robots_Tag="noai"),
        "/huge.png": lambda request: request.answer(b"x", Content_Length=str(10 << 30)),
        "/text.png": page(b"this is no image"),
        "/inwards": lambda request: request.answer(status=302, Location="http://127.0.0.1:1/x"),
    }
    with web_server(pages) as server:
        names = [*pages, "/missing.png"]
        (tmp_path / "urls.txt").write_text("\n".join([*(server.url + name for name in names), "gopher://host/a.png"]))
        done = run(tmp_path / "urls.txt", tmp_path / "i", ColourEncoder(), LIST)
        refused = run(tmp_path / "urls.txt", tmp_path / "j", ColourEncoder(), SourceOptions(kind="list"))
    reasons = {each["path"].removeprefix(server.url): (each["stage"], each["reason"]) for each in done.failures}
    assert done.indexed == 1
    assert reasons["/page"] == ("read", "the server sends text/html, not an image")
    assert reasons["/noai.png"] == ("read", "its server forbids it to be indexed: X-Robots-Tag noai")
    assert reasons["/huge.png"] == ("read", "it has 10,737,418,240 bytes, more than 268,435,456")
    assert reasons["/missing.png"] == ("read", "the server has no such page (status 404)")
    assert reasons["/text.png"][0] == "header"
    assert reasons["/inwards"] == ("read", "127.0.0.1 cannot be reached: connection refused, 3 times")
    assert reasons["gopher://host/a.png"] == ("read", "Nothing here reads gopher:// addresses, as of gopher://host")
    assert len(reasons) == 7
    assert refused.indexed == 0
    assert len(refused.failures) == 8
    assert all("of this machine or a private network" in each["reason"] for each in refused.failures[:7])


def test_addresses_in_cells_of_a_table_are_as_private_as_the_source_may_be(tmp_path: Path) -> None:
    with web_server({"/a.png": page(png(1))}) as server:
        cells = [{"bytes": png(2), "path": None}, {"bytes": None, "path": f"{server.url}/a.png"}]
        pq.write_table(pa.table({"image": cells}), tmp_path / "t.parquet")
        refused = run(tmp_path / "t.parquet", tmp_path / "i", ColourEncoder(), SourceOptions())
        allowed = run(tmp_path / "t.parquet", tmp_path / "j", ColourEncoder(), PRIVATE)
        hits = SearchIndex(Snapshot(tmp_path / "j"), ColourEncoder()).query("red").hits
        assert {hit.open() for hit in hits} == {png(1), png(2)}
        [elsewhere] = [hit for hit in hits if hit.open() == png(1)]
        with pytest.raises(OSError, match="private network"):
            replace(elsewhere, options=SourceOptions()).open()
        pq.write_table(pa.table({"url": [f"{server.url}/a.png"]}), tmp_path / "urls.parquet")
        run(tmp_path / "urls.parquet", tmp_path / "k", ColourEncoder(), PRIVATE)
        [listed] = SearchIndex(Snapshot(tmp_path / "k"), ColourEncoder()).query("red").hits
        assert (listed.uri, listed.open()) == (f"{server.url}/a.png", png(1))
    assert (refused.indexed, allowed.indexed, allowed.failures) == (1, 2, [])
    assert "private network" in refused.failures[0]["reason"]


def test_secrets_of_addresses_are_neither_stored_nor_needed_for_a_second_run(tmp_path: Path) -> None:
    with web_server({f"/{name}": page(content) for name, content in pictures().items()}) as server:

        def write(signature: str) -> None:
            urls = [f"{server.url}/{name}?v=1&X-Amz-Signature={signature}&X-Amz-Expires=9" for name in NAMES[:20]]
            urls += [f"{server.url.replace('://', f'://me:{signature}@')}/{name}" for name in NAMES[20:]]
            pq.write_table(pa.table({"url": urls}), tmp_path / "urls.parquet")

        encoder = ColourEncoder()
        write("s3cr3t-one")
        first = run(tmp_path / "urls.parquet", tmp_path / "i", encoder)
        assert (first.indexed, first.failures) == (40, [])
        assert all("s3cr3t" in path or "/p" in path for path in server.hits)
        assert sum("s3cr3t" in path for path in server.hits) == 20
        write("s3cr3t-two")
        second = run(tmp_path / "urls.parquet", tmp_path / "i", encoder)
        assert (second.indexed, second.unchanged, encoder.embedded) == (0, 40, 40)
    for file in (tmp_path / "i").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(secret.encode() in content for secret in SECRETS), file
    assert {row["path"] for row in Snapshot(tmp_path / "i").metadata().to_pylist()} == {
        *(f"{server.url}/{name}?v=1" for name in NAMES[:20]),
        *(f"{server.url}/{name}" for name in NAMES[20:]),
    }


def test_an_error_and_what_an_index_says_of_a_bucket_hold_no_keys(endpoint: str, tmp_path: Path) -> None:
    fill_bucket(endpoint, "secretive", {"p/a.png": png(1), "p/b.png": b"no image"})
    done = run("s3://secretive/p", tmp_path / "i", ColourEncoder())
    assert (done.indexed, done.failed) == (1, 1)
    for file in (tmp_path / "i").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(secret.encode() in content for secret in SECRETS), file


def test_slow_servers_are_waited_for_together(tmp_path: Path) -> None:
    """40 images of 0.1 s each take 4 s one by one, and 2 s in two decoding threads."""

    def slow(content: bytes) -> Page:
        def answer(request: Request) -> None:
            time.sleep(0.1)
            request.ranged(content)

        return answer

    with web_server({f"/{name}": slow(content) for name, content in pictures().items()}) as server:
        (tmp_path / "urls.txt").write_text("\n".join(f"{server.url}/{name}" for name in NAMES))
        done = run(tmp_path / "urls.txt", tmp_path / "i", ColourEncoder(), LIST)
        assert done.indexed == 40
        assert server.most_at_once > 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
