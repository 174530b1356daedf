"""Plots of a report: recalls as bars, recall by caption length, recall by language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm2clip_search.base.plotting import GREY, INK, LINE, NO_MATPLOTLIB, PANEL, colours_of, panels, title
from llm2clip_search.benchmarks.compare import stored_ranks, subset_name, subset_of
from llm2clip_search.benchmarks.results import RetrievalResult
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import KS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIRECTIONS = {"image_retrieval": "Image retrieval", "text_retrieval": "Text retrieval"}
SHADES = {1: 1.0, 5: 0.45, 10: 0.2}
"""Opacity of the bar of each k; smaller k are darker."""
MAX_BINS = 8
"""Maximum number of bins of caption lengths; each has about the same number of captions."""
MAX_PANELS = 12
"""Maximum number of panels in ``lengths.png``; a data set in 36 languages would be unreadable."""
MIN_CAPTIONS = 30
"""Minimum number of captions per bin; with fewer, the interval would hide any effect."""


@dataclass(frozen=True, kw_only=True)
class LengthBin:
    """Captions of similar length."""

    tokens: float
    """Mean length of the captions."""
    recall: float
    low: float
    high: float
    """95 % Wilson score interval of the recall."""
    captions: int


def length_bins(ranks: np.ndarray, tokens: np.ndarray, *, k: int = 1) -> list[LengthBin]:
    """Image retrieval recall@k by caption length, from short to long.

    Captions of equal length are in the same bin. Interval: E. B. Wilson, Probable inference, the law of succession, and
    statistical inference, JASA 22 (1927).

    Args:
        ranks: int64 ``[n_captions]``, counted from 0, `metrics.NEVER` included; see `metrics.RetrievalRanks`.
        tokens: int64 ``[n_captions]``, length of each caption.
    """
    count = max(1, min(MAX_BINS, len(ranks) // MIN_CAPTIONS))
    edges = np.unique(np.quantile(tokens, np.linspace(0, 1, count + 1)[1:-1], method="higher"))
    bin_of = np.searchsorted(edges, tokens, side="right")
    return [_bin(ranks[bin_of == n] < k, tokens[bin_of == n]) for n in np.unique(bin_of)]


def _bin(hits: np.ndarray, tokens: np.ndarray) -> LengthBin:
    n, p, z = len(hits), float(hits.mean()), 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return LengthBin(
        tokens=float(tokens.mean()), recall=p, low=float(centre - half), high=float(centre + half), captions=n
    )


def plot_report(results: Mapping[str, Sequence[RetrievalResult]], out: Path) -> list[Path]:
    """Draw ``recalls.png``, ``lengths.png`` and ``languages.png``, as far as there is data for them.

    Args:
        results: by name of the run; a run has at most one result per data set, split and language.
        out: folder, created if needed.

    Returns:
        The paths of the pictures that were drawn.

    Raises:
        CorpusError: matplotlib is not installed, or the folder cannot be created.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise CorpusError(f"{NO_MATPLOTLIB}.") from error
    named = [(name, result) for name, found in results.items() for result in found]
    colours = colours_of(list(results))
    pictures = {
        "recalls.png": _recalls(named, colours),
        "lengths.png": _lengths([(n, r) for n, r in named if "caption_tokens" in r.ranks], colours),
        "languages.png": _languages(named, colours),
    }
    drawn = {name: figure for name, figure in pictures.items() if figure is not None}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(
            f"The folder {out} cannot be created: {error.strerror}.", hint="--out names another folder."
        ) from error
    for name, figure in drawn.items():
        figure.savefig(out / name)
    return [out / name for name in drawn]


def _recalls(named: list[tuple[str, RetrievalResult]], colours: Mapping[str, str]) -> "Figure":
    """One bar per run, its shades R@1, R@5 and R@10 from the inside out, followed by the numbers."""
    parts = _grouped(named)
    positions, ticks, at = [], {}, 0.0
    for part, runs in parts.items():
        ticks[part] = at + (len(runs) - 1) / 2
        positions += [(at + n, name, result) for n, (name, result) in enumerate(runs)]
        at += len(runs) + 0.8
    figure, ((*row,),) = panels([max(1.2, 1.15 * LINE * at)], columns=2, share_y=True)
    for panel, (way, text) in zip(row, DIRECTIONS.items(), strict=True):
        for position, name, result in positions:
            for k in reversed(KS):
                value = 100 * result.metrics[f"{way}_recall@{k}"]
                panel.barh(position, value, height=0.82, color=colours[name], alpha=SHADES[k], linewidth=0)
            low, high = (100 * bound for bound in result.intervals[f"{way}_recall@1"])
            panel.plot((low, high), (position, position), color=INK, linewidth=1.2)
            figures = "  ".join(f"{100 * result.metrics[f'{way}_recall@{k}']:.1f}" for k in KS)
            end = panel.get_yaxis_transform()
            panel.text(1.02, position, figures, color=colours[name], va="center", fontsize=8, transform=end)
        _percent(panel)
        title(panel, text, "R@1, R@5, R@10")
    row[0].set_yticks(list(ticks.values()), list(ticks))
    row[0].set_ylim(at - 0.8, -1.0)
    _legend(figure, colours)
    return figure


def _lengths(named: list[tuple[str, RetrievalResult]], colours: Mapping[str, str]) -> "Figure | None":
    from matplotlib.ticker import MaxNLocator

    every = _grouped(named)
    if not every:
        return None
    parts = dict(list(every.items())[:MAX_PANELS])
    columns = min(2, len(parts))
    rows = -(-len(parts) // columns)
    figure, grid = panels([PANEL] * rows, columns=columns, share_x=False)
    flat = [panel for row in grid for panel in row]
    for panel, (part, runs) in zip(flat, parts.items(), strict=False):
        for name, result in runs:
            tokens = np.array(result.ranks["caption_tokens"], dtype=np.int64)
            ranks = stored_ranks(result).image_retrieval
            for k, shade in ((10, SHADES[5]), (1, 1.0)):
                bins = length_bins(ranks, tokens, k=k)
                x = [found.tokens for found in bins]
                y, low, high = np.array([(found.recall, found.low, found.high) for found in bins]).T * 100
                panel.plot(x, y, color=colours[name], alpha=shade, marker="o", markersize=3)
                panel.fill_between(x, low, high, color=colours[name], alpha=0.12, linewidth=0)
        panel.set_ylim(0, 102)
        panel.yaxis.set_major_formatter("{x:.0f} %")
        title(panel, part)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for panel in flat[len(parts) - columns : len(parts)]:
        panel.set_xlabel("tokens per caption, counted by each model's tokenizer")
    for panel in flat[len(parts) :]:
        panel.set_visible(False)
    left_out = f"; the first {len(parts)} of {len(every)}" if len(every) > len(parts) else ""
    about = f"Image retrieval R@1, and R@10 in a lighter shade, with 95 % intervals{left_out}"
    figure.suptitle(about, x=0.01, ha="left", fontsize="medium", color=GREY)
    _legend(figure, colours)
    return figure


def _languages(named: list[tuple[str, RetrievalResult]], colours: Mapping[str, str]) -> "Figure | None":
    """One dot per run at its R@1; languages are sorted from best to worst for the first run."""
    by_set: dict[str, list[tuple[str, RetrievalResult]]] = {}
    for name, result in named:
        by_set.setdefault(f"{result.dataset} {result.split}", []).append((name, result))
    several = {key: runs for key, runs in by_set.items() if len({result.language for _, result in runs}) > 1}
    if not several:
        return None
    heights = [0.8 + 1.6 * LINE * len({result.language for _, result in runs}) for runs in several.values()]
    figure, grid = panels(heights, columns=2, share_y="row")
    for row, (key, runs) in zip(grid, several.items(), strict=True):
        best: dict[str, float] = {}
        for _, result in runs:
            best.setdefault(result.language, result.metrics["image_retrieval_recall@1"])
        positions = {lang: position for position, lang in enumerate(sorted(best, key=best.__getitem__, reverse=True))}
        names = list(dict.fromkeys(name for name, _ in runs))
        for panel, (way, text) in zip(row, DIRECTIONS.items(), strict=True):
            for name, result in runs:
                apart = 0.5 * (
                    (names.index(name) + 0.5) / len(names) - 0.5
                )  # so that runs with equal scores stay visible
                position = positions[result.language] + apart
                low, high = (100 * bound for bound in result.intervals[f"{way}_recall@1"])
                panel.plot((low, high), (position, position), color=colours[name], linewidth=1.5, alpha=0.5)
                panel.plot(100 * result.metrics[f"{way}_recall@1"], position, "o", color=colours[name], markersize=5)
            panel.xaxis.set_major_formatter("{x:.0f} %")
            title(panel, f"{text}, {key}")
        row[0].set_yticks(list(positions.values()), list(positions))
        row[0].set_ylim(len(positions) - 0.4, -0.6)
    for panel in grid[-1]:
        panel.set_xlabel("R@1, with its 95 % interval")
    _legend(figure, colours)
    return figure


def _grouped(named: list[tuple[str, RetrievalResult]]) -> dict[str, list[tuple[str, RetrievalResult]]]:
    parts: dict[str, list[tuple[str, RetrievalResult]]] = {}
    for name, result in named:
        parts.setdefault(subset_name(subset_of(result)), []).append((name, result))
    return parts


def _percent(panel: "Axes") -> None:
    panel.set_xlim(0, 100)
    panel.xaxis.set_major_formatter("{x:.0f} %")
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x", color="#eceff2")


def _legend(figure: "Figure", colours: Mapping[str, str]) -> None:
    """A legend of runs and their colours below the panels."""
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], color=colour, marker="s", linestyle="none") for colour in colours.values()]
    figure.legend(
        marks,
        list(colours),
        loc="outside lower left",
        ncols=min(3, len(marks)),
        frameon=False,
        labelcolor=GREY,
        handletextpad=0.3,
    )
