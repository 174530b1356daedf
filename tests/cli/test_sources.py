"""``sources``, and what ``index``, ``query`` and ``info`` say of folders that move, vanish or are skipped in part."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.commands import RunCli, is_one_error
from tests.support.images import photograph


@pytest.fixture
def own(indexed: Path, tmp_path: Path, run_cli: RunCli) -> Path:
    """A copy of the folder and its index for one test, up to date."""
    shutil.copytree(indexed, tmp_path / "own")
    run_cli("index", "images", cwd=tmp_path / "own")
    return tmp_path / "own"


def listed(run_cli: RunCli, cwd: Path) -> list[dict[str, object]]:
    done = run_cli("sources", "--json", cwd=cwd)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_sources_are_listed_moved_and_forgotten(own: Path, run_cli: RunCli) -> None:
    shutil.move(own / "images", own / "pics")
    table = run_cli("sources", cwd=own)
    assert table.stdout.splitlines()[0].split() == ["rows", "failures", "state", "source", "options"]
    assert table.stdout.splitlines()[1].split() == ["8", "0", "missing", "images"]
    gone = run_cli("query", "a", "-k", "1", cwd=own)
    assert gone.stdout.splitlines()[1].endswith(".png (gone)")
    assert json.loads(run_cli("query", "a", "-k", "1", "--json", cwd=own).stdout)["exists"] is False
    missing = run_cli("index", "images", cwd=own)
    assert missing.returncode == 1
    assert is_one_error(missing.stderr)
    assert "sources move images NEW" in missing.stderr
    assert run_cli("sources", "move", "images", "pics", cwd=own).stdout == "8 images moved to pics\n"
    [source] = listed(run_cli, own)
    counts = {"rows": 8, "failures": 0, "state": "present", "modality": "image", "options": {}}
    assert source == {"uri": str(own / "pics"), **counts, "exclude": [], "everything": False}
    assert "8 unchanged" in run_cli("index", "pics", cwd=own).stdout
    assert json.loads(run_cli("query", "a", "-k", "1", "--json", cwd=own).stdout)["exists"] is True
    done = run_cli("sources", "forget", "pics", "--json", cwd=own)
    assert json.loads(done.stdout) == {"path": "pics", "removed": 8}
    assert "pics is still there" in done.stderr
    assert listed(run_cli, own) == []
    assert run_cli("sources", "list", "--index", own / ".llm2clip", cwd=own.parent).returncode == 0
    misplaced = run_cli("sources", "--index", own / ".llm2clip", "forget", "pics", cwd=own)
    assert (misplaced.returncode, "options of forget follow its name" in misplaced.stderr) == (2, True)
    wrong = run_cli("sources", "forget", "pics", cwd=own)
    assert (wrong.returncode, is_one_error(wrong.stderr)) == (1, True)


def test_patterns_are_remembered_and_said(own: Path, run_cli: RunCli) -> None:
    (own / "images" / "raw").mkdir()
    photograph(90).save(own / "images" / "raw" / "x.png")
    run_cli("index", "images", "--exclude", "raw/", cwd=own)
    again = run_cli("index", "images", cwd=own)
    assert "8 unchanged" in again.stdout
    assert "excluding 'raw/', as the last time; --exclude names other patterns, --no-exclude none" in again.stderr
    assert "--exclude 'raw/'" in run_cli("sources", cwd=own).stdout
    both = run_cli("index", "images", "--exclude", "x", "--no-exclude", cwd=own)
    assert both.returncode == 2
    cleared = run_cli("index", "images", "--no-exclude", cwd=own)
    assert ("1 indexed" in cleared.stdout, "excluding" in cleared.stderr) == (True, False)
    photograph(91).save(own / "images" / ".hidden.png")
    assert "1 hidden image skipped" in run_cli("index", "images", cwd=own).stderr
    assert "1 indexed" in run_cli("index", "images", "--all", cwd=own).stdout
    remembered = run_cli("index", "images", cwd=own)
    assert "reading hidden files and system folders, as the last time; --no-all skips them" in remembered.stderr
    assert "--all" in run_cli("sources", cwd=own).stdout
    assert "1 removed" in run_cli("index", "images", "--no-all", cwd=own).stdout


def test_what_is_skipped_and_kept_is_said(own: Path, run_cli: RunCli) -> None:
    (own / "images" / "project.xcf").write_bytes(b"x")
    (own / "images" / "#recycle").mkdir()
    (own / "images" / "disk").mkdir()
    photograph(92).save(own / "images" / "disk" / "x.png")
    done = run_cli("index", "images", "--json", cwd=own)
    skipped = json.loads(done.stdout)["skipped"]
    assert (skipped["types"][".xcf"]["files"], skipped["system"]) == (1, {"#recycle": 1})
    (own / "images" / "disk" / "x.png").unlink()
    done = run_cli("index", "images", cwd=own)
    assert "1 .xcf file skipped: " in done.stderr
    assert "1 system folder or file skipped: #recycle" in done.stderr
    assert "images/disk is empty or gone; the index keeps 1 image below it. Is a disk not mounted?" in done.stderr
    assert "1 removed" in run_cli("index", "images", "--forget", cwd=own).stdout
    (own / "#recycle").mkdir()
    photograph(93).save(own / "#recycle" / "x.png")
    (own / "nas").mkdir()
    shutil.move(own / "#recycle", own / "nas" / "#recycle")
    refused = run_cli("index", "nas", cwd=own)
    assert (refused.returncode, is_one_error(refused.stderr)) == (1, True)
    assert "1 system folder or file skipped: #recycle" in refused.stderr
    assert "--all" in refused.stderr


def test_an_index_away_from_its_images_says_so(own: Path, run_cli: RunCli, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(own / ".llm2clip", other / ".llm2clip")
    said = f"has moved from {own} to {other}, but its images are still in {own}"
    for arguments in (("info",), ("sources",), ("query", "a", "--paths")):
        done = run_cli(*arguments, cwd=other)
        assert (done.returncode, said in done.stderr) == (0, True)
        assert f"llm2clip-search sources move {other} {own}" in done.stderr
    done = run_cli("index", own / "images", cwd=other)
    assert "8 unchanged" in done.stdout
    assert f"its images are still in {own}; their paths lead there now" in done.stderr
    assert run_cli("query", "a", "-k", "1", "--paths", cwd=other).stdout.startswith(f"{own}/images/")
    shutil.copytree(own, tmp_path / "copy")  # with its images, it simply works
    done = run_cli("query", "a", "-k", "1", "--paths", cwd=tmp_path / "copy")
    assert (done.stdout.startswith(f"{tmp_path}/copy/images/"), "moved" in done.stderr) == (True, False)
    assert ", 0 removed" in run_cli("index", "images", cwd=tmp_path / "copy").stdout
