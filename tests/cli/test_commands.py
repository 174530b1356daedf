"""The command as a newcomer types it: output, streams, exit codes, odd input."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from llm2clip_search.cli import console
from tests.support.commands import COMMAND, RunCli, is_one_error, run_in_subprocess
from tests.support.images import photograph
from tests.support.models import save_model


def test_results_are_on_stdout_and_the_rest_on_stderr(indexed: Path, run_cli: RunCli) -> None:
    done = run_cli("query", "a black dog", "-k", "3", "--explain", cwd=indexed / "images" / "2024")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].split() == ["score", "id", "size", "image"]
    assert len(lines) == 4
    assert "plan: exact on the cpu" in done.stderr
    plain = run_cli("query", "a black dog", "-k", "3", cwd=indexed)
    assert [line.split()[1] for line in plain.stdout.splitlines()] == [line.split()[1] for line in lines]
    assert plain.stderr == ""


def test_machines_get_json_and_paths(indexed: Path, run_cli: RunCli) -> None:
    done = run_cli("query", "a black dog", "--json", "-k", "100", "--where", "width > 70", cwd=indexed)
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert [hit["rank"] for hit in hits] == list(range(1, 7))  # k is larger than what there is
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert all(Path(hit["path"]).is_absolute() and hit["width"] > 70 for hit in hits)
    paths = run_cli("query", "a black dog", "--paths", "-k", "2", cwd=indexed)
    assert paths.stdout.splitlines() == [
        hit["path"]
        for hit in map(
            json.loads, run_cli("query", "a black dog", "--json", "-k", "2", cwd=indexed).stdout.splitlines()
        )
    ]
    null = run_cli("query", "a black dog", "--paths", "-0", "-k", "2", cwd=indexed)
    assert null.stdout.split("\0")[:2] == paths.stdout.splitlines()


def test_other_ways_to_ask(indexed: Path, run_cli: RunCli) -> None:
    by_image = run_cli("query", "--image", "images/2024/3.png", "-k", "1", "--json", cwd=indexed)
    first = json.loads(by_image.stdout)
    assert first["path"].endswith("/3.png")
    like = run_cli("query", "--like", str(first["id"]), "--add", "night^0.1", "-k", "1", "--json", cwd=indexed)
    assert json.loads(like.stdout)["id"] == first["id"]
    none = run_cli("query", "a dog", "--threshold", "1.0", cwd=indexed)
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr == "No image matches the query.\n"
    piped = run_cli("query", "a dog", "--preview", "-k", "1", cwd=indexed)
    assert len(piped.stdout.splitlines()) == 2
    assert piped.stderr == "note: --preview needs a terminal; only names are printed.\n"


def imported_by_query(folder: Path, *words: str, of: Sequence[str]) -> list[str]:
    """Which of some modules a query imports, in a process of its own."""
    code = """
import sys
names = sys.argv.pop().split()
from llm2clip_search.cli.app import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
print(*(name for name in names if name in sys.modules))
"""
    command = [sys.executable, "-c", code, "query", *words, " ".join(of)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_a_text_query_imports_no_torch(indexed: Path) -> None:
    """Once the tower is compiled: neither torch nor transformers, no vision tower, and for a short one no runtime."""
    libraries = ("torch", "transformers", "timm", "open_clip", "onnxruntime", "onnx")
    assert imported_by_query(indexed, "a brown dog", "-k", "1", of=libraries) == []
    assert imported_by_query(indexed, "a brown dog", "-k", "1", of=libraries) == []


def test_a_caption_that_was_asked_before_imports_only_what_reads_an_index(indexed: Path) -> None:
    """Each of these takes 5 to 200 ms, of a quarter of a second."""
    models = ("onnxruntime", "tokenizers", "PIL", "importlib.metadata", "llm2clip_search.encoders.catalogue")
    others = ("rich", "email", "html", "numpy.ma", "pyarrow.compute", "pandas", "duckdb", "faiss")
    query = ["a black dog in the snow", "--paths", "-k", "1"]
    imported_by_query(indexed, *query, of=())
    assert imported_by_query(indexed, *query, of=(*models, *others)) == []
    assert imported_by_query(indexed, *query[:1], of=("rich", *models)) == ["rich"]


def test_a_process_that_used_duckdb_ends_in_silence(indexed: Path) -> None:
    """Its library reports the objects that the interpreter does not free at its end, as those that are frozen."""
    done = run_in_subprocess("query", "a black dog", "--where", "width > 70", "--paths", cwd=indexed)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(".png\n")


def test_info_and_models(indexed: Path, run_cli: RunCli, tiny_model: Path) -> None:
    assert "all checksums match" in run_cli("verify", cwd=indexed).stdout
    assert json.loads(run_cli("info", "--json", cwd=indexed).stdout)["live"] == 8
    listed = run_cli("models", "list").stdout
    assert "nano" in listed
    assert "open_clip:" in listed
    shown = run_cli("models", "show", "nano").stdout
    assert "gemma3-270m" in shown
    assert "Flickr8k" in shown
    assert "is ready" in run_cli("models", "pull", f"dir:{tiny_model}").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "nowhere"], "There is no folder nowhere."),
        (["index", "empty"], "There are no images in empty"),
        (["index", "images", "--model", "OTHER"], "was made by dir:"),
        (["index", "images", "--model", "nonsense"], "There is no model 'nonsense'"),
        (["query", "dog", "--where", "foo > 1"], "names a column 'foo' that does not exist"),
        (["query", "dog", "--where", "width >>> ("], "is not a valid condition"),
        (["query", "--like", "999"], "The index has no image with id 999"),
        (["query", ""], "The query is empty"),
        (["query"], "The query is empty"),
        (["query", "dog", "--threshold", "3"], "The threshold is 3.0"),
        (["query", "dog", "-k", "0"], "k is 0"),
        (["query", "--image", "nowhere.png"], "nowhere.png: No such file"),
        (["query", "--image", "text.png"], "text.png: not an image"),
        (["query", "dog", "--model", "OTHER"], "was made by dir:"),
        (["query", "dog", "--index", "nowhere"], "holds no index"),
        (["bench", "retrieval", "mnist", "--root", "."], "There is no data set 'mnist'"),
        (["train", "clip", "giant"], "There is no recipe 'giant'"),
    ],
)
def test_bad_input_is_one_sentence(
    indexed: Path, run_cli: RunCli, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (indexed / "empty").mkdir(exist_ok=True)
    (indexed / "text.png").write_text("no picture")
    if "OTHER" in arguments:
        other = save_model(tmp_path / "other", seed=5)
        arguments = [f"dir:{other}" if argument == "OTHER" else argument for argument in arguments]
    done = run_cli(*arguments, cwd=indexed)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert is_one_error(done.stderr)


def test_debug_shows_where(indexed: Path, run_cli: RunCli) -> None:
    done = run_cli("--debug", "query", "", cwd=indexed)
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: The query is empty")


def test_no_index_anywhere(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("query", "dog", cwd=tmp_path)
    assert done.returncode == 1
    assert "hint: Run 'llm2clip-search index FOLDER' to create one" in done.stderr


def test_failures_are_counted_and_decide_the_exit_code(run_cli: RunCli, tmp_path: Path, tiny_model: Path) -> None:
    """Bad images stop nothing; --max-failures, and having nothing at all, make the exit code 1."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "bad\nname.jpg").write_bytes(b"")
    model = ["--model", f"dir:{tiny_model}"]
    nothing = run_cli("index", folder, *model)
    assert nothing.returncode == 1
    photograph(1).save(folder / "good.png")
    some = run_cli("index", folder, *model)
    assert some.returncode == 0
    assert "1 indexed" in some.stdout
    assert "1 failed" in some.stdout
    assert "'pictures/bad\\nname.jpg': the file is empty" in some.stderr
    strict = run_cli("index", folder, *model, "--max-failures", "0", "--json")
    assert strict.returncode == 1
    assert json.loads(strict.stdout)["unchanged"] == 1


def test_a_reader_that_leaves_is_no_error(indexed: Path) -> None:
    """As ``query ... | head -1`` does."""
    script = '"$0" -c "$1" query dog --json -k 8 | head -1; exit "${PIPESTATUS[0]}"'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, COMMAND[2]],
        cwd=indexed,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
@pytest.mark.parametrize("arguments", [["models", "list"], ["query", "dog", "--json"], ["--version"], ["info", "-h"]])
def test_results_that_cannot_be_written_are_one_sentence(indexed: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=indexed, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "error: Writing has failed: No space left on device.\n"


def test_a_file_that_cannot_be_used_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Such as the cache of another user."""
    with pytest.raises(SystemExit), console.errors_as_sentences():
        raise PermissionError(13, "Permission denied", b"/root/cache/mod\xe9le")
    assert "error: /root/cache/mod" in (said := capsys.readouterr().err)
    assert said.endswith("le: Permission denied.\n")
    with pytest.raises(OSError, match="nobody knows"), console.errors_as_sentences():
        raise OSError("nobody knows of what")
