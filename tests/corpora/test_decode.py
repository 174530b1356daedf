"""Odd and hostile files: each is indexed as it should look, or is a failure with the stage it failed at."""

import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from llm2clip_search.corpora import FolderCorpus, Item, lookahead
from llm2clip_search.corpora.columns import WELCOME
from llm2clip_search.corpora.companions import own_columns
from llm2clip_search.corpora.decode import decode_item, read_facts
from llm2clip_search.corpora.lookahead import map_ahead
from llm2clip_search.encoders.images import reading, register_plugins
from llm2clip_search.errors import ImageError
from llm2clip_search.indexers import index_folder
from tests.support.encoders import ColourEncoder
from tests.support.images import PREPROCESS, photograph, png
from tests.support.odd_files import chunk, saved


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IDAT"


def test_good_and_bad_files_in_one_folder(tmp_path: Path, colours: ColourEncoder) -> None:
    """The bad are rows of failures.parquet with stage and reason; the good are all there."""
    folder = tmp_path / "images"
    folder.mkdir()
    picture = photograph(1, (64, 48))
    good = {
        "plain.jpg": picture,
        "cmyk.jpg": picture.convert("CMYK"),
        "gray.png": picture.convert("L"),
        "one.png": Image.new("RGB", (1, 1), "red"),
        "deep.png": Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)),
        "palette.png": picture.convert("RGBA").quantize(16),
        "Grüße 猫\nzeile.png": picture,
        "wide.bmp": photograph(2, (900, 3)),
        "phone.heic": picture,
        "new.avif": picture,
        "scan.tiff": picture,
        "old.jp2": picture,
    }
    register_plugins()
    for name, image in good.items():
        image.save(folder / name)
    frames = [photograph(number) for number in (3, 4)]
    for name in ("moving.gif", "moving.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    photograph(5, (600, 400)).save(folder / "large.jpg")
    whole = (folder / "large.jpg").read_bytes()
    bad = {
        "empty.jpg": (b"", "header", "empty"),
        "cut.jpg": (whole[: len(whole) // 2], "decode", "cut off or damaged: 44% of its rows"),
        "headless.jpg": (whole[:100], "header", "cut off before its pixels"),
        "text.jpg": (b"Dear diary, this is no picture.", "header", "not an image"),
        "bomb.png": (png_header(50_000, 50_000), "header", "2,500,000,000 pixels, over the limit of 200,000,000"),
        "cut.png": (png_header(10, 10), "decode", "0% of its pixels"),
    }
    for name, (data, _, _) in bad.items():
        (folder / name).write_bytes(data)
    with open(os.fsencode(folder) + b"/name-\xff.png", "wb") as file:  # noqa: PTH123 - a name that is no text
        picture.save(file, "PNG")
    summary = index_folder(folder, encoder=colours, index=tmp_path / "index")
    found = {row["path"]: row for row in pq.read_table(tmp_path / "index" / "failures.parquet").to_pylist()}
    names = {Path(path).name: row for path, row in found.items()}
    assert summary.indexed == len(good) + 3
    assert summary.reused == 1  # the name that is no text has the bytes of another picture
    assert names.keys() == bad.keys()
    for name, (_, stage, reason) in bad.items():
        assert names[name]["stage"] == stage, names[name]
        assert reason in names[name]["reason"]
    assert summary.failed == len(bad)
    again = index_folder(folder, encoder=colours, index=tmp_path / "index")
    assert (again.indexed, again.failed, again.unchanged) == (0, summary.failed, summary.total)


def test_a_file_that_breaks_loses_its_row(photographs: Path, colours: ColourEncoder) -> None:
    """Its old vector would describe what is no longer there."""
    index = photographs.parent / ".llm2clip"
    index_folder(photographs, encoder=colours, index=index)
    (photographs / "2024" / "photo-01.png").write_bytes(b"gone wrong")
    summary = index_folder(photographs, encoder=colours, index=index)
    assert (summary.failed, summary.total) == (1, 11)


def test_exif_facts_are_read(tmp_path: Path) -> None:
    """Time, camera, signed position; a turned picture has its width and height exchanged."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110] = 6, "Fuji \x00", "X100"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "S", (33.0, 51.0, 36.0), "E", (151.0, 12.0, 0.0)
    photograph(1, (64, 48)).save(tmp_path / "x.jpg", exif=exif)
    with reading((tmp_path / "x.jpg").read_bytes()) as picture:
        facts = read_facts(picture)
    assert (facts.width, facts.height, facts.format) == (48, 64, "JPEG")
    assert (facts.taken, facts.camera) == (datetime(2024, 5, 6, 7, 8, 9), "Fuji X100")
    assert facts.latitude == pytest.approx(-33.86)
    assert facts.longitude == pytest.approx(151.2)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".heic", ".avif", ".mpo"])
def test_what_a_file_says_of_itself_is_read_without_its_pixels(suffix: str, tmp_path: Path) -> None:
    register_plugins()
    exif = Image.Exif()
    exif[0x010F], exif[0x0132] = "Fuji", "2024:05:06 07:08:09"
    exif.get_ifd(0x8769)[0x9003] = "2023:05:06 07:08:09"
    exif.get_ifd(0x8825).update({1: "S", 2: (10.0, 30.0, 0.0), 3: "E", 4: (20.0, 0.0, 0.0)})
    path = tmp_path / f"x{suffix}"
    photograph(1, (64, 48)).save(path, exif=exif)
    with reading(path.read_bytes()) as picture:
        facts = read_facts(picture)
    assert (facts.camera, facts.taken, facts.latitude) == ("Fuji", datetime(2023, 5, 6, 7, 8, 9), -10.5)
    expected = {name: getattr(facts, name) for name in WELCOME}
    with patch.object(ImageFile.ImageFile, "load", lambda image: pytest.fail("it is decoded")):
        assert own_columns(path.read_bytes()) == own_columns(path) == expected


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_broken_exif_costs_only_its_columns(tmp_path: Path, exif: bytes) -> None:
    photograph(1).save(tmp_path / "x.jpg", exif=exif)
    decoded = decode_item(FolderCorpus(tmp_path), Item(uri=str(tmp_path / "x.jpg")), PREPROCESS)
    assert decoded.error is None
    assert decoded.facts is not None
    assert (decoded.facts.width, decoded.facts.taken, decoded.facts.latitude) == (64, None, None)


def on_background(level: int) -> Image.Image:
    """A red square on grey, whose last rows and columns are of the background."""
    image = Image.new("RGB", (64, 64), (level, level, level))
    image.paste((255, 0, 0), (16, 16, 48, 48))
    return image


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize(("before", "zeros"), [(b"", 64), (b"junkjunk", 0), (b"junkjunk", 64)])
def test_a_whole_jpeg_on_grey_is_not_taken_for_a_cut_one(before: bytes, zeros: int, options: dict[str, Any]) -> None:
    """Decoders fill what is missing with this grey."""
    image = on_background(128)
    data = saved(image, "JPEG", **options)
    with reading(before + data + bytes(zeros)) as picture:
        assert picture.damage == ("8 bytes before the image" if before else None)
        assert np.abs(np.asarray(picture.rgb).astype(int) - np.asarray(image)).max() < 40
    with pytest.raises(ImageError, match="cut off"), reading(before + data[: len(data) * 2 // 3] + bytes(zeros)):
        pass


@pytest.mark.parametrize("before", [b"", b"junkjunk"])
def test_a_whole_png_on_black_is_not_taken_for_a_cut_one(before: bytes) -> None:
    """The checksum of its header is wrong, so it is repaired; padding is black as well."""
    image = on_background(0)
    data = bytearray(saved(image, "PNG"))
    data[data.index(b"IHDR") + 4 + 13] ^= 1
    with reading(before + bytes(data)) as picture:
        assert picture.damage
        assert picture.rgb.tobytes() == image.tobytes()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_white_at_every_depth(bits: int) -> None:
    """Four rows of pixels, the first two of the transparent level, the others black."""
    most = 2**bits - 1
    key = max(1, most // 3)
    row = np.repeat(np.unpackbits(np.array([key], ">u2").view(np.uint8))[None, -bits:], 16, axis=0)
    packed = b"\0" + np.packbits(row).tobytes()
    rows = 2 * packed + 2 * (b"\0" * len(packed))
    header = struct.pack(">IIBBBBB", 16, 4, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(">H", key)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    with reading(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)) as picture:
        pixels = np.asarray(picture.rgb)
        assert picture.damage is None
    assert (pixels[:2] == 255).all()
    assert (pixels[2:] == 0).all()


def test_known_content_is_not_decoded(tmp_path: Path) -> None:
    photograph(1).save(tmp_path / "x.png")
    corpus, item = FolderCorpus(tmp_path), Item(uri=str(tmp_path / "x.png"))
    decoded = decode_item(corpus, item, PREPROCESS, known=lambda _: True)
    assert decoded.content_hash
    assert decoded.pixels is None
    assert decoded.error is None
    small = decode_item(corpus, item, PREPROCESS, max_pixels=100)
    assert small.error is not None
    assert "--max-pixels" in small.error.hint


def test_map_ahead_keeps_order_and_its_bound() -> None:
    """Never more than ``ahead`` results wait or are in work; an early stop cancels the rest."""
    begun, taken, most = [0], [0], [0]
    lock = threading.Lock()

    def work(number: int) -> int:
        with lock:
            begun[0] += 1
            most[0] = max(most[0], begun[0] - taken[0])
        time.sleep(0.002 * (number % 3))
        return number

    def items() -> Iterator[int]:
        yield from range(60)

    out = []
    for result in map_ahead(work, items(), threads=4, ahead=7):
        out.append(result)
        with lock:
            taken[0] += 1
    assert out == list(range(60))
    assert 2 <= most[0] <= 8  # the one just handed over counts until it is noted
    begun[0] = 0
    for result in map_ahead(work, items(), threads=2, ahead=5):
        if result == 3:
            break
    assert begun[0] < 15


@pytest.mark.parametrize("stage", ["list", "map"])
def test_what_waits_is_bounded_by_its_bytes(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """With room for three items of ten bytes; one that is larger than the room passes alone."""
    monkeypatch.setattr(lookahead, "HELD_BYTES", 30)
    listed = [0]

    def items() -> Iterator[bytes]:
        for number in range(40):
            listed[0] += 1
            yield bytes(100 if number == 20 else 10)

    ahead = (
        lookahead.list_ahead(items(), ahead=16, weigh=len)
        if stage == "list"
        else map_ahead(lambda item: item, items(), threads=4, ahead=16, weigh=len)
    )
    sizes = []
    for item in ahead:
        time.sleep(0.002)  # listing goes on as far as it may
        sizes.append(len(item))
        assert listed[0] - len(sizes) <= 4  # three that wait, and the next one
    assert sizes == [100 if number == 20 else 10 for number in range(40)]


def test_what_listing_has_read_does_not_wait_for_the_commit() -> None:
    data = png(1)
    item = Item(uri="a.tar#1.png", data=data, columns={"caption": "a"})
    answers: tuple[Callable[[str], bool], ...] = (lambda content_hash: False, lambda content_hash: True)
    for known in answers:
        out = decode_item(FolderCorpus("."), item, PREPROCESS, known=known)
        assert (out.item.data, out.size, out.item.columns) == (None, len(data), {"caption": "a"})
