"""``publish``, ``query --engine`` and their refusals as they are typed."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.commands import RunCli, is_one_error


@pytest.fixture
def photos(indexed: Path, tmp_path: Path) -> Path:
    """A copy of the indexed folder, which a test may publish and change."""
    return Path(shutil.copytree(indexed, tmp_path / "photos"))


def test_an_index_is_published_described_and_searched(photos: Path, run_cli: RunCli, tmp_path: Path) -> None:
    url = f"qdrant-edge:{tmp_path / 'edge'}"
    before = run_cli("publish", "--to", url, "--dry-run", cwd=photos)
    assert before.stdout == "would be: 8 rows added, 0 changed, 0 deleted\n", before.stderr
    done = run_cli("publish", "--to", url, cwd=photos)
    assert done.returncode == 0, done.stderr
    assert f"{url} holds 8 images: 8 rows added, 0 changed, 0 deleted in" in done.stdout
    assert "8 rows compared" in done.stdout
    assert "recall@10" in done.stdout

    status = run_cli("publish", "--status", url)
    lines = dict(line.split(None, 1) for line in status.stdout.splitlines()[:6])
    assert lines["engine"] == url
    assert lines["images"] == "8"
    assert lines["index"].startswith(f"{photos}/.llm2clip, commit ")
    assert lines["published"].endswith(" ago")
    shown = json.loads(run_cli("publish", "--status", url, "--json").stdout)
    assert shown["held"] == shown["rows"] == 8
    assert shown["is_complete"]
    assert shown["measured"]["points"]

    words = ("query", "a black dog", "-k", "3", "--json", "--where", "width > 70")
    expected = run_cli(*words, cwd=photos)
    for options in (("--engine", url), ("--engine", url, "--index", photos / ".llm2clip")):
        served = run_cli(*words, *options)
        assert served.returncode == 0, served.stderr
        assert served.stdout == expected.stdout
    explained = run_cli(*words, "--engine", url, "--explain")
    assert "plan: approximate over matches on the engine: the filter leaves" in explained.stderr
    assert "when it was published" in explained.stderr
    assert "check: 3 of the 3 exact results" in explained.stderr


def test_a_publish_is_json_and_the_collection_has_the_folders_name(photos: Path, run_cli: RunCli) -> None:
    answer = json.loads(run_cli("publish", "--to", "lance:copy", "--json", cwd=photos).stdout)
    assert (answer["added"], answer["rows"], answer["engine"]) == (8, 8, f"lance:{photos}/copy")
    refused = run_cli("publish", "--to", "qdrant:http://127.0.0.1:1", cwd=photos)
    assert "qdrant:http://127.0.0.1:1/photos cannot be reached: " in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("publish",), "Publishing needs the URL of an engine, and only one."),
        (("publish", "--to", "lance:x", "--status", "lance:x"), "Publishing needs the URL of an engine"),
        (("publish", "--status", "redis://localhost"), "'redis://localhost' is not the URL of a serving engine"),
        (("publish", "--status", "lance:nowhere"), "nowhere does not exist."),
        (("publish", "--status", "qdrant:http://localhost:6333"), "names no collection"),
        (("publish", "--to", "lance:x"), "There is no index in"),
        (("query", "a dog", "--engine", "lance:nowhere"), "nowhere does not exist."),
        (("query", "a dog", "--engine", "qdrant:http://127.0.0.1:1/x"), "cannot be reached: "),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: tuple[str, ...], said: str, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm2clip_search.vectorindex.serving.qdrant.WAITS", (0.0,))
    refused = run_cli(*arguments)
    assert refused.returncode != 0
    assert said in refused.stderr
    if refused.returncode == 1:
        assert is_one_error(refused.stderr)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("qdrant:http://localhost/x", "qdrant_client", "qdrant"),
        ("qdrant-edge:x", "qdrant_edge", "qdrant-edge"),
        ("lance:x", "lancedb", "lance"),
    ],
)
def test_a_package_that_is_missing_is_named(
    url: str, package: str, extra: str, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    refused = run_cli("publish", "--status", url)
    assert refused.returncode == 1
    assert "is not installed." in refused.stderr
    assert f"pip install 'llm2clip-search[{extra}]'" in refused.stderr
