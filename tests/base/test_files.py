"""Files that are complete or absent, and what a killed process leaves."""

import os
from pathlib import Path

import pytest

from llm2clip_search.base.files import remove_leftovers, replaced_file, user_path


def test_leftovers_of_one_file_are_removed_and_no_others(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("a[1].bin", ".b.bin.7.tmp", ".a1.bin.7.tmp", "a[1].bin.7.tmp")]
    for path in (*kept, tmp_path / ".a[1].bin.7.tmp"):
        path.write_bytes(b"x")
    remove_leftovers(tmp_path / "a[1].bin")
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    remove_leftovers(tmp_path / "nowhere" / "a.bin")


def test_a_write_that_is_cut_off_leaves_a_leftover_of_that_name(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with replaced_file(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"half")
            os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder_unless_a_file_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert user_path("~") == tmp_path / "home"
    assert user_path("~/a.png") == tmp_path / "home" / "a.png"
    assert user_path("~nobody.png") == Path("~nobody.png")
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "a.png").write_bytes(b"x")
    assert user_path("~/a.png") == Path("~/a.png")
