"""Random access to images in shards and folders, and damaged shards."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.errors import CorpusError
from tests.support.corpus import jpeg, write_tar


def test_images_of_shards_and_folders_are_found_by_name_and_by_stem(tmp_path: Path) -> None:
    write_tar(tmp_path / "s-0.tar", {"./0/a.jpg": b"A", "0/a.json": b"{}", "0/b.PNG": b"BB", "notes.txt": b"x"})
    write_tar(tmp_path / "s-1.tar", {"c.jpeg": b"CCC", "twin.jpg": b"1", "twin.png": b"2"})
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "d.webp").write_bytes(b"DDDD")
    (tmp_path / "folder" / "e.txt").write_bytes(b"no image")
    files = ImageFiles.scan(tmp_path, ["s-{0,1}.tar", "folder"])
    assert list(files) == ["0/a.jpg", "0/b.PNG", "c.jpeg", "twin.jpg", "twin.png", "deep/d.webp"]
    assert len(files) == 6
    assert [files.read(image_id) for image_id in files] == [b"A", b"BB", b"CCC", b"1", b"2", b"DDDD"]
    assert files.find("0/a") == files.find("0/a.jpg") == "0/a.jpg"
    assert files.find("deep/d") == "deep/d.webp"
    assert files.find("twin") is None, "two images bear it"
    assert files.find("a.jpg") is None
    assert files.content_hashes["c.jpeg"] == hashlib.sha256(b"CCC").hexdigest()


def shard(path: Path) -> Path:
    return write_tar(path, {f"{n}.jpg": jpeg(n) for n in range(3)})


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda data: b"", "empty file"),
    "no tar": (lambda data: b"no tar" * 200, "truncated header|invalid header"),
    "compressed": (lambda data: b"\x1f\x8b" + data, "invalid header|bad checksum|truncated header"),
    "cut in an image": (lambda data: data[:900], "unexpected end of data"),
    "cut between images": (lambda data: data[: data.index(b"1.jpg")], "damaged or cut off after '0.jpg'"),
    "cut in a header": (lambda data: data[: data.index(b"2.jpg") + 100], "damaged or cut off after '1.jpg'"),
    "a header changed": (lambda data: data.replace(b"1.jpg", b"one!!"), "damaged or cut off after '0.jpg'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_refused_rather_than_read_in_part(tmp_path: Path, damage: str) -> None:
    change, reason = DAMAGES[damage]
    path = shard(tmp_path / "s.tar")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorpusError, match=f"s.tar cannot be read as an uncompressed tar shard: .*({reason})"):
        ImageFiles.scan(tmp_path, ["s.tar"])


def test_a_shard_that_shrinks_afterwards_is_reported(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar")
    files = ImageFiles.scan(tmp_path, ["s.tar"])
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"2.jpg") + 512 + 10])
    assert files.read("0.jpg") == jpeg(0)
    with pytest.raises(CorpusError, match=rf"s.tar ends within '2.jpg': it has 10 of {len(jpeg(2))} bytes"):
        files.read("2.jpg")


def test_an_id_that_two_images_share_is_refused(tmp_path: Path) -> None:
    for name in ("s-0.tar", "s-1.tar"):
        shard(tmp_path / name)
    with pytest.raises(CorpusError, match=r"Image '0\.jpg' is in .*s-0\.tar and again in .*s-1\.tar"):
        ImageFiles.scan(tmp_path, ["s-*.tar"])


def test_no_image_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a.json": b"{}"})
    with pytest.raises(CorpusError, match=r"There are no images in .*s\.tar"):
        ImageFiles.scan(tmp_path, ["s.tar"])
    with pytest.raises(CorpusError, match=r"t\.tar does not exist"):
        ImageFiles.scan(tmp_path, ["t.tar"])


def test_paths_are_found_as_tables_spell_them(tmp_path: Path) -> None:
    """`./`, backslashes, and another case where the file system finds the file under it."""
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/B.PNG", "deep/c.jpg", "deep/C.jpg"):
        (tmp_path / "images" / name).write_bytes(name.encode())
    write_tar(tmp_path / "s.tar", {"./In/shard.jpg": b"S"})
    files = ImageFiles.scan(tmp_path, ["images", "s.tar"])
    assert files.find("./a.jpg") == files.find("././a") == files.find(".\\a.jpg") == "a.jpg"
    assert files.find("deep\\B.PNG") == files.find("./deep/./B") == "deep/B.PNG"
    assert files.find("./In/shard") == "In/shard.jpg"
    assert files.find("DEEP/b.png") is None, "this file system tells case apart"
    # What a file system that ignores case does: the other spelling leads to the same file.
    (tmp_path / "images" / "DEEP").symlink_to("deep")
    (tmp_path / "images" / "deep" / "b.png").hardlink_to(tmp_path / "images" / "deep" / "B.PNG")
    (tmp_path / "images" / "deep" / "b.PNG").hardlink_to(tmp_path / "images" / "deep" / "B.PNG")
    assert files.find("DEEP/b.png") == files.find("./DEEP/b") == "deep/B.PNG"
    assert files.find("deep/C.JPG") is None, "two files differ in case only"
    assert files.find("in/shard.jpg") is None, "case counts within a shard"
