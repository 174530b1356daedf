"""RAW files: DNG files that the tests make, because cameras' own files are large and not free."""

import io
import struct
import sys

import numpy as np
import pytest
import rawpy
from PIL import Image, TiffImagePlugin

from llm2clip_search.corpora.decode import read_facts
from llm2clip_search.encoders.images import read_rgb, reading
from llm2clip_search.encoders.raw import is_raw, raw_exif
from llm2clip_search.errors import ImageError
from tests.support.images import photograph
from tests.support.odd_files import saved
from tests.support.raws import dng, jpeg

SCENE = photograph(3, (640, 480))
ROTATED = SCENE.transpose(Image.Transpose.ROTATE_270)


def marked(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def likeness(one: Image.Image, other: Image.Image) -> float:
    """Correlation of two pictures at 16 x 16."""
    small = [np.asarray(each.convert("RGB").resize((16, 16)), dtype=np.float64).ravel() for each in (one, other)]
    return float(np.asarray(np.corrcoef(small))[0, 1])


def without_pixels(data: bytes) -> bytes:
    """A DNG file whose mosaic lies beyond its end."""
    mosaic = struct.pack("<HHI", 273, 4, 1) + struct.pack("<I", 8)
    assert data.count(mosaic) == 1
    return data.replace(mosaic, mosaic[:8] + struct.pack("<I", 1 << 30))


def test_libraw_reads_the_files_of_these_tests() -> None:
    with rawpy.imread(io.BytesIO(dng(SCENE, preview=jpeg(SCENE), orientation=6))) as raw:
        assert (raw.sizes.width, raw.sizes.height, raw.sizes.flip) == (640, 480, 6)
        assert bytes(raw.extract_thumb().data).endswith(jpeg(SCENE)[20:])  # behind EXIF data that LibRaw puts there


def test_the_preview_is_the_picture_and_the_facts_are_those_of_the_file() -> None:
    data = dng(SCENE, preview=jpeg(SCENE))
    with reading(data) as picture:
        facts = read_facts(picture)
        np.testing.assert_array_equal(np.asarray(picture.rgb), np.asarray(Image.open(io.BytesIO(jpeg(SCENE)))))
    assert (facts.width, facts.height, facts.format, facts.camera) == (640, 480, "RAW", "Testmaker Model 1")
    assert (str(facts.taken), facts.latitude, facts.longitude) == ("2024-05-06 07:08:09", 52.5, 13.25)
    assert facts.damage is None


@pytest.mark.parametrize("preview", [None, jpeg(SCENE.resize((64, 48)))], ids=["none", "small"])
def test_without_a_useful_preview_the_sensors_pixels_are_developed(preview: bytes | None) -> None:
    with reading(dng(SCENE, preview=preview, orientation=6)) as picture:
        assert picture.size == (480, 640)
        assert picture.rgb.size == (240, 320)
        assert likeness(picture.rgb, ROTATED) > 0.9


@pytest.mark.parametrize(
    ("preview", "orientation"),
    [
        (jpeg(SCENE), 1),
        (jpeg(SCENE), 6),  # as most cameras write it
        (jpeg(ROTATED), 6),  # turned already, and the shape shows it
        (jpeg(SCENE, exif=marked(6)), 6),
        (
            jpeg(ROTATED, exif=marked(6)),
            6,
        ),  # and still says it
        (jpeg(SCENE, exif=marked(1)), 6),  # never says it
    ],
)
def test_a_preview_is_upright_however_its_program_turns_it(preview: bytes, orientation: int) -> None:
    with reading(dng(SCENE, preview=preview, orientation=orientation)) as picture:
        upright = SCENE if orientation == 1 else ROTATED
        assert picture.rgb.size == picture.size == upright.size
        assert likeness(picture.rgb, upright) > 0.98


def test_pictures_upside_down_follow_the_mark() -> None:
    assert likeness(read_rgb(dng(SCENE, preview=jpeg(SCENE), orientation=3)), SCENE.rotate(180)) > 0.98
    mirrored = SCENE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert likeness(read_rgb(dng(SCENE, preview=jpeg(SCENE), orientation=2)), mirrored) > 0.98
    assert likeness(read_rgb(dng(SCENE, preview=jpeg(SCENE), orientation=8)), SCENE.rotate(90, expand=True)) > 0.98


def test_damaged_files() -> None:
    sound = dng(SCENE, preview=jpeg(SCENE))
    assert likeness(read_rgb(without_pixels(sound)), SCENE) > 0.98  # its preview is sound
    with pytest.raises(ImageError, match="cannot be developed: it is cut off or damaged") as caught:
        read_rgb(without_pixels(dng(SCENE)))
    assert caught.value.stage == "decode"
    broken = sound.replace(jpeg(SCENE)[200:-2], bytes(len(jpeg(SCENE)) - 202))
    assert likeness(read_rgb(broken), SCENE) > 0.9  # its pixels are sound
    with pytest.raises(ImageError, match="camera RAW image, or one that LibRaw does not know") as caught:
        read_rgb(b"II*\0\x10\0\0\0CR\x02\0" + bytes(600))
    assert caught.value.stage == "header"
    for size in (0, 7, 8, 100, len(sound) // 2):
        with pytest.raises(ImageError):
            read_rgb(sound[:size])


def test_the_limit_holds_for_what_the_file_declares() -> None:
    with pytest.raises(ImageError, match="declares 480 x 640 = 307,200 pixels"):
        read_rgb(dng(SCENE, preview=jpeg(SCENE), orientation=6), max_pixels=300_000)


def test_other_tiff_files_are_no_raw_files() -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[271] = "Canon"
    for options in ({}, {"compression": "jpeg"}, {"tiffinfo": info}, {"big_tiff": True}):
        assert not is_raw(saved(SCENE, "TIFF", **options))
    assert not is_raw(jpeg(SCENE))
    assert is_raw(dng(SCENE))
    assert is_raw(dng(SCENE, preview=jpeg(SCENE)).replace(struct.pack("<H", 50706), struct.pack("<H", 50700)))


def test_a_preview_without_exif_has_that_of_the_file() -> None:
    """As for Canon's CR3 and other files that are no TIFF files, of which only LibRaw knows the structure."""
    data = dng(SCENE, preview=jpeg(SCENE))
    with rawpy.imread(io.BytesIO(data)) as raw, reading(bytes(raw.extract_thumb().data)) as picture:
        facts = read_facts(picture)
    assert (facts.camera, str(facts.taken), facts.latitude) == ("Testmaker Model 1", "2024-05-06 07:08:09", 52.5)
    assert not raw_exif(b"FUJIFILMCCD-RAW " + bytes(100))
    assert not raw_exif(b"II*\0\xff\xff\xff\xff")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ImageError, match=r"needs the extra \[raw\]") as caught:
        read_rgb(dng(SCENE))
    assert "llm2clip-search[raw]" in caught.value.hint
