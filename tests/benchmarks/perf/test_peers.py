"""The comparison with other programs: what is run in which order, what is written down, and how it is shown."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm2clip_search.benchmarks.perf.peers.__main__ import main
from llm2clip_search.benchmarks.perf.peers.environments import check_out
from llm2clip_search.benchmarks.perf.peers.measuring import Comparison, Measure, Run, compare
from llm2clip_search.benchmarks.perf.peers.pictures import write_pictures
from llm2clip_search.benchmarks.perf.peers.processes import Command, run_measured
from llm2clip_search.benchmarks.perf.peers.report import markdown, read
from llm2clip_search.benchmarks.perf.peers.tools import Tool, make_tool
from llm2clip_search.errors import CorpusError, InputError, Llm2ClipError


def python(code: str, *arguments: str | Path) -> Command:
    return Command(words=(sys.executable, "-S", "-c", f"import sys, pathlib; {code}", *map(str, arguments)))


def test_the_memory_of_a_command_is_its_own(tmp_path: Path) -> None:
    """Not that of this process, which is larger, and whose peak a process that it starts would inherit."""
    held = bytearray(300_000_000)
    ran = run_measured(python("held = bytearray(80_000_000); print('done', end='')"))
    assert 80_000_000 < ran.peak_bytes < len(held)
    assert ran.seconds > 0
    assert ran.output == "done"
    command = Command(words=(sys.executable, "-c", "import os; print(os.environ['A'], os.getcwd(), end='')"))
    placed = Command(words=command.words, folder=tmp_path, variables={"A": "b"})
    assert run_measured(placed).output == f"b {tmp_path}"


def test_a_program_of_the_repository_has_bytecode_as_installed_ones_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert run_measured(python("print(sys.dont_write_bytecode, end='')")).output == "False"


def test_what_lies_in_the_working_directory_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python looks for modules there first, so that a repository would take the place of what is installed."""
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "llm2clip_search.py").write_text("raise SystemExit('this is another program')")
    monkeypatch.chdir(tmp_path / "repository")
    tool = make_tool("nano", tmp_path, baseline="")
    assert tool.help is not None
    assert "Usage: python -m llm2clip_search" in run_measured(tool.help).output


def test_a_command_that_fails_is_quoted() -> None:
    with pytest.raises(Llm2ClipError, match=r"ended with exit code 3: out of order$"):
        run_measured(python("sys.stderr.write('starting\\nout of order\\n'); sys.exit(3)"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two images of 224 pixels and a larger one, in a tar file with another file."""
    folder = tmp_path / "shards"
    folder.mkdir()
    noise = np.random.default_rng(0)
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, sides in (("1.jpg", (224, 224)), ("1.json", None), ("2.jpg", (224, 224)), ("3.jpg", (300, 260))):
            out = io.BytesIO(b"{}")
            if sides is not None:
                Image.fromarray(noise.integers(0, 256, (*sides, 3), dtype=np.uint8)).save(out, "JPEG")
            member = tarfile.TarInfo(name)
            member.size = len(out.getvalue())
            tar.addfile(member, io.BytesIO(out.getvalue()))
    return folder


def test_pictures_are_copied_and_then_cropped(shards: Path, tmp_path: Path) -> None:
    folder = write_pictures(shards, tmp_path, 8)
    written = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert len(set(written)) == 8
    assert {Image.open(io.BytesIO(data)).size for data in written} == {(224, 224)}
    with tarfile.open(shards / "a.tar") as tar:
        original = tar.extractfile("2.jpg")
        assert original is not None
        assert written[1] == original.read()
    assert write_pictures(shards, tmp_path, 8) == folder
    with pytest.raises(CorpusError, match=r"holds no tar file with JPEG files"):
        write_pictures(tmp_path / "nowhere", tmp_path, 3)


def tool(name: str, model: str, *, answers: int, keeps_captions: bool = False) -> Tool:
    """A program that finds the first images, and refuses to index into a folder that is there."""
    return Tool(
        name=name,
        program=f"program {name}",
        model=model,
        index=lambda images, out: python("pathlib.Path(sys.argv[1]).mkdir(parents=True)", out),
        query=lambda images, out, caption: python(
            "assert pathlib.Path(sys.argv[2]).is_dir();"
            f"print(*sorted(map(str, pathlib.Path(sys.argv[1]).iterdir()))[:{answers}], sep='\\n')",
            images,
            out,
        ),
        help=python("print('help')"),
        keeps_captions=keeps_captions,
        versions={"program": "1.0"},
    )


def test_programs_take_turns(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        (images / f"{number}.jpg").touch()
    tools = [
        tool("a", "small", answers=2, keeps_captions=True),
        tool("b", "large", answers=3),
        tool("c", "large", answers=1),
    ]
    tools.append(
        Tool(name="d", program="program d", model="large", index=tools[0].index, versions={})  # which cannot answer
    )
    made = compare(tools, images=images, index_images=images, folder=tmp_path, rounds=2, index_rounds=1)
    order = [(run.tool, run.measure) for run in made.runs]
    first = [("a", "help"), ("a", "query"), ("a", "kept query"), ("b", "help"), ("b", "query")]
    assert order[:7] == [*first, ("c", "help"), ("c", "query")]
    assert order[7:14] == [*first[3:], ("c", "help"), ("c", "query"), *first[:3]]
    assert order[14:] == [(name, "index") for name in "abcd"]
    assert min(min(run.seconds, run.peak_bytes) for run in made.runs) > 0
    assert (made.images, made.index_images) == (5, 5)
    assert made.shared_hits == {"a": 2, "b": 3, "c": 1}
    # The indices that were searched are kept, and those that were timed are not.
    assert len(list((tmp_path / "indices").iterdir())) == 3
    assert not (tmp_path / "timed-index").exists()
    again = compare(tools[:1], images=images, index_images=images, folder=tmp_path, rounds=0, index_rounds=1)
    assert [(run.tool, run.measure) for run in again.runs] == [("a", "index")]


def recorded() -> Comparison:
    """Known times: the program takes half of what rclip takes, and a quarter of its baseline."""
    seconds: dict[tuple[str, Measure], tuple[float, ...]] = {
        ("nano", "query"): (0.4, 0.5, 0.7),
        ("nano", "kept query"): (0.25, 0.2, 0.3),
        ("rclip", "query"): (1.0, 0.9, 1.3),
        ("baseline", "query"): (2.0, 2.0, 2.0),
        ("nano", "index"): (10.0, 5.0),
        ("clip-retrieval", "index"): (20.0, 40.0),
    }
    return Comparison(
        commit="0123456789abcdef",
        images=10_000,
        index_images=200,
        tools={
            "nano": {"program": "llm2clip-search", "model": "nano", "versions": {"numpy": "2.0"}},
            "rclip": {"program": "rclip", "model": "B", "versions": {"rclip": "3.3.0"}},
            "clip-retrieval": {"program": "clip-retrieval", "model": "B", "versions": {}},
            "baseline": {"program": "the old one", "model": "nano", "versions": {}},
        },
        machine={"processor": "abacus", "cores": 2, "memory_bytes": 24 * 2**30, "system": "", "python": "3.11.2"},
        runs=[
            Run(tool=name, measure=measure, round=number, seconds=each, peak_bytes=10**8 + number)
            for (name, measure), values in seconds.items()
            for number, each in enumerate(values)
        ],
        shared_hits={"nano": 10, "rclip": 10},
    )


def test_a_comparison_is_shown_as_medians_with_their_spread(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text(json.dumps(recorded().to_dict()))
    shown = markdown(read(tmp_path / "out.json"))
    for line in (
        "Commit 0123456789, abacus, 2 cores, 24 GiB of memory; Python 3.11.2.",
        "| program | model | runs | seconds | relative to rclip | relative to the old one | peak memory in MB |",
        "| llm2clip-search | nano | 3 | 0.50 (0.40 to 0.70) | 0.50 | 0.25 | 100 |",
        "| llm2clip-search | nano | 3 | 0.25 (0.20 to 0.30) | 0.25 | 0.12 | 100 |",
        "| rclip | B | 3 | 1.00 (0.90 to 1.30) | 1.00 | 0.50 | 100 |",
        "| llm2clip-search | nano | 2 | 30.0 (20.0 to 40.0) | 100 |",
        "| clip-retrieval | B | 2 | 7.5 (5.0 to 10.0) | 100 |",
        "- rclip (B): rclip 3.3.0",
    ):
        assert line in shown.splitlines(), line
    assert "`--help`" not in shown  # which was not measured
    with pytest.raises(ValueError, match="format 0 instead of 1"):
        Comparison.from_dict({**recorded().to_dict(), "format": 0})


def test_a_commit_is_checked_out_beside_the_repository(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    (repository / "file").write_text("then")
    for words in (["init", "--quiet"], ["add", "file"], ["commit", "--quiet", "--message", "One"]):
        subprocess.run([*git, *words], check=True)
    (repository / "file").write_text("now")
    out = check_out(repository, "HEAD", tmp_path / "commits")
    assert (out / "file").read_text() == "then"
    assert check_out(repository, "HEAD", tmp_path / "commits") == out
    with pytest.raises(Llm2ClipError, match="ended with exit code 1"):
        check_out(repository, "nothing", tmp_path / "commits")


def test_a_program_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no program 'google'; those that are known are nano, b32, rclip"):
        main(shards=tmp_path, tools="nano,google")
