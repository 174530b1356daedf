"""What a folder's walk leaves out, and how it is counted."""

from pathlib import Path

import pytest

from llm2clip_search.corpora import FolderCorpus, rules
from llm2clip_search.corpora.skipped import is_system_name
from llm2clip_search.encoders import image_types
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers import index_folder
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph

SYSTEM = [
    *(
        "#recycle",
        "#snapshot/2024",
        "@Recycle",
        "@Recently-Snapshot",
        "@tmp",
        "@eaDir",
        "@SynoEAStream",
        "@SynoResource",
    ),
    *(
        "System Volume Information",
        "$RECYCLE.BIN",
        "$Recycle.Bin",
        "RECYCLER",
        ".Trash-1000",
        ".thumbnails",
        ".Trashes",
    ),
    *("lost+found", ".snapshot", "~snapshot", ".@__thumb", "__MACOSX", "node_modules"),
]


def names(corpus: FolderCorpus) -> list[str]:
    return [Path(item.uri).relative_to(corpus.root).as_posix() for item in corpus.items()]


@pytest.mark.parametrize("name", SYSTEM)
def test_system_folders_are_skipped_counted_and_read_on_demand(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub" / name).mkdir(parents=True)
    photograph(1).save(tmp_path / "sub" / name / "x.png")
    corpus = FolderCorpus(tmp_path)
    assert names(corpus) == []
    top = name.partition("/")[0]
    assert corpus.skipped().to_dict()["system"] == {top: 1}
    assert corpus.skipped().reasons() == [f"1 system folder or file skipped: {top}"]
    everything = FolderCorpus(tmp_path, everything=True)
    assert names(everything) == [f"sub/{name}/x.png"]
    assert everything.skipped().reasons() == []


@pytest.mark.parametrize("name", ["recycle", "@work", "snapshot", "trash", "tmp", "thumbs", "2024 #recycled"])
def test_names_of_people_are_not_those_of_systems(name: str) -> None:
    assert not is_system_name(name, is_folder=True)


def test_system_files_and_hidden_images_are_counted_and_read_on_demand(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", "._b.png", ".hidden.png", ".hidden.txt", ".git/x.png", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    corpus = FolderCorpus(tmp_path)
    assert names(corpus) == ["a.png"]
    counts = corpus.skipped().to_dict()
    assert counts["system"] == {"._*": 2, "Thumbs.db": 1, "desktop.ini": 1}
    assert (counts["hidden"], counts["hidden_folders"], counts["other"]) == (1, 1, 0)
    assert corpus.skipped().reasons() == [
        "4 system folders and files skipped: ._*, Thumbs.db, desktop.ini",
        "1 hidden image skipped",
    ]
    everything = FolderCorpus(tmp_path, everything=True)
    assert names(everything) == ["._a.png", "._b.png", ".hidden.png", "a.png", ".git/x.png"]
    assert everything.skipped().other == 3


def test_types_that_are_not_read_are_counted_with_what_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine without the extra."""
    readable = image_types.image_extensions() - {*image_types.HEIC.extensions, *image_types.CAMERA_RAW.extensions}
    monkeypatch.setattr(rules, "image_extensions", lambda: readable)
    for name in ("a.HEIC", "b.heic", "c.heif", "d.CR2", "e.txt", "f.json", "g.mp3"):
        (tmp_path / name).write_bytes(b"x")
    corpus = FolderCorpus(tmp_path)
    assert names(corpus) == []
    counts = corpus.skipped().to_dict()
    assert counts["types"][".heic"] == {"files": 2, "extra": "heif"}
    assert counts["types"][".heif"] == {"files": 1, "extra": "heif"}
    assert counts["types"][".cr2"]["files"] == 1
    assert counts["other"] == 3
    reasons = corpus.skipped().reasons()
    assert reasons[1] == "2 .heic files skipped: needs the extra [heif]"
    assert reasons[2] == "1 .heif file skipped: needs the extra [heif]"
    with pytest.raises(CorpusError, match=r"no images in .*2 \.heic files skipped: needs the extra \[heif\]") as caught:
        index_folder(tmp_path, encoder=ColourEncoder(), index=tmp_path / ".llm2clip")
    assert "llm2clip-search[raw]" in caught.value.hint


def test_what_patterns_leave_out_is_counted_but_not_what_is_no_image(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "b.txt", "thumbs/c.png", "thumbs/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    corpus = FolderCorpus(tmp_path, exclude=["thumbs/", "b.*"])
    assert names(corpus) == ["a.png"]
    assert (corpus.skipped().excluded, corpus.skipped().reasons()) == (2, [])


def test_a_part_has_the_patterns_of_the_whole(tmp_path: Path) -> None:
    for name in ("in/sub/a.png", "in/sub/b.png", "in/sub/raw/c.png", "in/sub/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "in" / ".llm2clipignore").write_text("/sub/d.png\n")
    part = FolderCorpus(tmp_path / "in" / "sub", exclude=["/sub/a.png", "raw/"], part_of=tmp_path / "in")
    assert names(part) == ["b.png"]
    whole = FolderCorpus(tmp_path / "in", exclude=["/sub/a.png", "raw/"])
    assert [
        whole.covers(tmp_path / "in" / "sub" / name, is_folder=False) for name in ("a.png", "b.png", "raw/c.png")
    ] == [
        False,
        True,
        False,
    ]
    assert whole.covers(tmp_path / "in" / "sub", is_folder=True)
    assert not whole.covers(tmp_path / "in" / "#recycle", is_folder=True)


def test_vacant_parts_are_folders_without_any_file_and_links_to_nothing(tmp_path: Path) -> None:
    for name in ("empty", "tree/a/b", "tree/c", "full/inner", "ignored/.git", "seen"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "seen" / "loop").symlink_to(tmp_path / "full")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    corpus = FolderCorpus(tmp_path)
    assert names(corpus) == []
    found = sorted(Path(part).relative_to(tmp_path).as_posix() for part in corpus.vacant())
    assert found == ["empty", "full/inner", "link", "tree"]
