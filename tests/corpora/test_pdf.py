"""Pages of PDFs."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image, ImageDraw

from llm2clip_search.base.memory import resident_bytes
from llm2clip_search.corpora.containers import open_item, open_uri
from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.files import LocalFiles
from llm2clip_search.corpora.named import item_of
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.pdf import PdfContainer
from llm2clip_search.errors import CorpusError, ImageError
from tests.support.documents import pdf, write_pdf
from tests.support.images import photograph

LETTER = (612, 792)


def pages(path: Path, files: LocalFiles | None = None, **options: str) -> Iterator[Item]:
    container = item_of(LocalFiles().status(str(path)), is_container=True)
    return PdfContainer().parts(files or LocalFiles(), container, SourceOptions(**options))  # type: ignore[arg-type]


def picture(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


def test_pages_show_what_they_hold_and_open_to_the_same_bytes(tmp_path: Path) -> None:
    scans = [photograph(seed, (600, 800)) for seed in range(3)]
    scans[0].save(tmp_path / "scan#1.PDF", save_all=True, append_images=scans[1:], quality=95)
    items = list(pages(tmp_path / "scan#1.PDF"))
    assert [item.uri for item in items] == [f"{tmp_path}/scan#1.PDF#page={number}" for number in (1, 2, 3)]
    for item, scan in zip(items, scans, strict=True):
        assert picture(item.data).size == (672, 896)
        small = [each.convert("RGB").resize((8, 8), Image.Resampling.BOX) for each in (picture(item.data), scan)]
        pairs = zip(*(each.tobytes() for each in small), strict=True)
        assert max(abs(one - other) for one, other in pairs) <= 3
        assert open_uri(item.uri, item.version) == item.data
        assert (item.size, item.columns, item.is_container) == (len(item.data or b""), {"format": "PDF"}, False)
    assert len({item.version for item in items}) == 1


def test_size_is_bounded(tmp_path: Path) -> None:
    sizes = [LETTER, (14400, 14400), (14400, 2), (2, 14400), (1, 1), (792, 612)]
    items = pages(write_pdf(tmp_path / "a.pdf", [(*size, "") for size in sizes]))
    assert [picture(item.data).size for item in items] == [
        (672, 870),
        (672, 672),
        (4096, 1),
        (1, 4096),
        (672, 672),
        (870, 672),
    ]


def test_a_rotated_page_stands_as_a_viewer_shows_it(tmp_path: Path) -> None:
    scan = Image.new("RGB", (200, 100), "white")
    ImageDraw.Draw(scan).rectangle((0, 0, 99, 99), fill="red")
    data = io.BytesIO()
    scan.save(data, "PDF")
    upright, turned = data.getvalue(), data.getvalue().replace(b"/MediaBox", b"/Rotate 90 /MediaBox")
    assert upright != turned  # PDFium finds the objects that have moved by itself
    (tmp_path / "a.pdf").write_bytes(turned)
    [item] = pages(tmp_path / "a.pdf")
    shown = picture(item.data)
    assert shown.size == (672, 1344)
    assert shown.getpixel((336, 300))[1] < 60  # type: ignore[index]
    assert shown.getpixel((336, 1000))[1] > 200  # type: ignore[index]


def test_texts_of_pages(tmp_path: Path) -> None:
    texts = ["Hello exam-\nple world\nthird line", "", "Café \\(ok\\)", " "]
    path = write_pdf(tmp_path / "a.pdf", [(*LETTER, text) for text in texts])
    items = list(pages(path, modality="text"))
    assert [(item.uri.removeprefix(str(path)), (item.data or b"").decode()) for item in items] == [
        ("#page=1&char=0,30", "Hello example world\nthird line"),
        ("#page=3&char=0,9", "Café (ok)"),
    ]
    assert all(open_uri(item.uri, item.version) == item.data for item in items)
    assert open_uri(f"{path}#page=1&char=6,13") == b"example"


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    good = pdf([(*LETTER, "one"), (*LETTER, "two")])
    cases = {
        "is locked by a password": pdf([(*LETTER, "x")], locked=True),
        "has no pages": pdf([]),
        "cannot be read as a PDF": b"",
        "something else": b"GIF89a" * 100,
        "it is damaged": good[: len(good) // 3],
    }
    for said, data in [*cases.items(), *cases.items()]:  # PDFium remembers the reason of the last failure
        (tmp_path / "a.pdf").write_bytes(data)
        with pytest.raises(CorpusError, match=said):
            list(pages(tmp_path / "a.pdf"))
        with pytest.raises(ImageError, match=said):
            PdfContainer().open(LocalFiles(), Item(uri=f"{tmp_path}/a.pdf#page=1"))
    (tmp_path / "a.pdf").write_bytes(good.replace(b"/Type/Page/", b"/Type/Nope/", 1))
    first, second = pages(tmp_path / "a.pdf")
    assert first.fault.startswith("the page cannot be read")
    assert (first.data, second.fault) == (None, "")
    with pytest.raises(FileNotFoundError, match="no page 3 any more"):
        PdfContainer().open(LocalFiles(), Item(uri=f"{tmp_path}/a.pdf#page=3"))
    with pytest.raises(FileNotFoundError):
        PdfContainer().open(LocalFiles(), Item(uri=f"{tmp_path}/gone.pdf#page=1"))


class Broken(LocalFiles):
    """A disk or connection that fails after some bytes."""

    def __init__(self, end: int) -> None:
        self.end = end

    def open(self, uri: str) -> BinaryIO:
        end = self.end

        class Reader(io.BytesIO):
            left = end

            def readinto(self, buffer: "io.WriteableBuffer") -> int:  # type: ignore[name-defined]
                self.left -= len(buffer)
                if self.left < 0:
                    raise OSError("the connection is lost")
                return super().readinto(buffer)

        return Reader(Path(uri).read_bytes())


def test_a_read_that_fails_is_never_a_blank_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scans = [photograph(seed, (600, 800)) for seed in range(3)]
    scans[0].save(tmp_path / "a.pdf", save_all=True, append_images=scans[1:], quality=95)
    whole = [item.data for item in pages(tmp_path / "a.pdf")]
    failed = begun = 0
    for end in range(0, 2 * (tmp_path / "a.pdf").stat().st_size, 4000):
        read = list[bytes | None]()
        try:
            for item in pages(tmp_path / "a.pdf", Broken(end)):
                read.append(item.data)
        except OSError as error:
            failed += str(error) == "the connection is lost"
        assert read == whole[: len(read)]
        begun += 0 < len(read) < len(whole)
    assert failed > 10
    assert begun
    assert capfd.readouterr() == ("", "")


def test_threads_get_the_right_pages(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", [(300, 200, f"page {number}") for number in range(40)])
    items = list(pages(path))
    assert len({item.data for item in items}) == 40
    with ThreadPoolExecutor(4) as pool:
        listings = [pool.submit(lambda: [item.data for item in pages(path)]) for _ in range(2)]
        opened = list(pool.map(lambda item: open_item(item, LocalFiles()), items))
        assert opened == [item.data for item in items]
        assert all(each.result() == opened for each in listings)


def test_memory_is_flat(tmp_path: Path) -> None:
    noise = Image.effect_noise((1000, 1400), 90).convert("RGB")
    noise.save(tmp_path / "a.pdf", save_all=True, append_images=[noise] * 44, quality=100, subsampling=0)
    assert (tmp_path / "a.pdf").stat().st_size > 96 << 20
    held = [resident_bytes() for _ in pages(tmp_path / "a.pdf")]
    assert max(held) < held[0] + (64 << 20)


def test_ten_thousand_pages(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", [(*LETTER, f"page {number}") for number in range(10_000)])
    texts = [(item.data or b"").decode() for item in pages(path, modality="text")]
    assert texts == [f"page {number}" for number in range(10_000)]
    assert next(pages(path)).uri.endswith("#page=1")  # rendered as they are asked for
