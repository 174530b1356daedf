"""Attacks by way of pictures: files that are not what was indexed, uploads that are bombs, and ranges and names."""

import io
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from llm2clip_search.indexers import index_folder
from llm2clip_search.server.app import create_app
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.service import Service
from llm2clip_search.store import Snapshot
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.server import running, wait_until
from tests.support.wire import Answer, request

MARKUP = "<img src=x onerror=alert(1)>\"'\r\nSet-Cookie: a=b.png"
HTML = b"<!doctype html><script>alert(document.domain)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
SECRET = b"root:x:0:0:root:/root:/bin/sh"
KINDS = ("file", "preview", "thumbnail", "thumbnail?width=160")


class Gallery:
    """A served folder whose files a stranger may replace."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        snapshot = Snapshot(folder / ".llm2clip")
        self.ids = {Path(row["path"]).name: row["id"] for row in snapshot.rows(snapshot.live_ids.tolist())}

    def get(self, name: str, kind: str, **headers: str) -> Answer:
        """The answer for one file by its indexed name."""
        return request(self.port, f"/api/v1/images/{self.ids[name]}/{kind}", headers=headers)


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gallery]:
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(3):
        photograph(number, size=(400, 300)).save(folder / f"{number}.jpg")
    photograph(3).save(folder / "3.png")
    (folder / "3.png").rename(folder / MARKUP)
    index_folder(folder, encoder=ColourEncoder(), index=folder / ".llm2clip")
    service = Service(ServerConfig(indices=(folder / ".llm2clip",), upload_bytes=4 << 20), encoder=ColourEncoder())
    with running(create_app(service)) as port:
        wait_until(lambda: request(port, "/api/v1/ready").status == 200)
        yield Gallery(folder, port)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_became_a_link_is_not_followed(gallery: Gallery, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "passwd"
    secret.write_bytes(SECRET)
    photograph(9, size=(400, 300)).save(tmp_path / "private.jpg")
    for target in (secret, Path("/etc/passwd"), tmp_path / "private.jpg", Path("/dev/zero")):
        (gallery.folder / "0.jpg").unlink()
        (gallery.folder / "0.jpg").symlink_to(target)
        answer = gallery.get("0.jpg", kind)
        assert answer.status in (404, 410, 422), answer.status
        assert SECRET not in answer.body


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_became_a_link_is_not_followed(gallery: Gallery, tmp_path: Path, kind: str) -> None:
    aside = tmp_path / "aside"
    (gallery.folder / "0.jpg").rename(gallery.folder / "kept.jpg")
    aside.mkdir()
    (gallery.folder / "0.jpg").symlink_to(aside)
    assert gallery.get("0.jpg", kind).status in (404, 410, 422)


def test_a_pipe_in_the_place_of_a_file_holds_up_nobody(gallery: Gallery) -> None:
    (gallery.folder / "0.jpg").unlink()
    os.mkfifo(gallery.folder / "0.jpg")
    started = time.monotonic()
    for kind in KINDS:
        assert gallery.get("0.jpg", kind).status in (404, 410, 422)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "content", [HTML, SVG, b"%PDF-1.7\n", b"\xff\xd8\xff" + HTML], ids=["html", "svg", "pdf", "mix"]
)
def test_a_page_named_as_a_picture_is_never_shown_as_one(gallery: Gallery, content: bytes) -> None:
    (gallery.folder / "0.jpg").write_bytes(content)
    for kind in KINDS[1:]:
        assert gallery.get("0.jpg", kind).status in (410, 415, 422)
    answer = gallery.get("0.jpg", "file")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    if answer.status == 200 and not answer.headers["content-type"].startswith("image/jpeg"):
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("content", [HTML, SVG, b"GIF89a" + HTML, b"", b"\x00" * 100, b"P6 9999999 9999999 255\n"])
@pytest.mark.parametrize("kind", ["image/jpeg", "image/svg+xml"])
def test_bytes_decide_what_an_upload_is(gallery: Gallery, content: bytes, kind: str) -> None:
    headers = {"content-type": kind, "content-length": str(len(content))}
    answer = request(gallery.port, "/api/v1/uploads", method="POST", body=content, headers=headers)
    assert answer.status in (400, 415, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "kind", ["text/html", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"]
)
def test_what_a_form_can_send_is_no_upload(gallery: Gallery, kind: str) -> None:
    out = io.BytesIO()
    photograph(1).save(out, "PNG")
    headers = {"content-type": kind}
    answer = request(gallery.port, "/api/v1/uploads", method="POST", body=out.getvalue(), headers=headers)
    assert answer.status == 415


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG of 8-bit grey that declares a size, with compressed rows that need not match it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header(gallery: Gallery) -> None:
    """Ten gigapixels in a few kilobytes, and a small picture whose compressed data is far longer than that."""
    squeezer = zlib.compressobj(9)
    long = b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(512)) + squeezer.flush()
    started = time.monotonic()
    for bomb in (png(100_000, 100_000, zlib.compress(bytes(1 << 16))), png(2**31 - 1, 2**31 - 1, b"")):
        answer = request(
            gallery.port, "/api/v1/uploads", method="POST", body=bomb, headers={"content-type": "image/png"}
        )
        assert answer.status in (413, 422), answer
    answer = request(
        gallery.port, "/api/v1/uploads", method="POST", body=png(16, 16, long), headers={"content-type": "image/png"}
    )
    assert answer.status in (201, 422)
    assert time.monotonic() - started < 20


def test_an_upload_is_limited_in_bytes(gallery: Gallery) -> None:
    body = bytes((4 << 20) + 1)
    answer = request(gallery.port, "/api/v1/uploads", method="POST", body=body, headers={"content-type": "image/png"})
    assert answer.status in (0, 413)
    assert request(gallery.port, "/api/v1/health").status == 200


def test_a_thousand_ranges_are_not_a_thousand_parts(gallery: Gallery) -> None:
    size = (gallery.folder / "0.jpg").stat().st_size
    for ranges in (
        ",".join(f"{number}-{number}" for number in range(0, 2000, 2)),
        ",".join(["0-"] * 1000),
        ",".join(["-1"] * 1000),
        "0-99999999999999999999",
        "99999999999-",
        "--1",
        "5-2",
        "a-b",
        "",
    ):
        answer = gallery.get("0.jpg", "file", range=f"bytes={ranges}")
        assert answer.status in (200, 206, 400, 416), ranges[:30]
        assert len(answer.body) <= 2 * size


def test_names_with_markup_stay_within_their_header(gallery: Gallery) -> None:
    for kind in KINDS:
        answer = gallery.get(MARKUP, kind)
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
        assert "\n" not in "".join(answer.headers.values())
    details = request(gallery.port, f"/api/v1/images/{gallery.ids[MARKUP]}")
    assert details.headers["content-type"] == "application/json"
    assert details.json["name"] == MARKUP


@pytest.mark.parametrize(
    "identifier", ["..%2f..%2fetc%2fpasswd", "-1", "1.5", "%00", "1%00", "99999999999999999999", "1@9"]
)
def test_an_id_is_never_a_path(gallery: Gallery, identifier: str) -> None:
    for kind in KINDS:
        answer = request(gallery.port, f"/api/v1/images/{identifier}/{kind}")
        assert answer.status in (400, 404)
        assert b"root:" not in answer.body


def test_pictures_carry_no_metadata(gallery: Gallery) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera with a serial number"
    photograph(1, size=(400, 300)).save(gallery.folder / "4.jpg", exif=exif)
    index_folder(gallery.folder, encoder=ColourEncoder(), index=gallery.folder / ".llm2clip")
    changed = Gallery(gallery.folder, gallery.port)
    wait_until(lambda: changed.get("4.jpg", "thumbnail").status == 200)
    for kind in KINDS[1:]:
        assert b"serial number" not in changed.get("4.jpg", kind).body
