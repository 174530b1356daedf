"""The command at its corners: the JSON schema, damaged indices, odd arguments, and no index made by mistake."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import COMMAND, RunCli, is_one_error

KEYS = [
    *("rank", "id", "score", "path", "content_hash", "size", "mtime_ns", "width", "height", "format"),
    *("taken", "camera", "latitude", "longitude", "damage"),
    *("modality", "text", "caption", "rating", "keywords", "part", "exists"),
]
"""Of a hit in ``--json``, in order: a released schema, which may grow at its end."""


def test_json_is_the_documented_schema(indexed: Path, run_cli: RunCli) -> None:
    done = run_cli("query", "ein Hund 猫", "--json", "-k", "3", "--offset", "2", cwd=indexed)
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(hit) for hit in hits] == [KEYS] * 3
    assert [hit["rank"] for hit in hits] == [3, 4, 5]
    assert {type(hit["score"]) for hit in hits} == {float}
    assert hits[0]["taken"] is None
    assert hits[0]["exists"] is True
    summary = run_cli("index", "images", "--json", cwd=indexed)
    assert json.loads(summary.stdout)["unchanged"] == 8
    assert summary.stderr == ""


def test_a_run_from_a_subfolder_uses_the_index_above(indexed: Path, run_cli: RunCli) -> None:
    """And its model: none is named here, nor is a second index begun."""
    done = run_cli("index", ".", cwd=indexed / "images" / "2024")
    assert done.stdout.startswith("0 indexed, 0 moved or copied, 8 unchanged, 0 removed, 0 failed")
    assert list(indexed.rglob(".llm2clip")) == [indexed / ".llm2clip"]
    shown = run_cli("info", "--index", "../../.llm2clip", cwd=indexed / "images" / "2024")
    assert f"index  {indexed / '.llm2clip'}\n" in shown.stdout
    assert "8 (0 rows deleted or replaced, 0 failures)" in shown.stdout
    assert shown.stderr == ""


def test_null_alone_means_paths(indexed: Path, run_cli: RunCli) -> None:
    done = run_cli("query", "a dog", "-0", "-k", "2", cwd=indexed)
    assert done.stdout.count("\0") == 2
    assert all(Path(path).is_file() for path in done.stdout.split("\0")[:2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "a" * 300], "File name too long"),
        (["index", "images", "--exclude", "!"], "not a gitignore pattern"),
        (["query", b"a \xff dog"], "is not valid UTF-8"),
        (["query", "dog", "--where", b"width > 1 \xff"], "is not a valid condition"),
        (["query", "dog", "--where", "1=1) UNION SELECT 'x' WHERE (1=1"], "A filter is one condition"),
        (["query", "--image", "."], "Is a directory"),
        (["query", "--add", "dog"], "captions to add or subtract, but nothing to change"),
        (["query", "dog", "--sub", "dog"], "cancel each other out"),
        (["query", "dog", "--offset", "-1"], "The offset is -1"),
        (["models", "show", "dir:nowhere"], "which does not exist"),
        (["bench", "speed", "empty", "--model", "nano"], "There are no images in empty"),
        (["info", "--index", "images"], "holds no index"),
    ],
)
def test_odd_arguments_are_one_sentence(
    indexed: Path, run_cli: RunCli, arguments: list[str | bytes], message: str
) -> None:
    (indexed / "empty").mkdir(exist_ok=True)
    done = run_cli(*(os.fsdecode(argument) for argument in arguments), cwd=indexed)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert is_one_error(done.stderr)


def test_a_second_writer_is_refused_while_one_is_at_work(indexed: Path, run_cli: RunCli, tmp_path: Path) -> None:
    """The lock is held here, in another process than the command's; asking still works."""
    from llm2clip_search.store.lock import writer_lock

    with writer_lock(indexed / ".llm2clip"):
        done = run_cli("index", "images", cwd=indexed)
        asked = run_cli("query", "--like", "1", "--paths", cwd=indexed)
    assert done.returncode == 1
    assert f"is being written by process {os.getpid()} on" in done.stderr
    assert asked.returncode == 0
    assert len(asked.stdout.splitlines()) == 8


def test_a_closed_pipe_is_no_error_for_any_output(indexed: Path) -> None:
    """Whether rich or print writes it."""
    for arguments in ("query --like 1", "info", "info --json", "index images --json", "models list"):
        done = subprocess.run(
            ["bash", "-c", f'"$0" -c "$1" {arguments} | true; exit "${{PIPESTATUS[0]}}"', COMMAND[0], COMMAND[2]],
            cwd=indexed,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (arguments, done.returncode, done.stderr) == (arguments, 0, "")
