"""What a file is, by its name and by its first bytes, with and without the extras."""

import io

import pytest
from PIL import Image

from llm2clip_search.encoders.image_types import IMAGE_TYPES, describe, jxl_size, of_content, of_name
from llm2clip_search.encoders.images import reading, register_plugins
from llm2clip_search.errors import ImageError
from tests.support.odd_files import saved, scene

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


@pytest.fixture
def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow as it is without the packages of the extras."""
    register_plugins()
    for name in ("HEIF", "JXL"):
        monkeypatch.delitem(Image.OPEN, name)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in ("HEIF", "JXL")])


def test_extensions_name_what_reads_them() -> None:
    lacks = {name: found.lack for name in ("a/X.HEIC", "b.jxl", "c.CR2", "d.svg") if (found := of_name(name))}
    assert lacks == {
        "a/X.HEIC": "needs the extra [heif]",
        "b.jxl": "needs the extra [jxl]",
        "c.CR2": "needs the extra [raw]",
        "d.svg": "no reader for vector drawings",
    }
    assert of_name("photo.jpg") is None
    extensions = [extension for each in IMAGE_TYPES for extension in each.extensions]
    assert len(extensions) == len(set(extensions))


@pytest.mark.usefixtures("without_extras")
@pytest.mark.parametrize(("kind", "data"), [("HEIC", HEIC), ("JPEG XL", b"\xff\x0a\x7f\x06\0\x13\x88\x02")])
def test_a_misleading_name_does_not_hide_the_missing_extra(kind: str, data: bytes) -> None:
    extra = {"HEIC": "heif", "JPEG XL": "jxl"}[kind]
    with pytest.raises(ImageError, match=rf"a {kind} image, which needs the extra \[{extra}\]") as caught:  # noqa: SIM117
        with reading(data):
            pass
    assert f"llm2clip-search[{extra}]" in caught.value.hint
    assert caught.value.stage == "header"


def test_with_the_extra_a_file_of_its_type_is_damaged() -> None:
    with pytest.raises(ImageError, match="a damaged HEIC image"), reading(HEIC):
        pass


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (64, 256), (300, 200), (256, 192), (700, 7), (513, 900)])
def test_the_size_of_a_jpeg_xl_is_known_without_decoding(size: tuple[int, int]) -> None:
    register_plugins()
    data = saved(Image.new("RGB", size), "JXL")
    assert jxl_size(data) == size
    assert jxl_size(saved(Image.new("RGB", size), "JXL", use_container=True)) == size
    assert jxl_size(data[:3]) is not None
    assert jxl_size(saved(Image.new("RGB", size), "PNG")) is None


def test_a_jpeg_xl_over_the_limit_is_refused_before_it_is_decoded() -> None:
    register_plugins()
    data = saved(scene(1, (300, 200)), "JXL")
    with pytest.raises(ImageError, match="declares 300 x 200 = 60,000 pixels"), reading(data, max_pixels=59_999):
        pass


def test_types_are_told_by_content() -> None:
    raw = of_content(b"II*\0\x10\0\0\0CR\x02\0" + bytes(50))
    assert raw is not None
    assert raw.name == "camera RAW"
    drawing = of_content(b"<?xml version='1.0'?>\n<!-- x --><svg xmlns='http://www.w3.org/2000/svg'>")
    assert drawing is not None
    assert drawing.name == "vector drawings"
    out = io.BytesIO()
    scene(1, (20, 20)).save(out, "PNG")
    assert of_content(out.getvalue()) is None
    assert describe(b"<!DOCTYPE html><p>") == "not an image but a web page"
    assert describe(bytes(100)) == "not an image: it holds nothing but zeros"
