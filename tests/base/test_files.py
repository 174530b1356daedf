"""Files that are complete or absent, and what a killed process leaves."""

import os
from pathlib import Path

from llm2clip_search.base.files import remove_leftovers, replaced_file


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
