"""What ``query`` takes for an option and what for a caption, where captions come from, and files with odd names."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import RunCli, is_one_error, run_for_bytes
from tests.support.images import photograph


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Gives the command in this process something to read."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    "caption",
    [
        *(
            "-20 degrees, a frozen lake",
            "- a list item",
            "--- a rule",
            "-- a dash",
            "-kitchen with a view",
            "-零下二十度",
        ),
        *("-no\u00a0break", "-5 °C", "--paths and more", "-a = b", "--café"),
    ],
)
def test_a_caption_may_begin_with_a_dash(indexed: Path, run_cli: RunCli, caption: str) -> None:
    """Wherever it stands among the options, and as it is where ``--`` is before it."""
    marked = run_cli("query", "-k", "2", "--json", "--", caption, cwd=indexed)
    assert marked.returncode == 0, marked.stderr
    if caption == "--paths and more":  # its first word is an option
        refused = run_cli("query", caption, cwd=indexed)
        assert refused.returncode == 2
        assert "begins with the option --paths" in refused.stderr
        return
    for words in (["-k", "2", caption, "--json"], [caption, "-k2", "--json"], ["--json", "--limit=2", caption]):
        assert run_cli("query", *words, cwd=indexed).stdout == marked.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dog", "--kk", "3"], "No such option: --kk. Did you mean -k?"),
        (["dog", "--limt", "3"], "No such option: --limt. Did you mean --limit?"),
        (["dog", "--wher=width > 3"], "No such option: --wher. Did you mean --where?"),
        (["-20"], "No such option: -20. Write -- before a caption that begins with a dash."),
        (["-kitten"], "No such option: -kitten. Write --"),
        (["-0 degrees"], "'-0 degrees' begins with the option -0"),
        (["--where width > 3", "dog"], "'--where width > 3' begins with the option --where"),
        (["dog", "--like"], "Option '--like' requires an argument"),
        (["dog", "-k"], "requires an argument"),
        (["dog", "-k", "many"], "Invalid value for '-k'"),
    ],
)
def test_a_mistyped_option_is_an_error(indexed: Path, run_cli: RunCli, words: list[str], message: str) -> None:
    done = run_cli("query", *words, cwd=indexed)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_options_are_what_they_were(indexed: Path, run_cli: RunCli) -> None:
    """Joined letters, values that begin with a dash, a number in one word with its option."""
    usual = run_cli("query", "dog", "--null", "--limit", "3", "--threshold", "-1", cwd=indexed)
    assert usual.stdout.count("\0") == 3
    for words in (["-0k3"], ["-0k", "3"], ["-0", "-k 3"], ["-0", "--limit=3"]):
        assert run_cli("query", *words, "dog", "--threshold=-1", cwd=indexed).stdout == usual.stdout
    added = run_cli("query", "dog", "--add", "-20 degrees^0.5", "--sub=- a list", "-k", "1", cwd=indexed)
    assert added.returncode == 0, added.stderr


def test_captions_that_look_equal_have_equal_answers(indexed: Path, run_cli: RunCli) -> None:
    plain = run_cli("query", "ein schöner Hund", "--json", cwd=indexed).stdout
    for typed in (
        " ein\u00a0schöner  Hund\n",
        "\ufeffein scho\u0308ner\u200b Hu\u00adnd",
        "ein\r\nschöner\tHund\u2060",
    ):
        assert run_cli("query", typed, "--json", cwd=indexed).stdout == plain


def test_captions_come_from_stdin(indexed: Path, run_cli: RunCli, stdin: Callable[[bytes], None]) -> None:
    plain = run_cli("query", "a dög", "--paths", cwd=indexed).stdout
    for data in ("a dög", "a dög\r\n", "\ufeffa dög\n", "\n  \n\u200b\na dög\n\n"):
        stdin(data.encode())
        done = run_cli("query", "-", "--paths", cwd=indexed)
        assert (done.stdout, done.stderr) == (plain, "")
    fused = run_cli("query", "a dog", "a cat", "a cow", "--fuse", "rank", "--paths", cwd=indexed).stdout
    stdin(b"a cat\na cow\n")
    assert run_cli("query", "a dog", "-", "--fuse", "rank", "--paths", cwd=indexed).stdout == fused


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        (b"", ["-"], "stdin holds no captions"),
        (b"\n \xe2\x80\x8b\n", ["-"], "stdin holds no captions"),
        (b"a dog\n\xff\n", ["-"], "stdin is not UTF-8 in line 2"),
        ("a dog".encode("utf-16"), ["-"], "stdin is not UTF-8 in line 1"),
        ("a dog".encode("utf-16-le"), ["-"], "stdin is not text in line 1: it holds a zero byte"),
        (b"a dog\na cat\n", ["-"], "There are 2 captions, but nothing says how to combine them"),
        (b"a dog\n" * 10_001, ["-", "--fuse", "max"], "Stdin holds more than 10,000 captions"),
        (b"a dog\n" + b"x" * 1_048_577, ["--batch", "-"], "Line 2 of stdin is longer than 1 MB"),
        (b"a dog", ["-", "-"], "Stdin can be read only once, but it is named twice"),
        (b"a dog", ["--batch", "-", "-"], "come from stdin, but '-' is given as well"),
        (b"a dog", ["-", "--json", "--csv"], "printed in one form, but several are given"),
    ],
)
def test_odd_input_is_one_sentence(
    indexed: Path, run_cli: RunCli, stdin: Callable[[bytes], None], data: bytes, words: list[str], message: str
) -> None:
    stdin(data)
    done = run_cli("query", *words, cwd=indexed)
    assert done.returncode == 1
    assert message in done.stderr
    assert is_one_error(done.stderr)


def test_a_closed_stdin_is_one_sentence(indexed: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    done = run_cli("query", "-", cwd=indexed)
    assert done.returncode == 1
    assert is_one_error(done.stderr)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="the system has no terminals of this kind")
def test_a_terminal_hears_what_is_waited_for(indexed: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    os.write(ours, b"a dog\n\x04")
    with os.fdopen(theirs, "rb", buffering=0) as raw:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(raw)))
        done = run_cli("query", "-", "--paths", "-k", "1", cwd=indexed)
        assert done.returncode == 0
        assert done.stderr == "Type captions, one per line, and Ctrl-D after the last one.\n"
        monkeypatch.undo()
    os.close(ours)


def test_a_file_is_found_whatever_its_name_ends_in(
    indexed: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("x^0.5", "4711", "~", "-a.png", "~b.png"):
        photograph(3, (76, 48)).save(tmp_path / name, "PNG")
    index = ("--index", indexed / ".llm2clip", "-k", "1", "--paths")
    for words in (
        *(["--image", "x^0.5"], ["--image", "x^0.5^2"], ["--like", "./4711"], ["--image", "4711"], ["--image", "~"]),
        *(["--image", "-a.png"], ["--like=-a.png"], ["--image", "~b.png"], ["--image=~/4711"], ["--like", "~/x^0.5^2"]),
    ):
        done = run_cli("query", *words, *index)
        assert done.stdout.endswith("/3.png\n"), (words, done.stderr)
    missing = run_cli("query", "--like", "4711", *index)
    assert "hint: Use an id that results show, or write ./4711 for a file of that name." in missing.stderr


def test_the_real_command_reads_a_pipe(indexed: Path) -> None:
    done = run_for_bytes("query", "-", "--paths", "-k", "1", cwd=indexed, stdin=b"-20 degrees\r\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b".png\n")
