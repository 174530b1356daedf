"""Runs of all programs in turns, each of which is written down."""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.benchmarks.perf.machine import describe_machine
from llm2clip_search.benchmarks.perf.peers.environments import commit_of
from llm2clip_search.benchmarks.perf.peers.processes import Command, run_measured
from llm2clip_search.benchmarks.perf.peers.tools import HITS, ROOT, Tool
from llm2clip_search.benchmarks.perf.speed import QUERY_CAPTIONS

Measure = Literal["help", "query", "kept query", "index"]
"""``help`` prints the help. ``query`` is a caption that was never asked before, ``kept query`` the same one again.
``index`` makes a new index. Each is a process of its own, with its files in the page cache."""
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """One command that was run to its end."""

    tool: str
    measure: Measure
    round: int
    seconds: float
    peak_bytes: int
    """Most memory that was resident in one of its processes."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All runs of one call, and where they were made."""

    commit: str
    """Commit of this program, with a plus sign if files differed from it; empty if it was installed otherwise."""
    images: int
    """Indexed images that were searched."""
    index_images: int
    """Images of each index that was timed."""
    tools: Mapping[str, Mapping[str, Any]]
    """By name: ``program``, ``model`` and ``versions``, in the order in which they are shown."""
    machine: Mapping[str, Any]
    runs: Sequence[Run]
    shared_hits: Mapping[str, int]
    """Of the best `HITS` images for one caption, the number that a program shares with the first one with its model:
    programs that run the same model find the same images."""

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Comparison":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: it is of another format, or none.
        """
        if raw.get("format") != FORMAT:
            raise ValueError(f"format {raw.get('format')!r} instead of {FORMAT}")
        fields = {name: value for name, value in raw.items() if name not in ("format", "runs")}
        return cls(**fields, runs=[Run(**run) for run in raw["runs"]])


def compare(
    tools: Sequence[Tool],
    *,
    images: Path,
    index_images: Path,
    folder: Path,
    rounds: int,
    index_rounds: int,
    progress: Progress = no_progress,
) -> Comparison:
    """Measure programs in turns; each round begins with another one.

    The index of ``images`` is made once by each and kept in ``folder``.

    Args:
        images: folder of JPEG files to search.
        index_images: folder of JPEG files of which indices are timed.

    Raises:
        Llm2ClipError: a command failed.
    """
    counts = [len(list(each.glob("*.jpg"))) for each in (images, index_images)]
    searched = [tool for tool in tools if tool.query is not None]
    indices = {tool.name: folder / "indices" / f"{tool.name}-{tool.versions_key}-{counts[0]}" for tool in searched}
    for done, tool in enumerate(searched):
        progress("indices to search", done, len(searched), {})
        if not (out := indices[tool.name]).is_dir():
            partial = out.with_name(f"{out.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            run_measured(tool.index(images, partial))
            partial.rename(out)
    first = _new_caption(0)
    hits = {tool.name: _warm(tool, images, indices[tool.name], first) for tool in searched}
    runs: list[Run] = []

    def run(tool: Tool, measure: Measure, round_: int, command: Command) -> None:
        ran = run_measured(command)
        runs.append(Run(tool=tool.name, measure=measure, round=round_, seconds=ran.seconds, peak_bytes=ran.peak_bytes))

    for round_ in range(rounds):
        progress("rounds of queries", round_, rounds, {})
        caption = _new_caption(round_)
        for tool in _in_turn(searched, round_):
            assert tool.query is not None
            if tool.help is not None:
                run(tool, "help", round_, tool.help)
            command = tool.query(images, indices[tool.name], caption)
            run(tool, "query", round_, command)
            if tool.keeps_captions:
                run(tool, "kept query", round_, command)
    for round_ in range(index_rounds):
        progress("rounds of indexing", round_, index_rounds, {})
        for tool in _in_turn(tools, round_):
            scratch = folder / "timed-index"
            shutil.rmtree(scratch, ignore_errors=True)
            run(tool, "index", round_, tool.index(index_images, scratch))
            shutil.rmtree(scratch)
    return Comparison(
        commit=commit_of(ROOT),
        images=counts[0],
        index_images=counts[1],
        tools={t.name: {"program": t.program, "model": t.model, "versions": dict(t.versions)} for t in tools},
        machine=describe_machine(),
        runs=runs,
        shared_hits=_shared(searched, hits),
    )


def _new_caption(number: int) -> str:
    """A caption that was never asked before, in this call or another, so that a model has to embed it."""
    return f"{QUERY_CAPTIONS[number % len(QUERY_CAPTIONS)]}, picture {secrets.randbelow(10**9)}"


def _warm(tool: Tool, images: Path, index: Path, caption: str) -> list[str]:
    """Ask one caption, so that compiled towers and the page cache are there; returns the names of the best images."""
    assert tool.query is not None
    out = run_measured(tool.query(images, index, caption)).output
    return [Path(line).name for line in out.splitlines()[:HITS]]


def _in_turn(tools: Sequence[Tool], round_: int) -> list[Tool]:
    first = round_ % max(1, len(tools))
    return [*tools[first:], *tools[:first]]


def _shared(tools: Sequence[Tool], hits: Mapping[str, Sequence[str]]) -> dict[str, int]:
    first = {tool.model: tool.name for tool in reversed(tools)}
    return {tool.name: len(set(hits[tool.name]) & set(hits[first[tool.model]])) for tool in tools}
