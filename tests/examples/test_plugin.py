"""The example plug-in, found by the entry points that its ``pyproject.toml`` declares."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from llm2clip_search import CorpusError, ModelError, load_encoder, open_corpus
from tests.examples.test_examples import EXAMPLES
from tests.support.commands import RunCli, is_one_error

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package on the path as an installer does: its code, and its metadata with the entry points."""

    def put(name: str, entry_points: dict[str, dict[str, str]], code: Path) -> None:
        metadata = tmp_path / "site" / f"{name.replace('-', '_')}-0.1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        lines = [
            line
            for group, entries in entry_points.items()
            for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
        ]
        (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(code))
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return put


@pytest.fixture
def example(install: Install) -> None:
    project = tomllib.loads((EXAMPLES / "plugin" / "pyproject.toml").read_text())["project"]
    install(project["name"], project["entry-points"], EXAMPLES / "plugin")


@pytest.mark.usefixtures("example")
def test_a_package_adds_a_corpus_and_an_encoder(run_cli: RunCli) -> None:
    done = run_cli("index", "gradients://12", "--model", "example:colours")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 indexed, 0 moved or copied, 0 unchanged, 0 removed, 0 failed in ")
    asked = run_cli("query", "a red picture", "-k", "2", "--json")
    assert [json.loads(line)["path"] for line in asked.stdout.splitlines()] == ["gradients://12/0", "gradients://12/1"]
    assert run_cli("query", "blue", "-k", "1", "--paths").stdout == "gradients://12/11\n"
    assert "gradients://12/11" in run_cli("query", "blue", "-k", "1").stdout
    filtered = run_cli("query", "blue", "--where", "path LIKE 'gradients://%/1'", "--paths")
    assert filtered.stdout == "gradients://12/1\n"
    assert "gradients://12" in run_cli("info").stdout
    again = run_cli("index", "gradients://12")  # the index names its model
    assert again.stdout.startswith("0 indexed, 0 moved or copied, 12 unchanged, 0 removed, 0 failed in ")


@pytest.mark.usefixtures("example")
def test_what_a_plug_in_refuses_is_one_sentence(run_cli: RunCli) -> None:
    for arguments, message in (
        (("index", "gradients://many"), "does not say how many pictures there are"),
        (("index", "gradients://0", "--model", "example:colours"), "There are no images in gradients://0"),
        (("index", "gradients://3", "--exclude", "x"), "is not a folder, so no patterns can be excluded from it"),
        (("index", "gradients://3", "--model", "example:shapes"), "There is no model 'example:shapes'"),
        (("index", "nowhere://3"), "Nothing here reads nowhere:// addresses"),
    ):
        done = run_cli(*arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert is_one_error(done.stderr)


def test_a_plug_in_that_cannot_be_loaded_is_named(install: Install, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('no such driver')\n")
    groups = ("llm2clip_search.corpora", "llm2clip_search.encoders")
    install("broken-plugin", {group: {"broken": "broken:open"} for group in groups}, tmp_path)
    with pytest.raises(CorpusError, match=r"The package broken-plugin 0.1.0 could not open .*no such driver"):
        open_corpus("broken://x")
    with pytest.raises(ModelError, match="broken-plugin"):
        load_encoder("broken:x")


def test_without_plug_ins_a_scheme_is_unknown() -> None:
    with pytest.raises(CorpusError, match="Nothing here reads nowhere://"):
        open_corpus("nowhere://bucket")
