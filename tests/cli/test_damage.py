"""Damaged indices, full disks and files of other users, as the command line tells of them."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import COMMAND, RunCli, is_one_error
from tests.support.images import photograph

NOBODY = 65534


@pytest.fixture
def copy(indexed: Path, tmp_path: Path) -> Path:
    """Eight images and their index, to be damaged."""
    return Path(shutil.copytree(indexed, tmp_path / "copy"))


def test_damage_is_named_and_repaired(copy: Path, run_cli: RunCli) -> None:
    shard = copy / ".llm2clip" / "shards" / "000001"
    (shard / "rows.arrow").unlink()
    data = bytearray((shard / "embeddings.npy").read_bytes())
    data[-1] ^= 1
    (shard / "embeddings.npy").write_bytes(data)
    done = run_cli("verify", cwd=copy)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "shards/000001/embeddings.npy: differs from its checksum (8 images)",
        "shards/000001/rows.arrow: missing (8 images)",
    ]
    assert "2 of 4 files are damaged, with 8 of 8 images" in done.stderr
    found = json.loads(run_cli("verify", "--json", cwd=copy).stdout)
    assert (found["affected"], [file["reason"] for file in found["damaged"]][1]) == (8, "missing")

    asked = run_cli("query", "dog", cwd=copy)
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "embeddings.npy differs from what was committed: its checksum is not the manifest's." in asked.stderr
    assert "'llm2clip-search repair'" in asked.stderr
    assert is_one_error(asked.stderr)

    (copy / "images" / "2024" / "3.png").unlink()
    done = run_cli("repair", cwd=copy)
    assert done.returncode == 0
    assert "8 images: lost with their vectors" in done.stdout
    assert "7 embedded again, 0 found elsewhere in the index, 1 missing, 0 failed" in done.stdout
    assert "kept as damaged/000001" in done.stderr
    assert "'images/2024/3.png' is not in its source any more" in done.stderr
    assert (copy / ".llm2clip" / "damaged" / "000001" / "embeddings.npy").read_bytes() == data
    assert "all checksums match" in run_cli("verify", cwd=copy).stdout
    assert json.loads(run_cli("repair", "--json", cwd=copy).stdout)["missing"] == ["images/2024/3.png"]
    (copy / ".llm2clip" / "damaged" / "lost.parquet").unlink()
    assert run_cli("repair", cwd=copy).stdout.startswith("nothing is damaged; 7 images in ")
    assert run_cli("index", "images", cwd=copy).stdout.startswith("0 indexed")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 3}', "\0\0\0", None])
def test_every_command_says_that_the_manifest_is_damaged(copy: Path, run_cli: RunCli, content: str | None) -> None:
    manifest = copy / ".llm2clip" / "manifest.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    for arguments in ("query dog", "info", "index images", "compact", "duplicates", "merge out .llm2clip"):
        done = run_cli(*arguments.split(), cwd=copy)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert "manifest.json" in done.stderr
        assert "'llm2clip-search repair'" in done.stderr
        assert is_one_error(done.stderr)
    assert run_cli("verify", cwd=copy).returncode == 1
    assert "8 images in" in run_cli("repair", cwd=copy).stderr
    assert run_cli("index", "images", cwd=copy).stdout.startswith("0 indexed")


def test_a_file_that_outgrows_its_limit_keeps_what_was_committed(copy: Path, run_cli: RunCli) -> None:
    """`ulimit -f` fails writes as a full disk does."""
    photograph(77).save(copy / "images" / "new.png")
    before = run_cli("info", "--json", cwd=copy).stdout
    for arguments in ("index images", "index images --ann flat"):
        done = subprocess.run(
            ["bash", "-c", f'ulimit -f 1; exec "$0" -c "$1" {arguments}', COMMAND[0], COMMAND[2]],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "cannot be written: file too large; the 8 images committed so far are kept." in done.stderr
        assert is_one_error(done.stderr)
    assert run_cli("info", "--json", cwd=copy).stdout == before
    assert "1 indexed" in run_cli("index", "images", cwd=copy).stdout


@contextmanager
def another_user() -> Iterator[None]:
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def public(indexed: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The index where other users can read it, with its model and its cache."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        base = Path(folder)
        shutil.copytree(indexed, base / "work")
        shutil.copytree(tiny_model, base / "model")
        shutil.copytree(os.environ["LLM2CLIP_CACHE"], base / "cache")
        monkeypatch.setenv("LLM2CLIP_CACHE", str(base / "cache"))
        for path in (base, *base.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield base


READING = ("query dog --paths", "query dog --where width>10 --paths", "info", "verify", "duplicates")
WRITING = ("index images", "compact", "repair", "merge out .llm2clip")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become another user")
def test_the_index_of_another_user_is_read_but_not_written(public: Path, run_cli: RunCli) -> None:
    work = public / "work"

    def run(command: str) -> subprocess.CompletedProcess[str]:
        model = ["--model", f"dir:{public / 'model'}"] if command.startswith(("query", "index")) else []
        return run_cli(*command.split(), *model, cwd=work)

    shutil.copytree(work, public / "first")  # modules that commands import may lie where only root can read
    for command in (*READING, *WRITING):
        assert run_cli(*command.split(), cwd=public / "first").returncode == 0, command
    with another_user():
        for command in READING:
            done = run(command)
            assert done.returncode == 0, (command, done.stderr)
            assert done.stdout
        for command in WRITING:
            done = run(command)
            assert done.returncode == 1, command
            assert "cannot be written: permission denied." in done.stderr
            assert is_one_error(done.stderr), done.stderr
    (work / ".llm2clip").chmod(0o700)
    with another_user():
        for command in (*READING, *WRITING):
            done = run(command)
            assert done.returncode == 1, command
            assert "manifest.json cannot be read: permission denied." in done.stderr
            assert is_one_error(done.stderr), done.stderr
