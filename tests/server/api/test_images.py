"""Pictures and files of rows over HTTP: every kind of source, and those who try to get other files."""

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import GPS, IFD, Base
from starlette.testclient import TestClient

from llm2clip_search.corpora import SourceOptions
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.indexers import index_corpus, index_folder
from tests.support.corpus import write_tar
from tests.support.documents import write_pdf
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.raws import dng, jpeg
from tests.support.server import served
from tests.support.tables import write_parquet
from tests.support.videos import moving, write_video

API = "/api/v1"
SECRET = b"root:x:0:0:the secret of somebody else"


def _gps() -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    exif.get_ifd(IFD.GPSInfo)[GPS.GPSLatitudeRef] = "N"
    exif.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] = (52.0, 1.0, 30.0)
    return exif


def _formats(folder: Path) -> None:
    """A file of each kind, with the same picture of 400 x 300 pixels where a picture is asked for."""
    from pillow_heif import register_heif_opener

    register_heif_opener()
    folder.mkdir(parents=True)
    picture = photograph(1, (400, 300))
    picture.rotate(90, expand=True).save(folder / "turned.jpg", quality=95, exif=_gps())
    picture.save(folder / "photo.heic", quality=95)
    picture.save(folder / "photo.tiff")
    picture.save(folder / "photo.png")
    (folder / "raw.dng").write_bytes(dng(picture, preview=jpeg(picture.resize((1200, 900)))))
    write_pdf(folder / "scan.pdf", [(400, 300, "a page")])
    write_video(folder / "clip.mp4", moving(2, size=(96, 64)))
    write_tar(folder / "shard.tar", {"000.jpg": jpeg(picture), "000.txt": b"a caption"})


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, dict[str, str]]]:
    """A client, and the ids of rows by their names."""
    folder = tmp_path_factory.mktemp("formats")
    _formats(folder / "files")
    index_folder(folder / "files", encoder=ColourEncoder(), index=folder / ".llm2clip")
    [archive] = open_corpora([str(folder / "files" / "shard.tar")])
    index_corpus(archive, encoder=ColourEncoder(), index=folder / ".llm2clip")
    with served(folder / ".llm2clip", encoder=ColourEncoder()) as client:
        yield client, _ids(client)


def _ids(client: TestClient) -> dict[str, str]:
    found: dict[str, str] = {}
    for identifier in range(100):
        answer = client.get(f"{API}/images/{identifier}")
        if answer.status_code == 404:
            return found
        row = answer.json()
        name = Path(row["path"].partition("#")[0]).name
        found.setdefault(name, row["id"])
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of three photographs, one of them in a folder within, and a secret outside of it."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "b.jpg").write_bytes(SECRET)
    inner = tmp_path / "photos" / "inner"
    inner.mkdir(parents=True)
    photograph(1, (80, 60)).save(tmp_path / "photos" / "a.jpg")
    photograph(2, (80, 60)).save(inner / "b.jpg")
    return tmp_path


def _served(place: Path, **config: Any) -> AbstractContextManager[TestClient]:
    index_folder(place / "photos", encoder=ColourEncoder(), index=place / ".llm2clip")
    return served(place / ".llm2clip", encoder=ColourEncoder(), **config)


NAMES = ("turned.jpg", "photo.heic", "photo.tiff", "photo.png", "raw.dng", "scan.pdf", "clip.mp4", "shard.tar")


@pytest.mark.parametrize("name", NAMES)
def test_every_format_has_a_thumbnail_and_a_preview(formats: tuple[TestClient, dict[str, str]], name: str) -> None:
    client, ids = formats
    small = client.get(f"{API}/images/{ids[name]}/thumbnail?width=160")
    assert (small.status_code, small.headers["content-type"]) == (200, "image/webp")
    shown = Image.open(io.BytesIO(small.content))
    assert shown.width <= 160
    assert shown.width > shown.height, "upright, as the picture is"
    assert not set(shown.info) & {"exif", "xmp", "icc_profile"}
    large = Image.open(io.BytesIO(client.get(f"{API}/images/{ids[name]}/preview").content))
    assert max(large.size) <= 2048
    assert not large.getexif()
    if name not in ("scan.pdf", "clip.mp4"):
        expected = np.asarray(photograph(1, (400, 300)).resize(shown.size), dtype=np.float64)
        assert np.abs(np.asarray(shown.convert("RGB")) - expected).mean() < 12


def test_colours_are_those_of_the_profile(place: Path) -> None:
    linear = _linear_profile()
    Image.new("RGB", (64, 64), (55, 55, 55)).save(place / "photos" / "linear.png", icc_profile=linear)
    with _served(place) as client:
        data = client.get(f"{API}/images/{_ids(client)['linear.png']}/thumbnail?width=160").content
    level = float(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).mean())
    expected = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)  # the sRGB curve of IEC 61966-2-1
    assert level == pytest.approx(expected, abs=3)


def _linear_profile() -> bytes:
    """The sRGB profile with a gamma of 1: the ``curv`` tags say so by having no entry."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    for number in range(count):
        entry = 132 + 12 * number
        if bytes(data[entry : entry + 4]) in (b"rTRC", b"gTRC", b"bTRC"):
            offset = int.from_bytes(data[entry + 4 : entry + 8], "big")
            data[offset : offset + 12] = b"curv" + bytes(8)
            data[entry + 8 : entry + 12] = (12).to_bytes(4, "big")
    return bytes(data)


def test_tall_pictures_keep_their_width_and_small_ones_their_size(place: Path) -> None:
    photograph(5, (400, 1200)).save(place / "photos" / "tall.png")
    photograph(6, (40, 30)).save(place / "photos" / "tiny.png")
    with _served(place) as client:
        ids = _ids(client)
        sizes = {
            name: Image.open(io.BytesIO(client.get(f"{API}/images/{ids[name]}/thumbnail?width=160").content)).size
            for name in ("tall.png", "tiny.png")
        }
    assert sizes == {"tall.png": (160, 480), "tiny.png": (40, 30)}


def test_a_picture_is_kept_for_ever_only_by_its_content(place: Path) -> None:
    with _served(place) as client:
        row = client.get(f"{API}/images/0").json()
        named = client.get(f"{API}/images/0/thumbnail?v={row['hash']}")
        other = client.get(f"{API}/images/0/thumbnail?v=0123456789abcdef")
        again = client.get(f"{API}/images/0/thumbnail", headers={"If-None-Match": named.headers["etag"]})
    assert "immutable" in named.headers["cache-control"]
    assert other.headers["cache-control"] == "private, no-cache"
    assert (again.status_code, again.content) == (304, b"")


def test_a_file_that_was_replaced_is_shown_as_it_is_now(place: Path) -> None:
    with _served(place) as client:
        before = client.get(f"{API}/images/0/thumbnail?width=160")
        Image.new("RGB", (80, 60), "red").save(place / "photos" / "a.jpg")
        version = client.get(f"{API}/images/0").json()["hash"]
        after = client.get(f"{API}/images/0/thumbnail?width=640&v={version}")
    shown = np.asarray(Image.open(io.BytesIO(after.content)).convert("RGB"))
    assert shown[..., 0].mean() > 200
    assert shown[..., 1].mean() < 60
    assert after.headers["etag"][:17] != before.headers["etag"][:17]
    assert after.headers["cache-control"] == "private, no-cache"


def test_a_thumbnail_outlives_its_file_and_the_server(place: Path) -> None:
    with _served(place) as client:
        first = client.get(f"{API}/images/0/thumbnail")
    (place / "photos" / "a.jpg").unlink()
    with served(place / ".llm2clip", encoder=ColourEncoder()) as client:
        assert client.get(f"{API}/images/0/thumbnail").content == first.content
        gone = client.get(f"{API}/images/0/thumbnail?width=1280")
        assert (gone.status_code, gone.json()["type"]) == (410, "/problems/gone")
        details = client.get(f"{API}/images/0").json()
        assert (details["exists"], details["source_exists"]) == (False, True)
        (place / "photos").rename(place / "elsewhere")
        assert client.get(f"{API}/images/0").json()["source_exists"] is False
        assert "drive" in client.get(f"{API}/images/0/file").json()["detail"]


ROUTES = ("thumbnail?width=640", "preview", "file")


@pytest.mark.parametrize("route", ROUTES)
def test_a_link_in_place_of_a_file_shows_nothing(place: Path, route: str) -> None:
    with _served(place) as client:
        (place / "photos" / "a.jpg").unlink()
        (place / "photos" / "a.jpg").symlink_to(place / "secret" / "b.jpg")
        answer = client.get(f"{API}/images/0/{route}")
        archive = client.post(f"{API}/archive", json={"ids": ["0"]}).content
    assert answer.status_code == 410
    assert SECRET not in answer.content
    assert SECRET not in archive


@pytest.mark.parametrize("route", ROUTES)
def test_a_link_in_place_of_a_folder_shows_nothing(place: Path, route: str) -> None:
    with _served(place) as client:
        (place / "photos" / "inner").rename(place / "photos" / "before")
        (place / "photos" / "inner").symlink_to(place / "secret", target_is_directory=True)
        answer = client.get(f"{API}/images/1/{route}")
    assert answer.status_code == 410
    assert SECRET not in answer.content


def test_links_that_were_indexed_are_served(place: Path) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    photograph(7, (80, 60)).save(elsewhere / "c.jpg")
    (place / "photos" / "linked").symlink_to(elsewhere, target_is_directory=True)
    with _served(place) as client:
        identifier = _ids(client)["c.jpg"]
        answer = client.get(f"{API}/images/{identifier}/file")
        assert answer.content == (elsewhere / "c.jpg").read_bytes()
        os.utime(elsewhere / "c.jpg", (1, 1))  # other times, the same content
        assert client.get(f"{API}/images/{identifier}/file").status_code == 200
        (elsewhere / "c.jpg").write_bytes(SECRET)
        assert client.get(f"{API}/images/{identifier}/file").status_code == 410


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_gone(place: Path, make: Callable[[Path], None]) -> None:
    with _served(place) as client:
        (place / "photos" / "a.jpg").unlink()
        make(place / "photos" / "a.jpg")
        assert [client.get(f"{API}/images/0/{route}").status_code for route in ROUTES] == [410] * 3


@pytest.mark.parametrize("content", [b"<!doctype html><script>alert(1)</script>", b"<svg onload='alert(1)'/>"])
def test_a_page_that_is_named_as_an_image_is_not_shown(place: Path, content: bytes) -> None:
    with _served(place) as client:
        (place / "photos" / "a.jpg").write_bytes(content)
        answer = client.get(f"{API}/images/0/file")
        assert client.get(f"{API}/images/0/thumbnail?width=640").status_code == 422
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_ranges(place: Path) -> None:
    data = (place / "photos" / "a.jpg").read_bytes()
    with _served(place) as client:

        def ask(**headers: str) -> tuple[int, bytes]:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            answer = client.get(f"{API}/images/0/file", headers=sent)
            return answer.status_code, answer.content

        tag = client.head(f"{API}/images/0/file").headers["etag"]
        assert ask() == (200, data)
        assert ask(Range="bytes=3-9") == (206, data[3:10])
        assert ask(Range="bytes=10-") == (206, data[10:])
        assert ask(Range="bytes=-7") == (206, data[-7:])
        assert ask(Range="bytes=0-999999999") == (206, data)
        assert ask(Range=f"bytes={len(data)}-")[0] == 416
        assert ask(Range="bytes=-0")[0] == 416
        assert ask(Range="lines=1-2") == ask(Range="bytes=9-3") == (200, data)
        assert ask(Range="bytes=3-9", If_Range=tag) == (206, data[3:10])
        assert ask(Range="bytes=3-9", If_Range='"other"') == (200, data)
        assert ask(If_None_Match=f'"x", {tag}') == (304, b"")
        many = ",".join(f"{each}-{each}" for each in range(1000))
        assert ask(Range=f"bytes={many}") == (200, data)
        head = client.head(f"{API}/images/0/file", headers={"Range": "bytes=3-9"})
    assert (head.status_code, head.content, head.headers["content-length"]) == (206, b"", "7")


def test_the_original_of_a_page_is_its_document(formats: tuple[TestClient, dict[str, str]]) -> None:
    client, ids = formats
    document = client.get(f"{API}/images/{ids['scan.pdf']}/file")
    assert document.content.startswith(b"%PDF")
    assert document.headers["content-disposition"].startswith('attachment; filename="scan.pdf"')
    member = client.get(f"{API}/images/{ids['shard.tar']}/file")
    assert member.headers["content-type"] == "image/jpeg"
    assert 'filename="000.jpg"' in member.headers["content-disposition"]


def test_what_is_like_a_row(formats: tuple[TestClient, dict[str, str]]) -> None:
    client, ids = formats
    found = client.get(f"{API}/images/{ids['photo.png']}/similar", params={"k": 3, "where": "format <> 'PNG'"}).json()
    posted = {"terms": [{"like": ids["photo.png"]}], "k": 3, "where": "format <> 'PNG'"}
    assert found["hits"] == client.post(f"{API}/search", json=posted).json()["hits"]
    assert len(found["hits"]) == 3
    assert client.get(f"{API}/images/99/similar").status_code in (400, 404)


def test_a_table_that_was_replaced_names_no_other_file(tmp_path: Path) -> None:
    """Cells may hold the path of an image; whoever writes the table could name any file later."""
    import pyarrow as pa

    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    secret = tmp_path / "secret.jpg"
    photograph(3).save(secret)
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "photos.parquet"
    rows = [{"bytes": jpeg(photograph(4)), "path": "a.jpg"}]
    write_parquet(table, {"image": pa.array(rows, cell)})
    [corpus] = open_corpora([str(table)], SourceOptions(kind="table"))
    index_corpus(corpus, encoder=ColourEncoder(), index=tmp_path / ".llm2clip")
    with served(tmp_path / ".llm2clip", encoder=ColourEncoder()) as client:
        assert client.get(f"{API}/images/0/file").content == rows[0]["bytes"]
        write_parquet(table, {"image": pa.array([{"bytes": None, "path": str(secret)}], cell)})
        answers = [client.get(f"{API}/images/0/{route}") for route in ROUTES]
    assert [answer.status_code for answer in answers] == [410] * 3


def test_an_archive_has_safe_names_once(place: Path) -> None:
    (place / "photos" / "inner" / "A.JPG").write_bytes((place / "photos" / "inner" / "b.jpg").read_bytes())
    odd = place / "photos" / "inner" / "x\\..\\..\\<b>\n.jpg"
    photograph(8).save(odd)
    with _served(place) as client:
        ids = [*_ids(client).values()]
        assert len(ids) == 4
        (place / "photos" / "inner" / "b.jpg").unlink()
        answers = [
            client.post(f"{API}/archive", json={"ids": [*ids, *ids, "77"]}),
            client.post(f"{API}/archive", data={"ids": ",".join([*ids, "77"])}),
        ]
    for answer in answers:
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            names = archive.namelist()
            assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
            assert archive.read("missing.txt").count(b"\n") == 2
            assert archive.read("a.jpg") == (place / "photos" / "a.jpg").read_bytes()
        assert len({name.casefold() for name in names}) == len(names) == 4
        assert not any(letter in name for name in names for letter in "/\\<>\n")


@pytest.mark.parametrize("body", [{"ids": []}, {"ids": ["1"] * 1001}, {"ids": ["../1"]}, {"names": ["1"]}])
def test_wrong_archives_are_refused(formats: tuple[TestClient, dict[str, str]], body: dict[str, list[str]]) -> None:
    assert formats[0].post(f"{API}/archive", json=body).status_code == 400


def test_a_server_that_hides_places_gives_no_originals(place: Path) -> None:
    photograph(9, (80, 60)).save(place / "photos" / "gps.jpg", exif=_gps())
    with _served(place, hide_location=True) as client:
        identifier = _ids(client)["gps.jpg"]
        assert client.get(f"{API}/images/{identifier}/file").status_code == 403
        assert client.post(f"{API}/archive", json={"ids": [identifier]}).status_code == 403
        assert "latitude" not in client.get(f"{API}/images/{identifier}").json()
        preview = client.get(f"{API}/images/{identifier}/preview")
        assert preview.status_code == 200
        assert not Image.open(io.BytesIO(preview.content)).getexif()


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "-1", "1e3", "0x1", "1@9", "9" * 20])
def test_ids_are_nothing_but_ids(formats: tuple[TestClient, dict[str, str]], name: str) -> None:
    for route in ("", "/thumbnail", "/preview", "/file"):
        assert formats[0].get(f"{API}/images/{name}{route}").status_code in (400, 404)


def test_folders_are_opened_by_argument(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    class Started:
        def __init__(self, arguments: list[str], **options: object) -> None:
            assert not options.get("shell")
            called.append(arguments)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("llm2clip_search.server.api.images.subprocess.Popen", Started)
    with _served(place) as client:
        assert client.post(f"{API}/images/0/open-folder").status_code == 204
    with served(place / ".llm2clip", encoder=ColourEncoder(), host="0.0.0.0", token="t" * 32) as client:
        client.headers["Authorization"] = "Bearer " + "t" * 32
        assert client.post(f"{API}/images/0/open-folder").status_code == 403
    assert [arguments[1:] for arguments in called] == [[str(place / "photos")]]
