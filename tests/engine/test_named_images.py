"""A query by an image that is no file of its own: a page, a frame, a member, a row, an address."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm2clip_search import ImageError, SearchIndex, index_corpus, open_index
from llm2clip_search.corpora import SourceOptions
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.corpora.web import WebFiles
from tests.support.corpus import write_tar
from tests.support.documents import write_pdf
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph, png
from tests.support.tables import write_parquet
from tests.support.videos import moving, write_video
from tests.support.web import web_server


@pytest.fixture
def index(tmp_path: Path) -> SearchIndex:
    """Pages, frames, members of a tar and rows of a table."""
    folder = tmp_path / "all"
    folder.mkdir()
    first, second = photograph(1, (300, 400)), photograph(2, (300, 400))
    first.save(folder / "scan.pdf", save_all=True, append_images=[second])
    write_video(folder / "clip.mp4", moving(96, scenes=[48]))
    write_tar(folder / "a.tar", {f"{number}.png": png(10 + number) for number in range(3)})
    write_parquet(folder / "b.parquet", {"image": [png(20), png(21)]})
    for source in (folder, folder / "a.tar", folder / "b.parquet"):
        [corpus] = open_corpora([source], SourceOptions())
        index_corpus(corpus, encoder=ColourEncoder(), index=tmp_path / "i")
    return open_index(tmp_path / "i", encoder=ColourEncoder())


def test_a_part_of_a_file_is_the_image_that_was_indexed(index: SearchIndex, tmp_path: Path) -> None:
    hits = index.query("anything", k=20).hits
    assert len(hits) == 9
    for hit in hits:
        [found] = index.query(image=hit.uri, k=1).hits
        assert found.uri == hit.uri
        assert found.score == pytest.approx(1.0, abs=2e-3)
    weighted = index.query("x", unlike=f"{tmp_path}/all/scan.pdf#page=2^0.5", k=9)
    assert weighted.hits[-1].uri.endswith("scan.pdf#page=2")


def test_an_address_is_fetched(index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    page = io.BytesIO()
    photograph(2, (300, 400)).save(page, "PDF")
    content = {"/a.png": png(11), "/s.pdf": page.getvalue(), "/html.png": b"<html>"}
    pages = {path: lambda request, data=data: request.ranged(data) for path, data in content.items()}
    with web_server(pages) as server:
        with pytest.raises(ImageError, match=r"a\.png: 127\.0\.0\.1 leads to the address .* private network"):
            index.query(image=f"{server.url}/a.png")
        fetcher = WebFiles(allow_private=True)
        monkeypatch.setattr("llm2clip_search.corpora.containers.files_of", lambda uri, options: fetcher)
        assert index.query(image=f"{server.url}/a.png", k=1).hits[0].uri.endswith("a.tar#1.png")
        assert index.query(image=f"{server.url}/s.pdf#page=1", k=1).hits[0].uri.endswith("scan.pdf#page=2")
        with pytest.raises(ImageError, match=rf"^{server.url}/html\.png: not an image but a web page"):
            index.query(image=f"{server.url}/html.png")
        with pytest.raises(ImageError, match=rf"^{server.url}/none\.png\?v=1: the server has no such page"):
            index.query(image=f"{server.url}/none.png?v=1&token=s3cr3t")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("scan.pdf#page=9", r"page=9: has no page 9 any more"),
        ("clip.mp4#t=900", "t=900: has no frame at 900 s any more"),
        ("a.tar#none.png", "nothing says where"),
        ("b.parquet#row=7", "does not hold it any more"),
        ("none.pdf#page=1", "No such file or directory"),
        ("scan.pdf#hello", "no such part"),
        ("b.parquet#hello", "no such part"),
        ("clip.mp4#hello", "no such part"),
        ("a#b.png", "No such file or directory"),
        ("gopher://host/a.png", "Nothing here reads gopher:// addresses"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(index: SearchIndex, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        index.query(image=name if "://" in name else f"{tmp_path}/all/{name}")


def test_a_file_whose_name_looks_like_a_part_is_that_file(index: SearchIndex, tmp_path: Path) -> None:
    Image.fromarray(np.asarray(photograph(10))).save(tmp_path / "scan.pdf#page=2", "PNG")
    assert index.query(image=f"{tmp_path}/scan.pdf#page=2", k=1).hits[0].uri.endswith("a.tar#0.png")


def test_a_locked_document_says_so(index: SearchIndex, tmp_path: Path) -> None:
    write_pdf(tmp_path / "locked.pdf", [(612, 792, "x")], locked=True)
    with pytest.raises(ImageError, match=r"locked\.pdf#page=1: .*password"):
        index.query(image=f"{tmp_path}/locked.pdf#page=1")
