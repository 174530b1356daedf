"""Plots of a run: ``training.png`` with its curves, ``similarity.png`` with the similarities of dev pairs."""

import io
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llm2clip_search.base.plotting import (
    COLOURS,
    DASHED,
    FAINT,
    GREY,
    INK,
    LINE,
    PANEL,
    colours_of,
    panels,
    title,
)
from llm2clip_search.training.runtime.metrics_log import headlines, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


class Similarities(NamedTuple):
    """Cosine similarities of dev pairs, float32 ``[n]`` each."""

    matching: np.ndarray
    others: np.ndarray

    @classmethod
    def between(
        cls, queries: np.ndarray, gallery: np.ndarray, query_of: np.ndarray, gallery_of: np.ndarray
    ) -> "Similarities":
        """Compare every query with every gallery item; a pair matches if both belong to the same image.

        Args:
            queries: float32 ``[q, dim]``, L2-normalised.
            gallery: float32 ``[g, dim]``, L2-normalised.
            query_of: int64 ``[q]``, the image of each query.
            gallery_of: int64 ``[g]``, the image of each gallery item.
        """
        scores, match = queries @ gallery.T, query_of[:, None] == gallery_of[None, :]
        return cls(scores[match], scores[~match])


def plot_run(out: Path, similarities: Similarities | None = None) -> list[Path]:
    """Draw ``out/training.png`` from ``out/metrics.jsonl``, and ``out/similarity.png``; returns the files written.

    A plot without data is not drawn. Without matplotlib, a warning is logged and nothing is drawn.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("No plots are drawn, because matplotlib is missing: pip install 'llm2clip-search[train]'")
        return []
    lines = read_metrics(out / "metrics.jsonl")
    pictures: dict[str, Figure] = {}
    if _has_loss(lines):
        pictures["training.png"] = _curves(lines)
    if similarities is not None and similarities.matching.size and similarities.others.size:
        pictures["similarity.png"] = _histogram(similarities)
    for name, figure in pictures.items():
        figure.savefig(out / name)
    return [out / name for name in pictures]


def draw_curves(lines: list[dict[str, Any]]) -> bytes:
    """The curves of a run as a PNG; empty without a step, or without matplotlib.

    Args:
        lines: as `metrics_log.read_metrics` returns them.
    """
    if not _has_loss(lines) or find_spec("matplotlib") is None:
        return b""
    out = io.BytesIO()
    _curves(lines).savefig(out)
    return out.getvalue()


def _has_loss(lines: list[dict[str, Any]]) -> bool:
    return any(line.get("loss") is not None for line in lines)


def _curves(lines: list[dict[str, Any]]) -> "Figure":
    from matplotlib.ticker import MaxNLocator

    names = dict.fromkeys(n for line in lines for n, v in line.items() if n.startswith("dev/") and v is not None)
    dev = {name: _series(lines, f"dev/{name}") for name in headlines(name.removeprefix("dev/") for name in names)}
    heights = [PANEL, PANEL / 2] + ([max(PANEL, LINE * (len(dev) + 1))] if dev else [])
    figure, rows = panels(heights)
    drawn = [row[0] for row in rows]
    _loss(drawn[0], *_series(lines, "loss"))
    steps, rates = _series(lines, "learning_rate")
    drawn[1].plot(steps, rates, color=INK, linewidth=1.5)
    drawn[1].set_ylim(bottom=0)
    drawn[1].yaxis.set_major_locator(MaxNLocator(3))
    drawn[1].yaxis.set_major_formatter("{x:.2g}")
    title(drawn[1], "Learning rate", f"peak {rates.max():.2g}" if len(rates) else "")
    if dev:
        _dev(drawn[2], dev, heights[2])
    drawn[-1].set_xlabel("step")
    drawn[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 2.5, 5, 10]))
    drawn[-1].xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _loss(panel: "Axes", steps: np.ndarray, losses: np.ndarray) -> None:
    smooth = smoothed(losses)
    panel.plot(steps, losses, color=FAINT, linewidth=1)
    panel.plot(steps, smooth, color=COLOURS[0], linewidth=2)
    if smooth.min() > 0 and smooth.max() > 10 * smooth.min():
        panel.set_yscale("log")
    end = panel.get_yaxis_transform()
    panel.text(1.015, smooth[-1], f"smoothed  {smooth[-1]:#.3g}", color=COLOURS[0], va="center", transform=end)
    title(panel, "Loss", "per step and smoothed")


def _dev(panel: "Axes", dev: dict[str, tuple[np.ndarray, np.ndarray]], height: float) -> None:
    """One line per metric, labelled at its end with name and last value; the first metric selects the weights."""
    colours = colours_of(list(dev))
    for name, (steps, values) in dev.items():
        panel.plot(steps, values, color=colours[name], linewidth=1.5, marker="o", markersize=3.5)
    panel.margins(y=0.08)
    bottom, top = panel.get_ylim()
    last = {name: float(values[-1]) for name, (_, values) in dev.items()}
    ends = {name: (value - bottom) / (top - bottom) for name, value in last.items()}
    for name, place in spread_labels(ends, LINE / height).items():
        text = f"{_readable(name)}  {last[name]:.3f}"
        panel.text(1.015, place, text, color=colours[name], va="center", transform=panel.transAxes)
    first, (steps, values) = next(iter(dev.items()))
    kept = steps[values.argmax()]
    panel.axvline(kept, color=GREY, linewidth=1, linestyle=DASHED, zorder=0)
    title(panel, "Dev", f"kept: step {kept:,.0f}, best in {_readable(first)}")


def _histogram(similarities: Similarities) -> "Figure":
    figure, ((panel,),) = panels([1.4 * PANEL])
    both = np.concatenate(similarities)
    edges = np.linspace(both.min(), max(both.max(), both.min() + 1e-3), 81)
    named = {"matching": similarities.matching, "not matching": similarities.others}
    colours = {"matching": COLOURS[0], "not matching": GREY}
    densities = {name: np.histogram(part, edges, density=True)[0] for name, part in named.items()}
    top = max(float(density.max()) for density in densities.values())
    medians = {name: float(np.median(part)) for name, part in named.items()}
    # Labels go to the left of the lower median and to the right of the higher one, so they cannot overlap.
    for name, side in zip(sorted(named, key=medians.__getitem__), ("right", "left"), strict=True):
        colour, median = colours[name], medians[name]
        panel.stairs(densities[name], edges, fill=True, color=colour, alpha=0.35)
        panel.stairs(densities[name], edges, color=colour, linewidth=1.5)
        panel.vlines(median, 0, 1.2 * top, color=colour, linewidth=1.5, linestyle=DASHED)
        panel.annotate(
            f"{name}\nmedian {median:.2f}\n{len(named[name]):,} pairs",
            (median, 1.2 * top),
            xytext=(-6 if side == "right" else 6, 0),
            textcoords="offset points",
            ha=side,
            va="top",
            color=colour,
        )
    panel.set_ylim(0, 1.25 * top)
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.set_xlabel("cosine similarity")
    title(panel, "Similarity of dev pairs", "both histograms scaled to the same area")
    return figure


def _readable(name: str) -> str:
    return name.replace("_recall@", " R@").replace("_", " ")


def _series(lines: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric, float64 each; lines without a value are skipped."""
    found = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def smoothed(values: np.ndarray) -> np.ndarray:
    """Centred moving average with a Hann window of a fifteenth of the run, cut off at the ends; it does not lag."""
    width = max(1, len(values) // 15)
    bell = np.hanning(width + 2)[1:-1]
    smooth: np.ndarray = np.convolve(values, bell, "same") / np.convolve(np.ones(len(values)), bell, "same")
    return smooth


def spread_labels(positions: dict[str, float], gap: float) -> dict[str, float]:
    """Move positions in [0, 1] up until neighbours are ``gap`` apart, then down again where they pass 1."""
    names = sorted(positions, key=positions.__getitem__)
    found = np.array([positions[name] for name in names])
    for row in range(1, len(found)):
        found[row] = max(found[row], found[row - 1] + gap)
    limit = 1.0
    for row in range(len(found) - 1, -1, -1):
        found[row] = min(found[row], limit)
        limit = found[row] - gap
    return dict(zip(names, found.tolist(), strict=True))
