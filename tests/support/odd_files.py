"""Image files as people have them: cut, damaged, deep, turned, transparent, misnamed, huge by their header."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw
from PIL.PngImagePlugin import PngInfo

from llm2clip_search.encoders.images import register_plugins
from tests.support.images import photograph

SIZES = ((160, 120), (243, 181))


@dataclass(frozen=True)
class OddFile:
    """A file, and the picture that it should be indexed as; None if it holds none."""

    name: str
    data: bytes
    twin: Image.Image | None
    must: bool = False
    """Whether a failure would be wrong, because the whole picture is there."""


def scene(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture with gradients, shapes and some noise, so that codecs spend bytes on all of it."""
    generator = np.random.default_rng(seed)
    image = photograph(seed, size)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = int(generator.integers(size[0])), int(generator.integers(size[1]))
        w, h = int(generator.integers(4, 3 + size[0] // 4 + 2)), int(generator.integers(4, 3 + size[1] // 4 + 2))
        draw.ellipse((x, y, x + w, y + h), fill=tuple(int(level) for level in generator.integers(0, 256, 3)))
    noise = generator.integers(-12, 13, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    if kind in ("JPEG", "MPO"):
        options = {"quality": 95, "subsampling": 0, **options}
    if kind == "WEBP" and "quality" not in options:
        options = {"lossless": True, **options}
    image.copy().save(out, kind, **options)  # savers leave their settings behind in an image
    return out.getvalue()


def chunk(kind: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def exif_block(
    *, order: str = "<", orientation: int = 1, rational: tuple[int, int] | None = None, loop: bool = False
) -> bytes:
    """EXIF data with an orientation, and perhaps a rational, or directories that point to themselves."""
    entries = [(0x0112, 3, 1, struct.pack(order + "HH", orientation, 0))]
    count = 1 + (rational is not None) + 2 * loop
    after = 8 + 2 + 12 * count + 4
    if rational is not None:
        entries.append((0x011A, 5, 1, struct.pack(order + "I", after)))
    if loop:
        entries += [(tag, 4, 1, struct.pack(order + "I", 8)) for tag in (0x8769, 0x8825)]
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", count)
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    following = struct.pack(order + "I", 8 if loop else 0)
    return b"Exif\0\0" + head + body + following + (struct.pack(order + "II", *rational) if rational else b"")


def odd_files() -> Iterator[OddFile]:
    """At least 300 files, each with its own name."""
    register_plugins()
    for number, size in enumerate(SIZES):
        picture = scene(number, size)
        for odd in (
            *_cut(picture),
            *_chunks(picture),
            *_turned(picture),
            *_deep(picture),
            *_modes(picture),
            *_junk(picture),
        ):
            name, dot, extension = odd.name.rpartition(".")
            yield OddFile(f"{name}-{size[0]}x{size[1]}{dot}{extension}", odd.data, odd.twin, odd.must)
    yield from _thin()
    yield from _no_images()


def _cut(picture: Image.Image) -> Iterator[OddFile]:
    grey = picture.convert("L")
    ways: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("baseline.jpg", picture, "JPEG", {"quality": 90}),
        ("full-chroma.jpg", picture, "JPEG", {"quality": 90, "subsampling": 0}),
        ("progressive.jpg", picture, "JPEG", {"quality": 90, "progressive": True}),
        ("grey.jpg", grey, "JPEG", {"quality": 90}),
        ("cmyk.jpg", picture.convert("CMYK"), "JPEG", {"quality": 90}),
        ("rgb.png", picture, "PNG", {}),
        ("palette.png", picture.quantize(64), "PNG", {}),
        ("alpha.png", _with_alpha(picture), "PNG", {}),
        ("deep.png", _deep_grey(grey, 257), "PNG", {}),
        ("x.gif", picture.quantize(64), "GIF", {"interlace": 0}),
        ("interlaced.gif", picture.quantize(64), "GIF", {"interlace": 1}),
        ("lossy.webp", picture, "WEBP", {"quality": 90}),
        ("lossless.webp", picture, "WEBP", {"lossless": True}),
        ("x.bmp", picture, "BMP", {}),
        ("raw.tif", picture, "TIFF", {}),
        ("lzw.tif", picture, "TIFF", {"compression": "tiff_lzw"}),
        ("x.ppm", picture, "PPM", {}),
        ("x.tga", picture, "TGA", {}),
        ("x.avif", picture, "AVIF", {}),
        ("x.jp2", picture, "JPEG2000", {}),
        ("x.heic", picture, "HEIF", {}),
    ]
    for name, image, kind, options in ways:
        data = saved(image, kind, **options)
        with Image.open(io.BytesIO(data)) as opened:
            twin = _on_white(_eight_bit(opened))
        for lost in (0.6, 0.12, 0.05, 0.02):
            yield OddFile(f"cut-{lost}-{name}", data[: int(len(data) * (1 - lost))], twin)
        if kind in ("JPEG", "PNG"):
            yield OddFile(f"cut-2-bytes-{name}", data[:-2], twin, must=True)
        if kind == "JPEG":
            yield OddFile(f"zeros-{name}", data[: int(len(data) * 0.95)] + bytes(len(data) // 20), twin)


def _chunks(picture: Image.Image) -> Iterator[OddFile]:
    data = saved(picture, "PNG")
    at = 33  # after the header's chunk
    noise = np.random.default_rng(0).bytes(1_500_000)
    additions = {
        "workflow-ztxt": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)),
        "workflow-itxt": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        "workflow-text": chunk(b"tEXt", b"workflow\0" + b"x" * 3_000_000),
        "large-icc": chunk(b"iCCP", b"icc\0\0" + zlib.compress(noise)),
        "broken-icc": chunk(b"iCCP", b"icc\0\0nonsense"),
        "crc-text": chunk(b"tEXt", b"a\0b", crc=1),
        "crc-gamma": chunk(b"gAMA", struct.pack(">I", 45455), crc=1),
        "short-gamma": chunk(b"gAMA", b""),
    }
    for name, addition in additions.items():
        yield OddFile(f"{name}.png", data[:at] + addition + data[at:], picture, must=True)
    start = data.index(b"IDAT")
    end = start + 4 + int.from_bytes(data[start - 4 : start])
    yield OddFile("crc-pixels.png", data[:end] + b"\0\0\0\0" + data[end + 4 :], picture, must=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield OddFile("many-icc.jpg", saved(picture, "JPEG", quality=95, icc_profile=profile * 40), picture, must=True)


_INVERSE = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera that was held in each orientation lays the pixels down."""


def _turned(picture: Image.Image) -> Iterator[OddFile]:
    for orientation, turn in _INVERSE.items():
        laid = picture if turn is None else picture.transpose(turn)
        for order in "<>":
            block = exif_block(order=order, orientation=orientation)
            yield OddFile(
                f"turn{orientation}{'le' if order == '<' else 'be'}.jpg",
                saved(laid, "JPEG", exif=block),
                picture,
                must=True,
            )
        for name, damaged in {
            "badrational": exif_block(orientation=orientation, rational=(0, 0)),
            "loop": exif_block(orientation=orientation, loop=True),
        }.items():
            yield OddFile(f"turn{orientation}-{name}.jpg", saved(laid, "JPEG", exif=damaged), picture, must=True)
        block = exif_block(orientation=orientation, rational=(1, 0))
        yield OddFile(f"turn{orientation}.png", saved(laid, "PNG", exif=block[6:]), picture, must=True)
        yield OddFile(f"turn{orientation}.webp", saved(laid, "WEBP", exif=block), picture, must=True)
        yield OddFile(f"turn{orientation}.tif", saved(laid, "TIFF", tiffinfo={274: orientation}), picture, must=True)
        yield OddFile(
            f"turn{orientation}.jxl",
            saved(picture, "JXL", exif=exif_block(orientation=orientation)),
            picture,
            must=True,
        )  # The orientation of a JPEG XL is in its codestream, and its EXIF data may repeat it.
    for name, block in {
        "garbage": b"Exif\0\0garbage",
        "far": b"Exif\0\0II*\0\xff\xff\xff\xff",
        "none": b"Exif\0\0",
    }.items():
        yield OddFile(f"exif-{name}.jpg", saved(picture, "JPEG", exif=block), picture, must=True)


def _deep(picture: Image.Image) -> Iterator[OddFile]:
    grey = picture.convert("L")
    twin = grey.convert("RGB")
    levels = np.asarray(grey).astype(np.float32)
    hot = levels.copy()
    hot[3, 5] = 1e6
    gaps, empty = levels.copy(), levels.copy()
    gaps[:2, :2], empty[:2, :2] = np.nan, -3.4e38
    floats = {"unit": levels / 255, "eight": levels, "hot": hot, "gaps": gaps, "no-data": empty, "signed": levels - 128}
    floats["high"] = levels * 1e4
    for name, samples in floats.items():
        image = Image.fromarray(np.asarray(samples, dtype=np.float32))
        yield OddFile(f"float-{name}.tif", saved(image, "TIFF"), twin, must=True)
    yield OddFile(
        "float-deflate.tif",
        saved(Image.fromarray(levels / 255), "TIFF", compression="tiff_adobe_deflate"),
        twin,
        must=True,
    )
    for bits in (8, 10, 12, 14, 16):
        deep = _deep_grey(grey, (2**bits - 1) / 255)
        yield OddFile(f"bits{bits}.png", saved(deep, "PNG"), twin, must=True)
        yield OddFile(f"bits{bits}.tif", saved(deep, "TIFF"), twin, must=True)
        yield OddFile(f"bits{bits}-lzw.tif", saved(deep, "TIFF", compression="tiff_lzw"), twin, must=True)
        big = Image.frombytes("I;16B", grey.size, np.asarray(deep).astype(">u2").tobytes())
        yield OddFile(f"bits{bits}-big-endian.tif", saved(big, "TIFF"), twin, must=True)
    stated = _deep_grey(grey, 4095 / 255 / 4)
    yield OddFile("stated.tif", saved(stated, "TIFF", tiffinfo={281: 1023}), twin, must=True)
    integers = {"positive": levels * 128, "negative": (levels - 128) * 200}
    for name, counts in integers.items():
        whole = Image.fromarray(counts.astype(np.int32))
        yield OddFile(f"int32-{name}.tif", saved(whole, "TIFF"), twin, must=True)


def _modes(picture: Image.Image) -> Iterator[OddFile]:
    grey, alpha = picture.convert("L"), _with_alpha(picture)
    for name, image, kind in (
        ("alpha.png", alpha, "PNG"),
        ("alpha.webp", alpha, "WEBP"),
        ("alpha.tif", alpha, "TIFF"),
        ("grey-alpha.png", alpha.convert("LA"), "PNG"),
        ("palette-alpha.png", alpha.quantize(64), "PNG"),
        ("bilevel.png", picture.convert("1"), "PNG"),
        ("bilevel.tif", picture.convert("1"), "TIFF"),
        ("palette.gif", picture.quantize(128), "GIF"),
        ("palette.bmp", picture.quantize(128), "BMP"),
        ("cmyk.tif", picture.convert("CMYK"), "TIFF"),
        ("cmyk.jpg", picture.convert("CMYK"), "JPEG"),
        ("lossless.jxl", picture, "JXL"),
        ("x.pcx", picture, "PCX"),
        ("x.sgi", picture, "SGI"),
        ("x.jp2", picture, "JPEG2000"),
    ):
        options = {"lossless": True} if kind in ("WEBP", "JXL") else {}
        yield OddFile(f"mode-{name}", saved(image, kind, **options), _on_white(image), must=True)
    clear = np.array(picture)
    clear[: clear.shape[0] // 3] = (200, 0, 20)
    white = clear.copy()
    white[: clear.shape[0] // 3] = 255
    keyed, shown = Image.fromarray(clear), Image.fromarray(white)
    yield OddFile("key-rgb.png", saved(keyed, "PNG", transparency=(200, 0, 20)), shown, must=True)
    flat = np.array(grey)
    flat[: flat.shape[0] // 3] = 7
    flat[flat.shape[0] // 3 :] = np.maximum(flat[flat.shape[0] // 3 :], 8)
    shown = Image.fromarray(np.where(flat == 7, 255, flat).astype(np.uint8)).convert("RGB")
    yield OddFile("key-grey.png", saved(Image.fromarray(flat), "PNG", transparency=7), shown, must=True)
    deep = Image.fromarray(flat.astype(np.uint16) * 257)
    yield OddFile("key-deep.png", saved(deep, "PNG", transparency=7 * 257), shown, must=True)
    lab = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    yield OddFile("lab.tif", saved(lab, "TIFF"), picture, must=True)
    others = [scene(90 + number, picture.size) for number in range(2)]
    for name, kind in (
        ("many.gif", "GIF"),
        ("many.webp", "WEBP"),
        ("many.png", "PNG"),
        ("many.mpo", "MPO"),
        ("many.tif", "TIFF"),
    ):
        data = saved(picture, kind, save_all=True, append_images=[other.copy() for other in others])
        yield OddFile(name, data, picture, must=True)
        if kind != "TIFF":
            yield OddFile(f"cut-{name}", data[: len(data) - len(data) // 8], picture)
    info = PngInfo()
    info.add_text("parameters", "a cat " * 30_000)
    yield OddFile("text.png", saved(picture, "PNG", pnginfo=info), picture, must=True)
    for extension, kind in (("jpg", "PNG"), ("png", "JPEG"), ("gif", "WEBP"), ("webp", "GIF"), ("bmp", "TIFF")):
        yield OddFile(f"misnamed-{kind.lower()}.{extension}", saved(picture, kind), picture, must=True)


def _junk(picture: Image.Image) -> Iterator[OddFile]:
    for kind, extension in (("JPEG", "jpg"), ("PNG", "png")):
        data = saved(picture, kind)
        for count in (1, 128, 5000):
            junk = np.random.default_rng(count).integers(1, 120, count, dtype=np.uint8).tobytes()
            yield OddFile(f"junk-{count}.{extension}", junk + data, picture, must=True)
        yield OddFile(f"junk-after.{extension}", data + b"trailer" * 500, picture, must=True)
        yield OddFile(f"junk-and-cut.{extension}", b"mime: x\r\n\r\n" + data[:-3], picture, must=True)
        yield OddFile(f"junk-much.{extension}", b"x" * 300_000 + data, None)


def _thin() -> Iterator[OddFile]:
    for size in ((1, 1), (1, 7), (9, 1), (60_000, 1), (1, 60_000), (30_000, 2), (3_000_000, 1)):
        picture = Image.fromarray(np.resize(np.asarray(photograph(1, (64, 64))), (size[1], size[0], 3)))
        yield OddFile(f"thin-{size[0]}x{size[1]}.png", saved(picture, "PNG"), picture if size[0] < 10 else None)


def _no_images() -> Iterator[OddFile]:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 6, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
    empty = struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)
    contents = {
        "empty": b"",
        "zeros": bytes(5000),
        "text": b"Dear diary, this is no picture.",
        "page": b"\n<!DOCTYPE html><html><body>404</body></html>",
        "archive": b"PK\x03\x04" + bytes(100),
        "document": b"%PDF-1.7\n" + bytes(100),
        "video": b"\0\0\0\x20ftypisom" + bytes(100),
        "raw": b"\0\0\0\x18ftypcrx " + bytes(100),
        "drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "bomb": bomb,
        "wide-gif": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0;",
        "zero-size": b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", empty)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b""),
        "wide-jxl": b"\xff\x0a" + bytes([0b11111110, *[0xFF] * 20]),
    }
    for name, data in contents.items():
        yield OddFile(f"none-{name}.jpg", data, None)


def _with_alpha(picture: Image.Image) -> Image.Image:
    image = picture.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(picture.size))
    return image


def _deep_grey(grey: Image.Image, factor: float) -> Image.Image:
    return Image.fromarray((np.asarray(grey).astype(np.float64) * factor).round().astype(np.uint16))


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
