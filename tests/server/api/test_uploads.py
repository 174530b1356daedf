"""Pictures to search with: uploaded, cropped, refused."""

import io
import struct
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.support.encoders import ColourEncoder
from tests.support.images import png
from tests.support.odd_files import chunk
from tests.support.server import served

API = "/api/v1"
IMAGE = {"Content-Type": "image/png"}


def _upload(client: TestClient, data: bytes) -> str:
    answer = client.post(f"{API}/uploads", content=data, headers=IMAGE)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def _path(client: TestClient, identifier: str) -> Path:
    return Path(client.get(f"{API}/images/{identifier}").json()["path"])


def _best(client: TestClient, **term: object) -> tuple[str, float]:
    answer = client.post(f"{API}/search", json={"terms": [term], "k": 1})
    assert answer.status_code == 200, answer.text
    hit = answer.json()["hits"][0]
    return hit["id"], hit["score"]


def test_an_upload_finds_the_image_that_it_is(client: TestClient) -> None:
    upload = _upload(client, _path(client, "7").read_bytes())
    identifier, score = _best(client, upload=upload)
    assert identifier == "7"
    assert score == pytest.approx(1.0, abs=1e-3)


def test_a_crop_of_a_row_is_a_crop_of_its_file(client: TestClient) -> None:
    """Embedded as the same part of the file that Pillow cuts out."""
    box = [0.25, 0.0, 0.75, 0.5]
    with Image.open(_path(client, "5")) as image:
        width, height = image.size
        part = image.crop((int(box[0] * width), 0, round(box[2] * width), round(box[3] * height)))
        out = io.BytesIO()
        part.save(out, "PNG")
    expected = _best(client, upload=_upload(client, out.getvalue()))
    assert _best(client, like="5", crop=box) == pytest.approx(expected)
    upload = _upload(client, _path(client, "5").read_bytes())
    assert _best(client, upload=upload, crop=box) == pytest.approx(expected)
    assert _best(client, like="5") != pytest.approx(expected)


@pytest.mark.parametrize("crop", [[0.5, 0, 0.5, 1], [0.6, 0, 0.5, 1], [0, 0, 1], [0, 0, 1, 2], [-1, 0, 1, 1]])
def test_wrong_crops_are_refused(client: TestClient, crop: list[float]) -> None:
    answer = client.post(f"{API}/search", json={"terms": [{"like": "1", "crop": crop}]})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/bad-request")


def test_a_query_has_a_few_pictures(client: TestClient) -> None:
    """Each is decoded, and a small file may be a picture of 300 MB."""
    term = {"upload": _upload(client, _path(client, "7").read_bytes())}
    for count, status in ((8, 200), (9, 400)):
        terms = [{"text": "a dog"}, {"like": "3"}, *[term] * count]
        assert client.post(f"{API}/search", json={"terms": terms}).status_code == status


def test_a_caption_has_no_crop(client: TestClient) -> None:
    answer = client.post(f"{API}/search", json={"terms": [{"text": "a dog", "crop": [0, 0, 1, 1]}]})
    assert answer.status_code == 400


def test_an_upload_is_shown_and_forgotten(client: TestClient) -> None:
    upload = _upload(client, png(3))
    shown = client.get(f"{API}/uploads/{upload}/thumbnail?width=160")
    assert shown.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(shown.content)).size == (64, 48)
    assert client.delete(f"{API}/uploads/{upload}").status_code == 204
    assert client.get(f"{API}/uploads/{upload}/thumbnail").status_code == 404
    assert client.delete(f"{API}/uploads/{upload}").status_code == 404
    gone = client.post(f"{API}/search", json={"terms": [{"upload": upload}]})
    assert (gone.status_code, gone.json()["type"]) == (404, "/problems/not-found")


def _bomb() -> bytes:
    """A PNG of a few bytes that declares 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


@pytest.mark.parametrize("data", [b"", b"<!doctype html>", b"%PDF-1.4", b"<svg/>", png(1)[:60], _bomb()])
def test_what_is_no_image_is_refused(client: TestClient, data: bytes) -> None:
    answer = client.post(f"{API}/uploads", content=data, headers=IMAGE)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/not-an-image")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_what_a_form_of_another_site_could_send_is_refused(client: TestClient, kind: str) -> None:
    answer = client.post(f"{API}/uploads", content=png(1), headers={"Content-Type": kind})
    assert answer.status_code == 415


def test_large_uploads_are_refused(indexed: Path) -> None:
    with served(indexed, encoder=ColourEncoder(), upload_bytes=5000) as small:
        assert small.post(f"{API}/uploads", content=bytes(5001), headers=IMAGE).status_code == 413
        blocks = (bytes(1000) for _ in range(6))  # without a Content-Length
        assert small.post(f"{API}/uploads", content=blocks, headers=IMAGE).status_code == 413
