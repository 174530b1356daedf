"""Checksums of files are taken once, and again for files that have changed."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2clip_search.base import checksums
from llm2clip_search.base.checksums import CHECKED, KnownChecksums
from llm2clip_search.base.files import file_sha256


@pytest.fixture
def all_files_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "TICK_NS", 0)


@pytest.mark.usefixtures("all_files_are_old")
def test_a_record_names_files_in_its_folder_by_relative_paths(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    (folder / "in").mkdir(parents=True)
    for path in (folder / "in" / "a", tmp_path / "b"):
        path.write_text("content")
        KnownChecksums(folder).sha256(path)
    moved = folder.rename(tmp_path / "moved")
    known = KnownChecksums(moved)
    assert known.knows(moved / "in" / "a", file_sha256(moved / "in" / "a"))
    assert known.knows(tmp_path / "b", file_sha256(tmp_path / "b"))
    with pytest.raises(FileNotFoundError):
        known.sha256(moved / "in" / "nothing")


@pytest.mark.usefixtures("all_files_are_old")
def test_files_elsewhere_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "record").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        KnownChecksums(tmp_path / "record").sha256(tmp_path / name)
        (tmp_path / "a").unlink(missing_ok=True)
    record = (tmp_path / "record" / CHECKED).read_text()
    assert str(tmp_path / "b") in record
    assert str(tmp_path / "a") not in record


@pytest.mark.usefixtures("all_files_are_old")
def test_a_folder_that_cannot_be_written_costs_a_reading_in_each_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    known = KnownChecksums(tmp_path / "file" / "no folder")
    sha256 = known.sha256(tmp_path / "file")
    assert known.knows(tmp_path / "file", sha256)
    assert not KnownChecksums(tmp_path / "file" / "no folder").knows(tmp_path / "file", sha256)


@given(changes=st.lists(st.sampled_from("abc"), max_size=8), jumps=st.lists(st.integers(-(10**9), 10**9), max_size=8))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_checksum_is_that_of_the_content(tmp_path: Path, changes: list[str], jumps: list[int]) -> None:
    """Whatever is done to the content and to the times that a program can set, however shortly after each other."""
    path, known = tmp_path / "file", KnownChecksums(tmp_path)
    path.write_text("a")
    for content, jump in zip(changes, jumps, strict=False):
        known.sha256(path)
        path.write_text(content)
        found = path.stat()
        os.utime(path, ns=(found.st_atime_ns, max(0, found.st_mtime_ns + jump)))
        assert known.sha256(path) == file_sha256(path)
