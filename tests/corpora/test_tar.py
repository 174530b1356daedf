"""Tar archives: what is an item, what are its columns, and that its bytes are read by one range."""

import json
import os
import re
import subprocess
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.corpora.files import LocalFiles
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.tar import TarContainer
from tests.support.corpus import write_tar
from tests.support.tars import RemoteFiles, listed

LAYOUTS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
SAMPLES = [
    ("000.jpg", b"first" * 200),
    ("000.json", json.dumps({"url": "u0", "width": 9, "nsfw": False, "score": 0.5, "license": None}).encode()),
    ("000.txt", "\ufeffein Hund \n".encode()),
    ("001.txt", b"a cat"),
    ("001.png", b""),
    ("train/001.jpg", b"x" * 512),
]


def names(path: Path, options: SourceOptions = SourceOptions()) -> list[str]:
    """Names of the members that are items, those with a fault in parentheses."""
    return [
        f"({item.uri.removeprefix(f'{path}#')})" if item.fault else item.uri.removeprefix(f"{path}#")
        for item in listed(path, options)[0]
    ]


def fault(path: Path) -> str:
    [item] = [item for item in listed(path)[0] if item.fault]
    return item.fault


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_are_images_with_the_columns_beside_them(tmp_path: Path, layout: int) -> None:
    path = write_tar(tmp_path / "a.tar", SAMPLES, layout=layout)
    items, error = listed(path)
    assert not error
    assert names(path) == ["000.jpg", "001.png", "train/001.jpg"]
    assert [dict(item.columns) for item in items] == [
        {"url": "u0", "source_width": 9, "nsfw": False, "source_score": 0.5, "caption": "ein Hund"},
        {"caption": "a cat"},
        {},
    ]
    assert len({item.described for item in items}) == 3
    assert [item.size for item in items] == [1000, 0, 512]
    assert {item.mtime_ns for item in items} == {1_700_000_000 * 10**9}
    read = [TarContainer().open(LocalFiles(), replace(item, data=None)) for item in items]
    assert read == [b"first" * 200, b"", b"x" * 512]
    assert all(re.fullmatch(rf"\d+\+{item.size}@\d+:\d+", item.version) for item in items)


@pytest.mark.parametrize("layout", ["gnu", "pax", "ustar", "v7"])
def test_what_gnu_tar_writes(tmp_path: Path, layout: str) -> None:
    long = "f" * 60
    folder = tmp_path / "in" / long
    folder.mkdir(parents=True)
    longer = "g" * (100 if layout in ("gnu", "pax") else 30)
    given = {f"{long}/{longer}.jpg": b"long", "b.jpg": b"b" * 1000, "é.jpg": b"e"}
    for name, data in given.items():
        (tmp_path / "in" / name).write_bytes(data)
    options = [f"--format={layout}", "--sort=name", "-C", str(tmp_path / "in")]
    command = ["tar", *options, "-cf", str(tmp_path / "a.tar"), "."]
    subprocess.run(command, check=True)
    items, error = listed(tmp_path / "a.tar")
    assert not error
    read = {item.uri.partition("#")[2]: TarContainer().open(LocalFiles(), item) for item in items}
    assert read == given


@given(st.lists(st.text(st.sampled_from("ab./-é"), min_size=1, max_size=12), max_size=20, unique=True))
@settings(max_examples=100, deadline=None)
def test_keys_end_where_those_of_webdataset_end(tmp_path_factory: pytest.TempPathFactory, stems: list[str]) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    given = [name for stem in stems for name in (f"{stem}.jpg", f"{stem}.txt")]
    write_tar(path, [(name, b"caption") for name in given])
    expected = dict[str, list[str]]()
    with tarfile.open(path) as tar:
        for name in tar.getnames():
            # Its expression. A member of which this finds no key belongs to no sample, and hidden folders are ours.
            match = re.fullmatch(r"((?:.*/|)[^./][^./]*)[.]([^/]*)", name.removeprefix("./"))
            if match and not any(part.startswith(".") for part in match[1].split("/") if part not in ("", ".", "..")):
                expected.setdefault(match[1], []).append(match[2])
    described = [item for item in listed(path)[0] if item.columns]
    keys = [item.uri.partition("#")[2].rpartition("/") for item in described]
    found = {f"{folder}{slash}{base.partition('.')[0]}" for folder, slash, base in keys}
    assert found == {key for key, ends in expected.items() if any(end.rpartition(".")[2] == "jpg" for end in ends)}


def test_names_that_are_not_utf8_or_long(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.jpg")
    for layout in LAYOUTS:
        longer = [f"{'y' * 300}.jpg", f"{'ü' * 60}.jpg"] if layout != tarfile.USTAR_FORMAT else []
        given = {name: os.fsencode(name) for name in (odd, f"{'x' * 96}.jpg", *longer)}
        items, error = listed(write_tar(tmp_path / "a.tar", given.items(), layout=layout))
        assert not error
        assert {item.uri.partition("#")[2]: TarContainer().open(LocalFiles(), item) for item in items} == given


def test_what_is_no_image_of_a_sample(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"1"),
        ("a.seg.png", b"2"),
        ("a.npy", b"3"),
        ("b.txt", b"alone"),
        ("b.bin", b""),
        ("c.left.JPG", b"4"),
        ("d.nef", b"5"),
        ("README", b"no sample"),
        ("._a.jpg", b"attributes"),
        ("@eaDir/a.jpg", b"thumbnail"),
        (".git/a.jpg", b"hidden"),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    assert names(path) == ["a.jpg", "a.seg.png", "(b)", "c.left.JPG", "d.nef"]
    assert fault(path) == "the sample has no image, but .txt, .bin"
    assert names(path, SourceOptions(everything=True))[5:] == ["@eaDir/a.jpg", ".git/a.jpg"]


def test_an_image_that_comes_again_gets_a_number(tmp_path: Path) -> None:
    many = [(f"{number:05d}.jpg", b"%d" % number) for number in range(9000)]
    members = [*many, ("00000.jpg", b"again"), ("08999.jpg", b"again"), ("08999.jpg", b"thrice"), ("x.jpg", b"x")]
    path = write_tar(tmp_path / "a.tar", members)
    items, _ = listed(path)
    again = [item.uri.removeprefix(f"{path}#") for item in items[9000:]]
    assert again == ["00000.jpg#2", "08999.jpg#2", "08999.jpg#3", "x.jpg"]
    assert len({item.uri for item in items}) == len(members)
    assert TarContainer().open(LocalFiles(), items[9002]) == b"thrice"


def test_links_and_sparse_files_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"content")
    os.link(tmp_path / "a.jpg", tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to("a.jpg")
    with (tmp_path / "d.jpg").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / "d.txt").symlink_to("a.jpg")
    for layout in ("gnu", "pax"):
        files = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "d.txt"]
        subprocess.run(
            ["tar", "-S", f"--format={layout}", "-C", tmp_path, "-cf", tmp_path / "a.tar", *files], check=True
        )
        faults = {item.uri.partition("#")[2]: item.fault for item in listed(tmp_path / "a.tar")[0]}
        assert faults == {
            "a.jpg": "",
            "b.jpg": "it is a link to a.jpg",
            "c.jpg": "it is a link to a.jpg",
            "d.jpg": "it is a sparse file, which the tar holds in pieces",
            "d.txt": "it is a link to a.jpg",
        }


def test_a_tar_in_a_tar_is_a_failure(tmp_path: Path) -> None:
    inner = write_tar(tmp_path / "inner.tar", SAMPLES).read_bytes()
    members = [("inner.tar", inner), ("jpg.tar", inner), ("tar.jpg", inner), ("z.jpg", b"x" * 600)]
    path = write_tar(tmp_path / "outer.tar", members)
    assert names(path) == ["(inner)", "(jpg)", "tar.jpg", "z.jpg"]
    assert names(path, SourceOptions(everything=True)) == ["(inner)", "(jpg)", "tar.jpg", "z.jpg"]


def test_texts_and_json(tmp_path: Path) -> None:
    def columns(*members: tuple[str, bytes], wanted: tuple[str, ...] | None = None) -> dict[str, Any]:
        path = write_tar(tmp_path / "a.tar", [("a.jpg", b""), *((f"a.{end}", data) for end, data in members)])
        [item] = [item for item in listed(path, SourceOptions(columns=wanted))[0] if not item.fault]
        return dict(item.columns)

    nested = {
        "exif": {"ISO": 100},
        "boxes": [[1, 2]],
        "keywords": ["é", "b"],
        "n": None,
        "e": [],
        "s": "\ud800",
    }
    assert columns(("json", json.dumps(nested).encode())) == {
        "exif": '{"ISO": 100}',
        "boxes": "[[1, 2]]",
        "keywords": ["é", "b"],
        "s": "?",
    }
    assert columns(("cls", b"12\n"), ("url", b"http://x")) == {"class": 12, "url": "http://x"}
    assert columns(("cls", b"dog"), ("id", b"7")) == {"class": "dog", "source_id": 7}
    assert columns(("json", b'{"caption": "a"}'), ("txt", b"a")) == {"caption": "a"}
    assert columns(("json", b'{"caption": "alt"}'), ("txt", b"new")) == {"caption": "alt", "txt_caption": "new"}
    assert columns(("en.txt", b"a dog"), ("de.txt", b"ein Hund")) == {"en": "a dog", "de": "ein Hund"}
    assert columns(("json", b'["a", "b"]'), ("x.json", b"3")) == {"json": ["a", "b"], "x": 3}
    assert columns(("txt", b"caf\xe9")) == {"caption": "caf\ufffd"}
    assert columns(("json", b'{"width": 3, "url": "u"}'), ("txt", b"t"), wanted=("width",)) == {"source_width": 3}
    assert columns(("json", b"{"), wanted=()) == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "it is not JSON: Expecting property name"),
        (b"[" * 100_000, "it is not JSON: maximum recursion"),
        (json.dumps(dict.fromkeys(map(str, range(300)), 1)).encode(), "its sample would have more than 200 columns"),
        (b" " * (5 << 20), "it has 5,242,880 bytes, more than the 4,194,304 that a column may have"),
    ],
)
def test_json_that_cannot_be_read_is_a_failure_beside_its_image(tmp_path: Path, data: bytes, reason: str) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.json", data), ("a.txt", b"caption")])
    assert names(path) == ["a.jpg", "(a.json)"]
    assert fault(path).startswith(reason)
    assert listed(path)[0][0].columns == {"caption": "caption"}


def test_members_larger_than_memory_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        for name, size in (("a.jpg", 5 << 30), ("a.json", 5 << 30), ("b.jpg", 9 << 30), ("c.jpg", 0)):
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.seek(size, os.SEEK_CUR)
        file.truncate(file.tell() + 1024)
    for files in (LocalFiles(), RemoteFiles()):
        items, error = listed(path, files=files)
        assert not error
        found = [(item.uri.partition("#")[2], item.size >> 30) for item in items]
        assert found == [("a.jpg", 5), ("a.json", 5), ("b.jpg", 9), ("c.jpg", 0)]
        assert [bool(item.fault) for item in items] == [False, True, False, False]
        assert all(item.data is None for item in items[:3])


def test_a_header_that_asks_for_memory_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2 << 30)
    assert "a header has 1,073,741,824 bytes" in listed(path)[1]


@given(cut=st.integers(min_value=0, max_value=5120))
@settings(deadline=None)
def test_a_tar_cut_anywhere_gives_what_was_before(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = write_tar(tmp_path_factory.mktemp("tar") / "a.tar", SAMPLES)
    whole = {item.uri: TarContainer().open(LocalFiles(), item) for item in listed(path)[0]}
    ends = {item.uri: int(item.version.partition("+")[0]) + item.size for item in listed(path)[0]}
    os.truncate(path, cut)
    items, error = listed(path)
    last = 512 * 11  # the last data, before the mark of the end
    assert bool(error) == (cut < last + 512)
    assert str(path) in error or not error
    for item in items:
        if item.fault:
            assert "ends within it" in item.fault
        elif ends[item.uri] <= cut:
            assert TarContainer().open(LocalFiles(), item) == whole[item.uri]
        else:
            with pytest.raises(OSError, match="ends within it"):
                TarContainer().open(LocalFiles(), item)
    assert {uri for uri in whole if ends[uri] <= cut} <= {item.uri for item in items}


@given(position=st.integers(0, 512 * 12 - 1), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_damaged_tar_ends_with_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = write_tar(tmp_path_factory.mktemp("tar") / "a.tar", SAMPLES, layout=tarfile.PAX_FORMAT)
    data = bytearray(path.read_bytes())
    data[position] = value
    path.write_bytes(data)
    items, error = listed(path)
    assert len(items) >= 3 or "cannot be read as a tar" in error
    assert "\n" not in error


def test_sizes_that_lead_back_end(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = -1024
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) * 2)
    items, error = listed(tmp_path / "a.tar")
    assert not items
    assert "damaged" in error


def test_files_that_are_no_tars(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [])
    assert listed(path) == ([], "")
    path.write_bytes(b"")
    assert "empty file" in listed(path)[1]
    path.write_bytes(b"<html>" + b" " * 2000)
    assert "cannot be read as a tar" in listed(path)[1]
    whole = write_tar(tmp_path / "b.tar", SAMPLES)
    for option, method in (("-z", "gzip"), ("-j", "bzip2"), ("-J", "xz")):
        subprocess.run(["tar", option, "-C", tmp_path, "-cf", path, "b.tar"], check=True)
        assert f"is compressed with {method}" in listed(path)[1]
    path.write_bytes(whole.read_bytes() * 2)
    items, error = listed(path)
    assert len(items) == 3
    assert "as if archives had been joined" in error


def test_a_tar_that_was_written_anew_does_not_give_other_images(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{number}.jpg", b"%d" % number * 100) for number in range(9)])
    items, _ = listed(path)
    write_tar(path, [(f"{number}.jpg", b"%d" % number * 100) for number in range(1, 9)])
    for item in items:
        with pytest.raises(FileNotFoundError, match="something else"):
            TarContainer().open(LocalFiles(), item)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        TarContainer().open(LocalFiles(), items[0])


def test_a_tar_elsewhere_is_read_once_in_order(tmp_path: Path) -> None:
    members = [*SAMPLES, ("large.jpg", b"l" * (65 << 20)), ("z.jpg", b"z")]
    path = write_tar(tmp_path / "a.tar", members)
    files = RemoteFiles()
    items, _ = listed(path, files=files)
    assert (files.opened, files.ranges) == (1, 0)
    contents = dict(members)
    for item in items:
        name = item.uri.partition("#")[2]
        assert item.data == (None if name == "large.jpg" else contents[name])
        assert TarContainer().open(files, item) == contents[name]
    local, _ = listed(path)
    assert [replace(item, data=None) for item in items] == local


def test_without_a_version_of_the_tar_its_members_have_one_of_their_content(tmp_path: Path) -> None:
    versions = []
    for content in (b"one", b"two", b"one"):
        path = write_tar(tmp_path / "a.tar", [("a.jpg", content)])
        container = replace(listed(path)[0][0], uri=str(path), version="", is_container=True)
        [item] = TarContainer().parts(RemoteFiles(), container, SourceOptions())
        versions.append(item.version)
    assert versions[0] == versions[2] != versions[1]


def test_a_sample_without_end_is_not_held(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"img.{number:04d}.jpg", b"x") for number in range(2500)])
    tar = path.read_bytes()
    path.write_bytes(tar[: len(tar) // 2])  # of what is held, nothing is lost
    items, error = listed(path)
    assert error
    assert len(items) == 1255


def test_memory_does_not_grow_with_the_members(tmp_path: Path) -> None:
    def peak(members: int) -> int:
        path = write_tar(tmp_path / "a.tar", [(f"{number:06d}.jpg", b"x") for number in range(members)])
        container = replace(listed(path)[0][0], uri=str(path), is_container=True)
        tracemalloc.start()
        try:
            assert sum(1 for _ in TarContainer().parts(LocalFiles(), container, SourceOptions())) == members
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(12_000) - peak(5_000) < 7_000 * 64  # tarfile alone holds 1 KB for each


def test_a_missing_tar_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        listed(tmp_path / "a.tar")
