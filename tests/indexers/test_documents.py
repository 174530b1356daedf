"""Folders of PDFs, videos and images through an index."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm2clip_search import open_index
from llm2clip_search.corpora import SourceOptions, containers
from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.pdf import PdfContainer
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.corpora.video import VideoContainer
from llm2clip_search.encoders.images import read_rgb
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers import IndexSummary, index_corpus
from tests.support.documents import write_pdf
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.reads import note_reads
from tests.support.videos import moving, write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "archive"
    (made / "sub").mkdir(parents=True)
    scan([1, 2, 3], made / "sub" / "scan.pdf")
    write_video(made / "clip.mp4", moving(96, scenes=[48]))
    photograph(9).save(made / "photo.png")
    return made


def scan(seeds: list[int], path: Path) -> None:
    first, *others = (photograph(seed, (300, 400)) for seed in seeds)
    first.save(path, save_all=True, append_images=others)


def run(source: Path, encoder: ColourEncoder, index: Path | None = None, **options: Any) -> IndexSummary:
    [corpus] = open_corpora([source], SourceOptions(**options))
    return index_corpus(corpus, encoder=encoder, index=index or source / ".llm2clip")


def test_pages_and_frames_are_rows(folder: Path) -> None:
    encoder = ColourEncoder()
    first = run(folder, encoder)
    assert (first.failures, first.indexed, encoder.embedded) == ([], 6, 6)
    index = open_index(folder / ".llm2clip", encoder=encoder)
    hits = index.query("anything", k=10).hits
    names = {(Path(hit.file).name, hit.part, hit.exists) for hit in hits}
    assert names == {
        *(("scan.pdf", f"page={number}", True) for number in (1, 2, 3)),
        *(("clip.mp4", f"t={time}", True) for time in (0, 2)),
        ("photo.png", None, True),
    }
    assert all(read_rgb(hit.open()).width == hit.metadata["width"] for hit in hits)
    grouped = index.query("anything", k=10, per_file=1).hits
    assert sorted(Path(hit.file).name for hit in grouped) == ["clip.mp4", "photo.png", "scan.pdf"]
    pages = index.query("anything", where="format = 'PDF' AND width = 672", k=10).hits
    assert len(pages) == 3


def test_a_second_run_opens_what_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, opened = ColourEncoder(), list[str]()
    run(folder, encoder)
    for reader in (PdfContainer, VideoContainer):
        listed = reader.parts

        def parts(self: Any, files: Any, container: Item, options: Any, listed: Any = listed) -> Iterator[Item]:
            opened.append(Path(container.uri).name)
            yield from listed(self, files, container, options)

        monkeypatch.setattr(reader, "parts", parts)
    assert (run(folder, encoder).unchanged, opened, encoder.embedded) == (6, [], 6)
    scan([1, 4], folder / "sub" / "scan.pdf")
    changed = run(folder, encoder)
    assert opened == ["scan.pdf"]
    assert (changed.indexed, changed.removed, changed.total, encoder.embedded) == (1, 1, 5, 7)
    (folder / "clip.mp4").rename(folder / "renamed.mp4")
    moved = run(folder, encoder)
    assert (moved.reused, moved.total, encoder.embedded) == (2, 5, 7)
    more = run(folder, encoder, every=1.0)
    assert (more.total, encoder.embedded) == (7, 9)


def test_a_broken_image_beside_a_document_does_not_open_it_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a broken.png").write_bytes(b"broken")
    encoder = ColourEncoder()
    run(folder, encoder)

    def refuse(*_: object) -> None:
        raise AssertionError("it is opened")

    for reader in (PdfContainer, VideoContainer):
        monkeypatch.setattr(reader, "parts", refuse)
    again = run(folder, encoder)
    assert (again.indexed, again.failed, again.unchanged) == (0, 1, again.total)


def test_damaged_files_are_failures_beside_what_is_read(folder: Path) -> None:
    (folder / "bad.pdf").write_bytes(b"%PDF-1.7\n")
    write_pdf(folder / "locked.pdf", [(612, 792, "x")], locked=True)
    (folder / "empty.mkv").write_bytes(b"")
    done = run(folder, ColourEncoder())
    assert done.indexed == 6
    reasons = {Path(str(each["path"])).name: each["reason"] for each in done.failures}
    assert reasons["bad.pdf"].startswith("cannot be read as a PDF")
    assert reasons["locked.pdf"].startswith("is locked by a password")
    assert reasons["empty.mkv"].startswith("cannot be read as a video")


def test_texts_of_pages_are_passages(tmp_path: Path) -> None:
    folder, encoder = tmp_path / "texts", ColourEncoder()
    folder.mkdir()
    long = "\n".join(f"This is line {number} of a page with a long text." for number in range(20))
    write_pdf(folder / "a.pdf", [(612, 792, "A short page."), (612, 792, ""), (612, 792, long)])
    write_video(folder / "clip.mp4", moving(4))
    done = run(folder, encoder, modality="text")
    assert done.failures == []
    index = open_index(folder / ".llm2clip", encoder=encoder)
    hits = sorted(index.query("x", find="texts", k=100).hits, key=lambda hit: hit.uri)
    assert hits[0].part == "page=1&char=0,13"
    assert hits[0].text == "A short page."
    passages = [hit.part for hit in hits[1:]]
    assert len(passages) > 5
    assert all(part is not None and part.startswith("page=3&char=") for part in passages)
    assert run(folder, encoder, modality="text").unchanged == len(hits)


def test_without_the_packages_files_are_counted_and_named_ones_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pdf, video = PdfContainer(), VideoContainer()
    pdf.extra, video.extra = "pdf", "video"
    rest = tuple(each for each in containers.containers() if each.kind not in ("pdf", "video"))
    monkeypatch.setattr(containers, "containers", lambda: (pdf, video, *rest))
    containers._by_suffix.cache_clear()
    monkeypatch.setattr(containers, "_by_suffix", containers._by_suffix.__wrapped__)
    write_pdf(folder / "more.pdf", [(612, 792, "x")])
    done = run(folder, ColourEncoder())
    assert done.indexed == 1
    assert done.skipped.reasons() == [
        "1 .mp4 file skipped: pip install 'llm2clip-search[video]'",
        "2 .pdf files skipped: pip install 'llm2clip-search[pdf]'",
    ]
    assert done.skipped.to_dict()["types"][".pdf"] == {"files": 2, "extra": "pdf"}
    with pytest.raises(CorpusError, match=r"more\.pdf cannot be read without the extra \[pdf\]") as caught:
        open_corpora([folder / "more.pdf"])
    assert "pip install 'llm2clip-search[pdf]'" in caught.value.hint
    with pytest.raises(CorpusError, match=r"without the extra \[pdf\]"):
        containers.open_uri(f"{folder}/more.pdf#page=1")


NAMES = ("report.pdf#1.jpg", "data.csv#2.png", "clip.mp4#t=3.jpg", "notes.txt#1.jpg", "album.tar#1/x.jpg")


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside their documents"])
def test_images_with_names_of_parts_are_files(tmp_path: Path, beside: bool) -> None:
    """Exported pages and frames, in folders of such names too, and documents in these."""
    encoder, source = ColourEncoder(), tmp_path / "photos"
    names = {*NAMES, "talk.mp4#frames/t=1.jpg"}
    for number, name in enumerate(sorted(names)):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(number).save(source / name)
    scan([31, 32], source / "talk.mp4#frames" / "scan.pdf")
    if beside:
        scan([41, 42, 43], source / "report.pdf")
        write_video(source / "talk.mp4", moving(48, scenes=[]))
    first = run(source, encoder, tmp_path / "i")
    assert first.failures == []
    index = open_index(tmp_path / "i", encoder=encoder)
    hits = index.query("anything", k=50).hits
    assert len(hits) == first.indexed == len(names) + 2 + 4 * beside
    assert {str(Path(hit.file).relative_to(source)) for hit in hits if hit.part is None} == names
    assert {hit.part for hit in hits if hit.file.endswith("frames/scan.pdf")} == {"page=1", "page=2"}
    for hit in hits:
        assert hit.exists
        if hit.part is None:
            assert hit.open() == Path(hit.file).read_bytes()
        [found] = index.query(image=hit.uri, k=1).hits
        assert found.uri == hit.uri
    second = run(source, encoder, tmp_path / "i")
    assert (second.unchanged, second.indexed, second.reused, second.removed) == (first.total, 0, 0, 0)
    (source / "report.pdf#1.jpg").unlink()
    assert run(source, encoder, tmp_path / "i").removed == 1


def test_a_document_beside_its_exported_pages_stays_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, source = ColourEncoder(), tmp_path / "photos"
    source.mkdir()
    scan([1, 2, 3], source / "report.pdf")
    photograph(4).save(source / "report.pdf#1.jpg")
    run(source, encoder, tmp_path / "i")
    read = note_reads(monkeypatch)
    run(source, encoder, tmp_path / "i")
    assert read == []
    monkeypatch.undo()
    scan([1, 5], source / "report.pdf")
    done = run(source / "report.pdf", encoder, tmp_path / "i")  # a source of its own, which the picture is none of
    assert (done.removed, done.total) == (1, 3)
    assert run(source, encoder, tmp_path / "i").unchanged == 3
