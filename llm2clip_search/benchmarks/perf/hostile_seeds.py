"""Small sound files of every format that is read, from which hostile ones are made."""

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from llm2clip_search.encoders.images import register_plugins

_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:'
    b'Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="3"/></rdf:RDF></x:xmpmeta>'
)


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A smooth picture with some noise, so that codecs spend bytes on all of it."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size)
    noise = generator.integers(-8, 9, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8))


def image_seeds() -> Iterator[tuple[str, bytes]]:
    """Image files by extension; several of those formats that have several ways to store pixels."""
    register_plugins()
    Image.init()  # it knows few formats before
    rgb = picture(0)
    grey, palette, frames = rgb.convert("L"), rgb.quantize(32), [picture(seed) for seed in range(1, 5)]
    alpha = rgb.copy()
    alpha.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "maker", 0x0132: "2024:05:06 07:08:09"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 12.0), 3: "E", 4: (11.0, 34.0, 30.0)})
    described: dict[str, Any] = {"exif": exif, "xmp": _XMP}
    animated: dict[str, Any] = {"save_all": True, "append_images": frames}
    ways: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("jpg", rgb, "JPEG", {"quality": 85, **described}),
        ("jpg", rgb, "JPEG", {"progressive": True, "restart_marker_rows": 1}),
        ("jpg", rgb.convert("CMYK"), "JPEG", {}),
        ("jpg", rgb, "MPO", animated),
        ("png", rgb, "PNG", {"exif": exif}),
        ("png", palette, "PNG", {"transparency": 3}),
        ("png", deep, "PNG", {}),
        ("png", rgb, "PNG", animated),
        ("gif", palette, "GIF", {"interlace": 1}),
        ("gif", rgb, "GIF", {**animated, "duration": 20}),
        ("webp", rgb, "WEBP", {"quality": 70, **described}),
        ("webp", alpha, "WEBP", {"lossless": True}),
        ("webp", rgb, "WEBP", {**animated, "duration": 20}),
        ("tif", rgb, "TIFF", {"exif": exif}),
        ("tif", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("tif", rgb, "TIFF", {"compression": "jpeg"}),
        ("tif", grey.convert("1"), "TIFF", {"compression": "group4"}),
        ("tif", rgb, "TIFF", {**animated, "compression": "tiff_adobe_deflate"}),
        ("bmp", rgb, "BMP", {}),
        ("bmp", palette, "BMP", {}),
        ("heic", rgb, "HEIF", {"quality": 60, "exif": exif.tobytes()}),
        ("avif", rgb, "AVIF", {"quality": 60, **described}),
        ("avif", rgb, "AVIF", animated),
        ("jxl", rgb, "JXL", {}),
        ("jp2", rgb, "JPEG2000", {}),
        ("ico", rgb, "ICO", {}),
        ("ppm", rgb, "PPM", {}),
        ("tga", alpha, "TGA", {"compression": "tga_rle"}),
        ("pcx", rgb, "PCX", {}),
        ("sgi", rgb, "SGI", {}),
        ("dds", alpha, "DDS", {}),
        ("icns", picture(9, (128, 128)), "ICNS", {}),
    ]
    for extension, image, kind, options in ways:
        if kind in Image.SAVE:
            yield extension, saved(image, kind, **options)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file of a format of Pillow."""
    out = io.BytesIO()
    if "append_images" in options:
        options["append_images"] = [each.copy() for each in options["append_images"]]
    image.copy().save(out, kind, **options)  # savers leave their settings behind in an image
    return out.getvalue()


def container_seeds() -> Iterator[tuple[str, bytes]]:
    """Documents, videos, archives, tables and texts by extension."""
    rgb = picture(0)
    jpeg = saved(rgb, "JPEG")
    yield "pdf", saved(rgb, "PDF", save_all=True, append_images=[picture(1)])
    yield "tar", tar({"a.jpg": jpeg, "a.json": b'{"caption": "a"}', "b.png": saved(picture(1), "PNG"), "b.txt": b"b"})
    yield from _tables(jpeg)
    yield "txt", "A text of some words.\n\nAnd ümlauts, 漢字.\n".encode() * 20
    if (video := _video()) is not None:
        yield "mp4", video


def tar(members: dict[str, bytes]) -> bytes:
    """An archive of files by name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _tables(jpeg: bytes) -> Iterator[tuple[str, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = pa.table({"image": [jpeg] * 3, "caption": ["a", "b", None], "width": [1, 2, 3]})
    for options in ({}, {"compression": "zstd", "use_dictionary": False}, {"data_page_version": "2.0"}):
        out = pa.BufferOutputStream()
        pq.write_table(images, out, **options)
        yield "parquet", out.getvalue().to_pybytes()
    out = pa.BufferOutputStream()
    with pa.ipc.new_file(out, images.schema) as writer:
        writer.write_table(images)
    yield "arrow", out.getvalue().to_pybytes()
    # In base64: a table of paths is a list of images, which folders of tampered files do not have.
    text = base64.b64encode(jpeg).decode()
    yield "csv", ("image,caption,width\n" + f'{text},"a, b",1\n{text},"line\nbreak",2\n' * 2).encode()
    lines = (json.dumps({"image": text, "caption": "c", "of": {"n": [n]}}) for n in range(4))
    yield "jsonl", "".join(f"{line}\n" for line in lines).encode()


def _video() -> bytes | None:
    """Ten frames of MPEG-4; None without the extra that reads videos."""
    try:
        import av
    except ImportError:
        return None
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for seed in range(10):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture(seed, (96, 64))), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()
