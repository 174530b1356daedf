"""Writes an `AnnResult` as ``ann.jsonl`` and ``ann.png``, a plot of speed and latency over recall."""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.plotting import GREY, INK, NO_MATPLOTLIB, PANEL, colours_of, panels, title
from llm2clip_search.benchmarks.perf.ann import AnnPoint, AnnResult
from llm2clip_search.errors import CorpusError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0)
ENGINE: dict[str, Any] = {"linestyle": "none", "markersize": 8, "zorder": 4}
TAIL: dict[str, Any] = {"linewidth": 4, "alpha": 0.3, "solid_capstyle": "butt"}


def write_ann(result: AnnResult, out: Path) -> list[Path]:
    """Write both files to the folder ``out``, which is created if needed; returns their paths.

    Raises:
        CorpusError: matplotlib is not installed (``ann.jsonl`` is written all the same), or the folder cannot be
            created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(
            f"The folder {out} cannot be created: {error.strerror}.", hint="--out names another folder."
        ) from error
    points, picture = out / "ann.jsonl", out / "ann.png"
    replace_file(points, "".join(f"{json.dumps(line)}\n" for line in result.to_dicts()).encode())
    try:
        figure = _figure(result)
    except ImportError as error:
        raise CorpusError(f"{NO_MATPLOTLIB}; {points} was written.") from error
    figure.savefig(picture)
    return [points, picture]


def _figure(result: AnnResult) -> "Figure":
    """Top: queries per second over recall, with the Pareto front. Bottom: latency over recall."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, ((speed,), (latency,)) = panels([1.5 * PANEL, PANEL])
    colours = colours_of([point.kind for point in result.points])
    for kind, members in groupby(result.points, key=lambda point: point.kind):
        points = list(members)
        alone = [point for point in points if point.setting != "engine"]
        _speeds(speed, alone, colours[kind], label=alone[0].factory or "exact search")
        _latencies(latency, alone, colours[kind])
        for point in points[len(alone) :]:
            speed.plot(point.recall, point.queries_per_second, "D", color=colours[kind], **ENGINE)
            latency.plot(point.recall, point.p50_ms, "D", color=colours[kind], **ENGINE)
    front = [point for point in result.points if point.on_front]
    speed.plot(
        [point.recall for point in front],
        [point.queries_per_second for point in front],
        "o",
        color=INK,
        alpha=0.15,
        markersize=14,
        zorder=1,
        label="Pareto front",
    )
    speed.plot([], [], "D", color=GREY, **ENGINE, label="complete search of the engine")
    speed.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1.0))
    latency.plot([], [], "o-", color=GREY, markersize=4, label="median")
    latency.plot([], [], color=GREY, **TAIL, label="to 99th percentile")
    latency.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1.0))
    about = f"{result.rows:,} vectors of {result.dim} dimensions, {result.queries:,} queries"
    title(speed, "Queries per second, all at once", about)
    title(latency, "Latency in milliseconds, one by one")
    for panel in (speed, latency):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        panel.yaxis.set_major_formatter("{x:,g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
    _recall_axis(latency, result)
    return figure


def _speeds(panel: "Axes", points: Sequence[AnnPoint], colour: str, *, label: str) -> None:
    recalls = [point.recall for point in points]
    rates = [point.queries_per_second for point in points]
    size = 4 if len(points) > 1 else 7
    panel.plot(recalls, rates, "o-", color=colour, linewidth=1.5, markersize=size, label=label)
    for number, point in enumerate(points):
        if point.on_front or number in (0, len(points) - 1):
            right = point.recall < 0.99
            panel.annotate(
                point.setting,
                (point.recall, point.queries_per_second),
                xytext=(7 if right else -7, 4),
                textcoords="offset points",
                ha="left" if right else "right",
                fontsize="x-small",
                color=colour,
            )


def _latencies(panel: "Axes", points: Sequence[AnnPoint], colour: str) -> None:
    """Plot only efforts with higher recall than all lower efforts; the others would overlap."""
    best = np.maximum.accumulate([-1.0, *(point.recall for point in points)])
    kept = [point for point, before in zip(points, best, strict=False) if point.recall > before]
    recalls, middle = [point.recall for point in kept], [point.p50_ms for point in kept]
    panel.plot(recalls, middle, "o-", color=colour, linewidth=1.5, markersize=4)
    for point in kept:
        panel.plot([point.recall] * 2, [point.p50_ms, point.p99_ms], color=colour, **TAIL)


def _recall_axis(panel: "Axes", result: AnnResult) -> None:
    """A scale that is stretched towards 1, where indices differ: equal steps divide the missed share by equal factors.

    A recall of 1 is drawn as if half a neighbour of one query were missed.
    """
    least = 0.5 / (result.queries * result.k)
    scale = np.log1p(1 / least)

    def stretch(recall: np.ndarray) -> np.ndarray:
        stretched: np.ndarray = scale - np.log(np.maximum(1 - recall + least, 0.1 * least))
        return stretched

    def unstretch(stretched: np.ndarray) -> np.ndarray:
        recall: np.ndarray = 1 + least - np.exp(scale - stretched)
        return recall

    panel.set_xscale("function", functions=(stretch, unstretch))
    lowest = min(point.recall for point in result.points)
    ticks = [tick for tick in TICKS if (tick > lowest and 1 - tick > 2 * least) or tick == 1.0]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    # A margin beyond 1, so that markers at 1 are not clipped.
    panel.set_xlim(max(0.0, lowest - 0.1 * (1 - lowest + least)), 1.0 + 0.2 * least)
    panel.set_xlabel(f"recall@{result.k}")
