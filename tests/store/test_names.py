"""File names as text: every sequence of bytes comes back, and different names stay different."""

import os
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from llm2clip_search.store import Snapshot
from llm2clip_search.store.names import decode, encode, json_path
from llm2clip_search.store.snapshot import stored_path
from tests.support.stores import fill

PRIVATE = "\uef80\uefc3\uefff".encode()
"""Characters that stand for bytes, in a name of their own."""
BYTES = st.lists(st.one_of(st.binary(max_size=4), st.sampled_from([PRIVATE, PRIVATE[:2], "é猫👩".encode()]))).map(
    b"".join
)


@given(BYTES)
@example(PRIVATE)
@example(b"\xee" + PRIVATE)
@example(b"\xe3\x81")
def test_any_bytes_come_back(name: bytes) -> None:
    text = encode(os.fsdecode(name))
    assert text.encode("utf-8").decode("utf-8") == text
    assert os.fsencode(decode(text)) == name


@given(BYTES, BYTES)
@example(PRIVATE, b"\x80\xc3\xff")
@example("\uefc3\uefa9".encode(), "é".encode())
def test_different_names_stay_different(one: bytes, other: bytes) -> None:
    assert (encode(os.fsdecode(one)) == encode(os.fsdecode(other))) == (one == other)


@given(st.text(st.characters(exclude_characters=[chr(code) for code in range(0xEF80, 0xF000)], codec="utf-8")))
def test_names_in_utf_8_are_stored_as_they_are(name: str) -> None:
    assert encode(name) == decode(name) == name


def test_half_a_pair_is_text_too() -> None:
    """No file is called that, but a program may say so."""
    assert encode("a\ud800b") == "a\uefed\uefa0\uef80b"


def test_an_index_stores_and_locates_any_name(tmp_path: Path) -> None:
    fill(tmp_path / ".llm2clip", 0)
    snapshot = Snapshot(tmp_path / ".llm2clip")
    base = os.fsencode(tmp_path)
    for name in (b"a/caf\xe9.jpg", b"\xff", "\uef80".encode(), "猫.png".encode()):
        for uri in (os.fsdecode(base + b"/" + name), os.fsdecode(b"/elsewhere/" + name), os.fsdecode(b"x://" + name)):
            assert snapshot.located(snapshot.stored(uri)) == uri
            assert snapshot.stored(uri).encode("utf-8")
    root = snapshot.stored(os.fsdecode(base + b"/a\xe9"))
    assert snapshot.is_under(snapshot.stored(os.fsdecode(base + b"/a\xe9/b.png")), root)
    assert not snapshot.is_under(snapshot.stored(os.fsdecode(base + b"/a\xe8/b.png")), root)


PARTS = st.lists(st.sampled_from(["a", "ab", "..", ".", "", "A", " "]), max_size=5).map("/".join)


@given(PARTS, st.sampled_from(["/", "/a", "/a/b", "/ab", "/A"]))
def test_paths_are_stored_as_pathlib_has_them(name: str, base: str) -> None:
    for uri in ("/" + name.lstrip("/"), name.lstrip("/") or "."):  # two slashes are a root of their own
        path = Path(os.path.abspath(uri))  # noqa: PTH100 - Path.absolute keeps ".."
        expected = path.relative_to(base) if path.is_relative_to(base) else path
        assert stored_path(uri, base=base) == stored_path(uri, base=Path(base)) == expected.as_posix()


def test_json_gives_the_bytes_beside_the_text() -> None:
    assert json_path("/a/é.jpg") == {"path": "/a/é.jpg"}
    assert json_path(os.fsdecode(b"/a/\xe9 %.jpg")) == {"path": "/a/\ufffd %.jpg", "path_bytes": "/a/%E9%20%25.jpg"}
