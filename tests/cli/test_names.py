"""Names of any bytes, and stdout of any encoding: what the command prints is the name that is on disk."""

import csv
import io
import json
import os
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pyarrow.parquet as pq
import pytest

from llm2clip_search.base.visible import visible
from tests.support.commands import RunCli, run_for_bytes
from tests.support.images import photograph, png

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")

NAMES = [
    *(
        b"caf\xe9.png",
        b"\xff\xfe\x80.png",
        b"k\xf6ln\xdf/\xe9t\xe9.png",
        b"cut\xe7\x8c.png",
        "\uef80\uefc3.png".encode(),
    ),
    *(b"new\nline.png", b"tab\t.png", b"esc\x1b[31m.png", b"q'u\"o,te.png", b"-dash.png", b" space .png ", b"~.png"),
    *(b"a^0.5.png", b"4711.png", b"[bold]x.png", b"%41.png", b"back\\slash.png", b"x" * 251 + b".png"),
    *(name.encode() for name in ("猫.png", "e\u0301.png", "é.png", "\u202egnp.png", "👩\u200d👩\u200d👧.png")),
]
"""Of files; those that end otherwise than in an image's extension are left out by ``index``."""
INDEXED = {name for name in NAMES if name.endswith(b".png")}
ODD = {name for name in INDEXED if name.decode("utf-8", "ignore").encode() != name}
"""Those that are not UTF-8."""


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a picture under each of the names, a broken one, and their index."""
    folder = tmp_path_factory.mktemp("names")
    below = os.fsencode(folder / "in")
    for number, name in enumerate(NAMES):
        path = Path(os.fsdecode(below + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    Path(os.fsdecode(below + b"/br\xf6ken\x1b.png")).write_bytes(b"no picture")
    done = run_for_bytes("index", "in", "--model", f"dir:{tiny_model}", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["indexed"], summary["failed"]) == (len(INDEXED), 1)
    assert summary["failures"][0]["path_bytes"] == "in/br%F6ken%1B.png"
    return folder


def relative(paths: list[bytes], folder: Path) -> set[bytes]:
    return {path.removeprefix(os.fsencode(folder) + b"/in/") for path in paths}


def test_the_bytes_of_names_come_out_as_they_are(named: Path) -> None:
    done = run_for_bytes("query", "--like", "0", "-0", "-k", "99", cwd=named)
    paths = done.stdout.split(b"\0")[:-1]
    assert relative(paths, named) == INDEXED
    assert all(os.path.exists(path) for path in paths)  # noqa: PTH110 - bytes
    lines = run_for_bytes("query", "--like", "0", "--paths", "-k", "99", cwd=named)
    assert lines.stdout == done.stdout.replace(b"\0", b"\n")


def test_json_and_csv_of_any_name_are_valid(named: Path) -> None:
    found = run_for_bytes("query", "--like", "0", "--json", "-k", "99", cwd=named).stdout.decode("utf-8")
    hits = [json.loads(line) for line in found.splitlines()]
    base = f"{named}/in/"
    exact = {os.fsdecode(unquote_to_bytes(hit["path_bytes"])) for hit in hits if "path_bytes" in hit}
    assert relative([*map(os.fsencode, exact)], named) == ODD
    plain = {hit["path"].removeprefix(base).encode() for hit in hits if "path_bytes" not in hit}
    assert plain == INDEXED - ODD
    table = run_for_bytes("query", "--like", "0", "--csv", "-k", "99", cwd=named).stdout.decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [row["path"] for row in rows] == [visible(hit["path"], keep="\t\r\n") for hit in hits]
    for printed in (found.replace("\n", ""), table.translate(dict.fromkeys(map(ord, "\r\n\t")))):
        assert all(each.isprintable() or each in "\u200c\u200d" for each in printed), "nothing steers a terminal"


def test_a_name_is_found_by_its_bytes(named: Path) -> None:
    def asked(*arguments: str | bytes) -> set[bytes]:
        done = run_for_bytes("query", *arguments, "-0", cwd=named)
        assert done.returncode == 0, done.stderr
        return relative(done.stdout.split(b"\0")[:-1], named)

    for name in (b"k\xf6ln\xdf/\xe9t\xe9.png", b"a^0.5.png"):
        assert asked("--like", b"in/" + name, "-k", "1") == {name}
    assert asked("--like", "0", "--where", b"path LIKE '%/caf\xe9.png'") == {b"caf\xe9.png"}
    assert asked("--like", "0", "--where", b"path LIKE '%/k\xf6ln%'") == {b"k\xf6ln\xdf/\xe9t\xe9.png"}
    assert asked("--like", "0", "--where", "path LIKE '%/caf_.png' OR path LIKE '%猫%'") == {
        b"caf\xe9.png",
        "猫.png".encode(),
    }


def test_a_second_run_knows_all_names(named: Path) -> None:
    done = run_for_bytes("index", "in", cwd=named)
    assert done.stdout.startswith(
        f"0 indexed, 0 moved or copied, {len(INDEXED)} unchanged, 0 removed, 1 failed".encode()
    )
    assert rb"'in/br\xf6ken\x1b.png': not an image" in done.stderr
    recorded = pq.read_table(named / ".llm2clip" / "failures.parquet").to_pylist()
    assert [row["path"] for row in recorded] == ["in/br\ueff6ken\x1b.png"]


def test_no_encoding_of_stdout_is_an_error(named: Path) -> None:
    """Paths and data have the same bytes, JSON means the same; what people read has question marks."""
    query = ("query", "--like", "0", "-k", "99")
    for form in ("--paths", "--csv", "--json"):
        usual = run_for_bytes(*query, form, cwd=named, PYTHONIOENCODING="utf-8")
        done = run_for_bytes(*query, form, cwd=named, PYTHONIOENCODING="cp1252")
        assert (done.returncode, done.stderr) == (0, b"")
        if form == "--json":
            assert done.stdout.isascii()
            assert [*map(json.loads, done.stdout.splitlines())] == [*map(json.loads, usual.stdout.splitlines())]
        else:
            assert done.stdout == usual.stdout
    for encoding in ("ascii", "latin-1"):
        table = run_for_bytes(*query, cwd=named, PYTHONIOENCODING=encoding)
        assert (table.returncode, table.stderr) == (0, b"")
        assert "in/?.png" in table.stdout.decode(encoding)  # the cat


@pytest.mark.parametrize("arguments", [["info"], ["duplicates", "--threshold", "0.1"], ["index", "in"]])
def test_every_command_prints_in_ascii(named: Path, arguments: list[str]) -> None:
    done = run_for_bytes(*arguments, cwd=named, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"Traceback" not in done.stderr


def test_a_table_cannot_steer_the_terminal(named: Path) -> None:
    shown = run_for_bytes("query", "--like", "0", "-k", "99", cwd=named).stdout.decode("utf-8")
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"in/esc\x1b[31m.png" in shown
    assert r"in/caf\xe9.png" in shown
    assert "in/👩\u200d👩\u200d👧.png" in shown
    assert "in/[bold]x.png" in shown


def test_roots_of_any_name_merge_and_find_duplicates(tmp_path: Path, run_cli: RunCli, tiny_model: Path) -> None:
    folders = [tmp_path / os.fsdecode(name) for name in (b"\xe4", b"\xf6")]
    for folder in folders:
        folder.mkdir()
        photograph(1).save(folder / "same.png")
        refused = run_cli("index", folder, "--index", folder / "x", "--model", f"dir:{tiny_model}")
        assert refused.returncode == 1
        assert "is not valid UTF-8" in refused.stderr
        made = tmp_path / f"index-{ord(folder.name)}"
        done = run_cli("index", folder, "--index", made, "--model", f"dir:{tiny_model}")
        assert done.returncode == 0, done.stderr
    indices = sorted(tmp_path.glob("index-*"))
    assert run_cli("merge", tmp_path / "all" / ".llm2clip", *indices).returncode == 0
    found = run_for_bytes("duplicates", "--paths", "--index", tmp_path / "all" / ".llm2clip", cwd=tmp_path)
    assert found.stdout == os.fsencode(folders[1] / "same.png") + b"\n"
    groups = run_for_bytes("duplicates", "--json", "--index", tmp_path / "all" / ".llm2clip", cwd=tmp_path)
    [group] = map(json.loads, groups.stdout.splitlines())
    assert [each["path_bytes"][-12:] for each in (group["best"], *group["others"])] == ["%E4/same.png", "%F6/same.png"]


@pytest.mark.parametrize(
    "words", [["query", "--x\x1b[31m"], ["index", "--x\x1b\u202e"], ["x\x1b\u202e"], ["info", "\x1b\u202e"]]
)
def test_errors_of_usage_repeat_words_with_escapes(run_cli: RunCli, words: list[str]) -> None:
    done = run_cli(*words)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr
    assert visible(words[-1]) in done.stderr
