"""Where a database keeps what does not fit into memory."""

import tempfile
from pathlib import Path

import duckdb
import pytest

from llm2clip_search.engine.database import connect


def test_what_does_not_fit_into_memory_goes_to_a_temporary_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two databases share none, none is made in the working directory, and nobody can name another one."""
    temporary, working = tmp_path / "it's temporary", tmp_path / "working"
    temporary.mkdir()
    working.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(working)
    folders = set()
    for _ in range(2):
        with connect([]) as connection:
            ((folder,),) = connection.execute("SELECT current_setting('temp_directory')").fetchall()
            folders.add(Path(folder))
            with pytest.raises(duckdb.InvalidInputException, match="locked"):
                connection.execute("SET temp_directory = '.'")
    assert {folder.parent for folder in folders} == {temporary}
    assert len(folders) == 2
    assert not list(temporary.iterdir())
    assert not list(working.iterdir())
