"""``query`` with several captions, images and indices, and with a batch of captions."""

import io
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import RunCli, is_one_error


@pytest.fixture(scope="module")
def second(indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the index and its images elsewhere: the same vectors under the same ids."""
    folder = tmp_path_factory.mktemp("second") / "copy"
    shutil.copytree(indexed, folder)
    return folder / ".llm2clip"


def hits(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_images_to_be_like_and_unlike(indexed: Path, run_cli: RunCli) -> None:
    done = run_cli("query", "--like", "images/2024/3.png", "--like", "3^0.1", "-k", "1", "--json", cwd=indexed)
    assert done.returncode == 0, done.stderr
    assert hits(done.stdout)[0]["path"].endswith("/3.png")
    plain = run_cli("query", "--like", "3", "--paths", cwd=indexed)
    away = run_cli("query", "--like", "3", "--unlike", "4^0.9", "--image", "images/2024/5.png", "--paths", cwd=indexed)
    assert sorted(plain.stdout.splitlines()) == sorted(away.stdout.splitlines())
    assert plain.stdout != away.stdout


def test_several_captions_are_fused(indexed: Path, run_cli: RunCli) -> None:
    both = hits(run_cli("query", "a dog", "a cat", "--fuse", "max", "--json", cwd=indexed).stdout)
    alone = [hits(run_cli("query", text, "--json", cwd=indexed).stdout) for text in ("a dog", "a cat")]
    scores = [{hit["id"]: hit["score"] for hit in found} for found in alone]
    assert {hit["id"]: hit["score"] for hit in both} == {key: max(each[key] for each in scores) for key in scores[0]}
    for fuse in ("mean", "rank"):
        done = run_cli("query", "a dog", "a cat", "--fuse", fuse, "-k", "3", "--explain", cwd=indexed)
        assert len(done.stdout.splitlines()) == 4
        assert "plan: exact on the cpu" in done.stderr


def test_several_indices_are_one_ranking(indexed: Path, second: Path, run_cli: RunCli) -> None:
    """Each image is there twice: the copy of the first index comes first, and its id is printed for --like."""
    first = indexed / ".llm2clip"
    indices = ("--index", first, "--index", second)
    found = hits(run_cli("query", "a dog", "--json", *indices, "-k", "100").stdout)
    assert len(found) == 16
    assert [hit["index"] for hit in found] == [str(first), str(second)] * 8
    assert list(found[0])[-1] == "index"
    assert found[0]["id"] == found[1]["id"]
    table = run_cli("query", "a dog", *indices, "-k", "2", "--explain", cwd=indexed)
    assert [line.split()[1] for line in table.stdout.splitlines()[1:]] == [f"{found[0]['id']}@{n}" for n in (1, 2)]
    assert f"plan of {first}: exact" in table.stderr
    assert f"plan of {second}: exact" in table.stderr
    like = hits(run_cli("query", "--like", "3@2", *indices, "-k", "1", "--json").stdout)
    assert (like[0]["id"], like[0]["index"]) == (3, str(first))  # equal scores by the order of indices
    page = hits(run_cli("query", "a dog", "--json", *indices, "-k", "5", "--offset", "3").stdout)
    assert page == found[3:8]


def test_duplicates_are_shown_with_their_best(indexed: Path, second: Path, run_cli: RunCli) -> None:
    arguments = ["query", "--like", "3@1", "--index", indexed / ".llm2clip", "--index", second]
    grouped = ["--group-duplicates", "0.9999", "-k", "2"]
    table = run_cli(*arguments, *grouped).stdout.splitlines()
    assert table[0].split() == ["score", "id", "more", "size", "image"]
    assert table[1].split()[1:3] == ["3@1", "+1"]
    best = hits(run_cli(*arguments, *grouped, "--json").stdout)[0]
    assert list(best)[-2:] == ["index", "duplicates"]
    path = str(second.parent / "images" / "2024" / "3.png")
    assert best["duplicates"] == [{"id": 3, "path": path, "index": str(second)}]
    assert run_cli(*arguments, *grouped, "--paths").stdout.splitlines()[0] == best["path"]
    diverse = run_cli(*arguments, *grouped, "--diverse", "--json")
    assert hits(diverse.stdout)[0] == best


BATCH = "a black dog\n\n   \nhöher als der Baum 猫\r\n" + "many words " * 400 + "\n"


def test_a_batch_answers_each_line(indexed: Path, run_cli: RunCli, tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_bytes(b"\xef\xbb\xbf" + BATCH.encode())
    options = ["-k", "2", "--where", "width > 70"]
    done = run_cli("query", "--batch", file, "--json", *options, "--explain", cwd=indexed)
    assert done.returncode == 0, done.stderr
    found = hits(done.stdout)
    assert [hit["query_line"] for hit in found] == [1, 1, 4, 4, 5, 5]
    assert [hit["rank"] for hit in found] == [1, 2] * 3
    assert found[0]["query"] == "a black dog"
    assert found[2]["query"] == "höher als der Baum 猫"
    for line in (0, 2):
        alone = hits(run_cli("query", found[line]["query"], "--json", *options, cwd=indexed).stdout)
        for hit, batched in zip(alone, found[line : line + 2], strict=True):
            # The tower's matrix products round differently for one caption and for several.
            assert hit.pop("score") == pytest.approx(batched["score"], abs=1e-6)
            assert hit.items() <= batched.items()
    assert "note: Line 5: The caption is" in done.stderr
    assert "plan: exact over matches" in done.stderr
    table = run_cli("query", "--batch", file, *options, cwd=indexed).stdout.splitlines()
    assert table[0] == "1: a black dog"
    assert table[1].split() == ["score", "id", "size", "image"]
    assert table[5] == "4: höher als der Baum 猫"
    assert len(table[10]) < 140
    paths = run_cli("query", "--batch", file, *options, "--paths", cwd=indexed).stdout.splitlines()
    assert paths == [hit["path"] for hit in found]


def test_a_batch_comes_from_stdin(indexed: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog\na cat\n")))
    done = run_cli("query", "--batch", "-", "--json", "-k", "1", "--threshold", "-1", cwd=indexed)
    assert [hit["query_line"] for hit in hits(done.stdout)] == [1, 2]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog\n")))
    nothing = run_cli("query", "--batch", "-", "--threshold", "1", cwd=indexed)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr == "Line 1: No image matches the query.\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_batch_comes_from_a_pipe(indexed: Path, run_cli: RunCli, tmp_path: Path) -> None:
    """As with ``--batch <(generate-captions)``: it can be read only once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pipe.write_text, "a dog\na cat\n")
        done = run_cli("query", "--batch", pipe, "--json", "-k", "1", cwd=indexed)
    assert [hit["query"] for hit in hits(done.stdout)] == ["a dog", "a cat"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "dog", "runs"], "There are 3 captions, but nothing says how to combine them"),
        (["--unlike", "3"], "images to be unlike, but nothing to search for"),
        (["--like", "nowhere.png"], "nowhere.png: No such file"),
        (["--like", "3@2"], "3@2 is an image of index 2, but 1 are searched"),
        (["dog", "--group-duplicates", "2"], "The cosine of duplicates is 2.0"),
        (["--like", "3", "--index", ".llm2clip", "--index", "SECOND"], "The id 3 occurs in"),
        (["dog", "--index", ".llm2clip", "--index", ".llm2clip"], "is named twice"),
        (["dog", "--index", ".llm2clip", "--index", "nowhere"], "holds no index"),
        (["--batch", "nowhere.txt"], "nowhere.txt cannot be read: No such file"),
        (["--batch", "blank.txt"], "blank.txt holds no captions"),
        (["--batch", "latin.txt"], "latin.txt is not UTF-8 in line 2"),
        (["--batch", "latin.txt", "dog"], "come from latin.txt, but 'dog' is given as well"),
        (["--batch", "latin.txt", "--fuse", "max"], "nothing to fuse"),
    ],
)
def test_bad_input_is_one_sentence(
    indexed: Path, second: Path, run_cli: RunCli, arguments: list[str], message: str
) -> None:
    (indexed / "blank.txt").write_text("\n  \n")
    (indexed / "latin.txt").write_bytes("ein Hund\nhöher\n".encode("latin-1"))
    words = [str(second) if word == "SECOND" else word for word in arguments]
    done = run_cli("query", *words, cwd=indexed)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert is_one_error(done.stderr)
