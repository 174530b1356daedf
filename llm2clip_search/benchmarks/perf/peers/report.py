"""A comparison as Markdown."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from llm2clip_search.benchmarks.perf.peers.measuring import Comparison, Measure
from llm2clip_search.benchmarks.perf.peers.tools import HITS

_REFERENCES = ("rclip", "baseline")
"""The programs that others are divided by, those of them that were measured."""


def read(path: Path) -> Comparison:
    """The comparison in a file that was written as JSON.

    Raises:
        ValueError: it is of another format.
    """
    return Comparison.from_dict(json.loads(path.read_text(encoding="utf-8")))


def markdown(comparison: Comparison) -> str:
    """Tables of medians, with the lowest and highest value of all runs in parentheses."""
    machine = comparison.machine
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB of memory" if machine["memory_bytes"] else ""
    commit = f"Commit {comparison.commit[:10]}, " if comparison.commit else ""
    parts = [f"{commit}{machine['processor']}, {machine['cores']} cores{memory}; Python {machine['python']}.\n"]
    titles: dict[Measure, str] = {
        "query": f"Query in a new process, {comparison.images:,} images, a caption that was never asked before",
        "kept query": "The same caption again",
        "help": "`--help`",
    }
    for measure, title in titles.items():
        if rows := _process_rows(comparison, measure):
            names = _references(comparison, measure)
            relative = [f"relative to {comparison.tools[name]['program']}" for name in names]
            headers = ("program", "model", "runs", "seconds", *relative, "peak memory in MB")
            parts.append(f"{title}:\n\n{_table(headers, rows)}")
    if rows := _index_rows(comparison):
        headers = ("program", "model", "runs", "images/s", "peak memory of one process in MB")
        parts.append(
            f"Index of {comparison.index_images:,} images of 224 pixels, the whole command:\n\n{_table(headers, rows)}"
        )
    shared = [
        f"{comparison.tools[name]['program']} {count}"
        for name, count in comparison.shared_hits.items()
        if sum(each["model"] == comparison.tools[name]["model"] for each in comparison.tools.values()) > 1
    ]
    if shared:
        parts.append(
            f"Of the best {HITS} images, shared with the first program of the same model: {', '.join(shared)}.\n"
        )
    versions = [
        f"- {tool['program']} ({tool['model']}): {', '.join(f'{name} {v}' for name, v in tool['versions'].items())}"
        for tool in comparison.tools.values()
    ]
    parts.append("Versions:\n\n" + "\n".join(versions) + "\n")
    return "\n".join(parts)


def _process_rows(comparison: Comparison, measure: Measure) -> list[Sequence[str]]:
    references = [
        statistics.median(_values(comparison, name, _compared(measure))) for name in _references(comparison, measure)
    ]
    rows: list[Sequence[str]] = []
    for name, tool in comparison.tools.items():
        if not (seconds := _values(comparison, name, measure)):
            continue
        ratios = [f"{statistics.median(seconds) / reference:.2f}" for reference in references]
        peak = max(run.peak_bytes for run in comparison.runs if (run.tool, run.measure) == (name, measure))
        spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        rows.append((tool["program"], tool["model"], str(len(seconds)), spread, *ratios, f"{peak / 1e6:,.0f}"))
    return rows


def _index_rows(comparison: Comparison) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for name, tool in comparison.tools.items():
        if not (seconds := _values(comparison, name, "index")):
            continue
        rates = [comparison.index_images / each for each in seconds]
        peak = max(run.peak_bytes for run in comparison.runs if (run.tool, run.measure) == (name, "index"))
        spread = f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"
        rows.append((tool["program"], tool["model"], str(len(rates)), spread, f"{peak / 1e6:,.0f}"))
    return rows


def _references(comparison: Comparison, measure: Measure) -> list[str]:
    return [name for name in _REFERENCES if _values(comparison, name, _compared(measure))]


def _compared(measure: Measure) -> Measure:
    """What a measure is divided by: the others keep no captions, so that they answer every query alike."""
    return "query" if measure == "kept query" else measure


def _values(comparison: Comparison, tool: str, measure: str) -> list[float]:
    return [run.seconds for run in comparison.runs if (run.tool, run.measure) == (tool, measure)]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["---" if number < 2 else "---:" for number in range(len(headers))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (headers, align, *rows))
