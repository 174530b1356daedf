"""A photographer's folder: RAW files, JPEGs beside them, and sidecars whose ratings change."""

import os
from pathlib import Path
from typing import Any

import pytest

from llm2clip_search.corpora import FolderCorpus, SourceOptions
from llm2clip_search.indexers import IndexConfig, IndexSummary, index_corpus
from llm2clip_search.store import Snapshot
from tests.support.corpus import write_csv
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.packets import packet
from tests.support.raws import dng, jpeg


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images as RAW and JPEG, one as RAW alone, one as JPEG with a packet of its own."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, names in ((1, ("IMG_1.CR2", "IMG_1.JPG")), (2, ("img_2.dng", "IMG_2.jpg")), (3, ("IMG_3.DNG",))):
        picture = photograph(number, (640, 480))
        for name in names:
            is_raw = not name.lower().endswith("jpg")
            data = dng(picture, preview=jpeg(picture)) if is_raw else jpeg(picture)
            (folder / name).write_bytes(data)
    (folder / "IMG_4.jpg").write_bytes(jpeg(photograph(4), xmp=packet(rating=2, caption="own", keyword="own")))
    return folder


def update(photos: Path, encoder: ColourEncoder, *, rehash: bool = False, **options: Any) -> IndexSummary:
    corpus = FolderCorpus(photos, options=SourceOptions(**options))
    return index_corpus(corpus, encoder=encoder, index=photos.parent / "index", config=IndexConfig(rehash=rehash))


def described(photos: Path) -> dict[str, tuple[Any, ...]]:
    rows = Snapshot(photos.parent / "index").metadata().to_pylist()
    return {row["path"].rpartition("/")[2]: (row["rating"], row["keywords"], row["caption"]) for row in rows}


def test_a_raw_file_and_its_jpeg_are_one_image(photos: Path) -> None:
    encoder = ColourEncoder()
    summary = update(photos, encoder)
    assert sorted(described(photos)) == ["IMG_1.JPG", "IMG_2.jpg", "IMG_3.DNG", "IMG_4.jpg"]
    assert (summary.failures, summary.skipped.raw) == ([], 2)
    assert "2 RAW files skipped: a JPEG or other image of the same name is beside them" in summary.skipped.reasons()
    assert summary.skipped.to_dict()["raw"] == 2
    both = update(photos, encoder, separate_raw=True)
    assert (both.total, both.indexed, both.skipped.raw) == (6, 2, 0)
    (photos / "IMG_1.JPG").unlink()
    again = update(photos, encoder)
    assert "IMG_1.CR2" in described(photos)
    assert (again.total, again.skipped.raw) == (4, 1)


def test_a_jpeg_that_is_left_out_hides_no_raw_file(photos: Path) -> None:
    (photos / "sub").mkdir()
    (photos / "sub" / "IMG_3.jpg").write_bytes(jpeg(photograph(9)))  # of another folder
    names = [Path(item.uri).name for item in FolderCorpus(photos, exclude=["*.jpg", "*.JPG"]).items()]
    assert names == ["IMG_1.CR2", "IMG_3.DNG", "img_2.dng"]


def test_sidecars_describe_the_image_that_stands_for_their_file(photos: Path) -> None:
    (photos / "IMG_1.CR2.xmp").write_bytes(packet(rating=1))  # darktable's, of the RAW file that is not listed
    (photos / "img_2.XMP").write_bytes(packet(rating=2))
    (photos / "IMG_2.jpg.xmp").write_bytes(packet(rating=3))
    (photos / "IMG_3.xmp").write_bytes(packet(rating=-1, keyword="dune"))
    (photos / "IMG_4.xmp").write_bytes(packet(rating=5))
    (photos / "IMG_5.xmp").write_bytes(packet(rating=5))
    assert update(photos, ColourEncoder()).failures == []
    assert described(photos) == {
        "IMG_1.JPG": (1, None, None),
        "IMG_2.jpg": (3, None, None),
        "IMG_3.DNG": (-1, ["dune"], None),
        "IMG_4.jpg": (5, ["own"], "own"),
    }


def test_a_changed_sidecar_embeds_nothing_and_a_lost_one_gives_back_what_the_file_says(photos: Path) -> None:
    encoder, sidecar = ColourEncoder(), photos / "IMG_4.xmp"
    update(photos, encoder)
    assert described(photos)["IMG_4.jpg"] == (2, ["own"], "own")
    for content, expected in (
        (packet(rating=4, caption="better", keyword="sea"), (4, ["sea"], "better")),
        (packet(rating=5), (5, ["own"], "own")),
        (packet(caption="no stars"), (2, ["own"], "no stars")),
        (None, (2, ["own"], "own")),
    ):
        if content is None:
            sidecar.unlink()
        else:
            sidecar.write_bytes(content)
        summary = update(photos, encoder)
        assert (summary.redescribed, summary.unchanged, encoder.embedded) == (1, 3, 4)
        assert described(photos)["IMG_4.jpg"] == expected
        again = update(photos, encoder)
        assert (again.redescribed, again.unchanged, encoder.embedded) == (0, 4, 4)


def test_a_run_that_reads_everything_sees_changed_sidecars(photos: Path) -> None:
    encoder, sidecar = ColourEncoder(), photos / "IMG_4.xmp"
    sidecar.write_bytes(packet(rating=4))
    update(photos, encoder)
    sidecar.write_bytes(packet(rating=5))
    os.utime(sidecar, ns=(1, 1))
    summary = update(photos, encoder, rehash=True)
    assert described(photos)["IMG_4.jpg"] == (5, ["own"], "own")
    assert (summary.reused, summary.unchanged) == (1, 3)
    sidecar.unlink()
    update(photos, encoder, rehash=True)
    assert described(photos)["IMG_4.jpg"] == (2, ["own"], "own")
    assert update(photos, encoder, rehash=True).unchanged == encoder.embedded == 4


def test_a_renamed_image_leaves_its_sidecar_behind(photos: Path) -> None:
    (photos / "IMG_4.xmp").write_bytes(packet(rating=5, caption="sidecar"))
    encoder = ColourEncoder()
    update(photos, encoder)
    (photos / "IMG_4.jpg").rename(photos / "moved.jpg")
    assert update(photos, encoder).reused == 1
    assert described(photos)["moved.jpg"] == (2, ["own"], "own")
    assert update(photos, encoder).unchanged == encoder.embedded == 4


def test_a_second_run_opens_neither_images_nor_sidecars(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "IMG_1.xmp").write_bytes(packet(rating=1))
    encoder = ColourEncoder()
    update(photos, encoder)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is read")

    monkeypatch.setattr("llm2clip_search.corpora.companions.read_xmp", refuse)
    monkeypatch.setattr("llm2clip_search.corpora.companions.read_metadata", refuse)
    monkeypatch.setattr(FolderCorpus, "open", refuse)
    assert update(photos, encoder).unchanged == 4


def test_a_copy_does_not_inherit_a_sidecar(photos: Path) -> None:
    (photos / "IMG_4.xmp").write_bytes(packet(rating=5, caption="of the first"))
    encoder = ColourEncoder()
    update(photos, encoder)
    (photos / "IMG_5.jpg").write_bytes((photos / "IMG_4.jpg").read_bytes())
    summary = update(photos, encoder)
    assert (summary.reused, encoder.embedded) == (1, 4)
    assert described(photos)["IMG_5.jpg"] == (2, ["own"], "own")
    assert described(photos)["IMG_4.jpg"] == (5, ["own"], "of the first")


def test_a_raw_file_that_is_no_tiff_file_has_the_packet_of_its_preview(photos: Path) -> None:
    picture = photograph(8, (640, 480))
    data = dng(picture, preview=jpeg(picture, xmp=packet(rating=3)))
    (photos / "IMG_8.ORF").write_bytes(b"IIRO" + data[4:])  # how Olympus begins a TIFF file
    encoder, sidecar = ColourEncoder(), photos / "IMG_8.xmp"
    update(photos, encoder)
    assert described(photos)["IMG_8.ORF"] == (3, None, None)
    sidecar.write_bytes(packet(rating=5))
    update(photos, encoder)
    assert described(photos)["IMG_8.ORF"] == (5, None, None)
    sidecar.unlink()
    (photos / "IMG_8.ORF").rename(photos / "moved.orf")
    assert update(photos, encoder).reused == 1
    assert described(photos)["moved.orf"] == (3, None, None)
    assert update(photos, encoder).unchanged == encoder.embedded == 5


def test_an_image_and_its_sidecar_change_at_once(photos: Path) -> None:
    encoder, sidecar = ColourEncoder(), photos / "IMG_4.xmp"
    sidecar.write_bytes(packet(rating=5, caption="sidecar"))
    update(photos, encoder)
    sidecar.write_bytes(packet(rating=1))
    os.utime(photos / "IMG_4.jpg", ns=(1, 1))
    assert update(photos, encoder).reused == 1
    assert described(photos)["IMG_4.jpg"] == (1, ["own"], "own")
    sidecar.unlink()
    (photos / "IMG_4.jpg").write_bytes(jpeg(photograph(14), xmp=packet(rating=3)))
    update(photos, encoder)
    assert described(photos)["IMG_4.jpg"] == (3, None, None)
    assert update(photos, encoder).unchanged == 4


def test_a_touched_image_loses_a_sidecar_that_is_gone(photos: Path) -> None:
    encoder, sidecar = ColourEncoder(), photos / "IMG_4.xmp"
    sidecar.write_bytes(packet(rating=5, caption="sidecar"))
    update(photos, encoder)
    sidecar.unlink()
    os.utime(photos / "IMG_4.jpg", ns=(1, 1))
    update(photos, encoder)
    update(photos, encoder)
    assert described(photos)["IMG_4.jpg"] == (2, ["own"], "own")
    assert encoder.embedded == 4


def test_a_damaged_sidecar_is_said_and_stops_nothing(photos: Path) -> None:
    (photos / "IMG_1.xmp").write_bytes(b"<x")
    (photos / "IMG_2.xmp").mkdir()
    (photos / "IMG_3.xmp").symlink_to("nowhere.xmp")
    summary = update(photos, ColourEncoder())
    assert (summary.indexed, summary.failures) == (4, [])
    assert "sidecars that cannot be read: 2" in summary.skipped.reasons()


def test_sidecars_and_a_table_of_metadata(photos: Path) -> None:
    from llm2clip_search.corpora.joined import JoinedCorpus

    sidecar = photos / "IMG_4.xmp"
    sidecar.write_bytes(packet(rating=5, caption="sidecar"))
    meta = write_csv(photos.parent / "meta.csv", [{"path": "IMG_4.jpg", "caption": "table", "licence": "CC0"}])
    encoder = ColourEncoder()

    def run() -> tuple[Any, ...]:
        index_corpus(JoinedCorpus(FolderCorpus(photos), str(meta)), encoder=encoder, index=photos.parent / "index")
        [row] = [row for row in Snapshot(photos.parent / "index").metadata().to_pylist() if "IMG_4" in row["path"]]
        return row["rating"], row["caption"], row["licence"]

    assert run() == (5, "table", "CC0")
    sidecar.write_bytes(packet(caption="sidecar"))
    assert run() == (2, "table", "CC0")
    sidecar.unlink()
    assert run() == (2, "table", "CC0")
    assert encoder.embedded == 4
