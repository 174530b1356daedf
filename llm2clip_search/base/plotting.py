"""How pictures of this project look: panels, titles, colours. No state of pyplot's is touched: any thread may draw."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GREY = "#222222", "#cfd6dd", "#737d87"
COLOURS = ("#0b6fb8", "#d1570f", "#2a8f54", "#8a4fa3", "#b8860b", "#c2315a", "#3f8f9f", "#6b5a4b")
DASHED = (0, (4, 2))
WIDTH, PANEL, LINE = 9.0, 2.6, 0.19
"""Inches: of a picture, of the height of a panel, of a line of text."""
NO_MATPLOTLIB = "No plots without matplotlib: pip install 'llm2clip-search[bench]'"


def panels(
    heights: Sequence[float], *, columns: int = 1, share_x: bool = True, share_y: bool | Literal["row"] = False
) -> tuple["Figure", list[list["Axes"]]]:
    """A figure and its panels, by row and column.

    Args:
        heights: of each row, in inches.
        share_x: as ``sharex`` of matplotlib's ``subplots``; ``share_y`` likewise.

    Raises:
        ImportError: there is no matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5 * len(heights)), dpi=150, layout=layout)
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        len(heights), columns, sharex=share_x, sharey=share_y, squeeze=False, height_ratios=list(heights)
    )
    for panel in grid.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(GREY)
        panel.tick_params(color=GREY, labelcolor=INK)
        panel.grid(axis="y", color="#eceff2")
        panel.set_axisbelow(True)
    return figure, [list(row) for row in grid]


def title(panel: "Axes", text: str, remark: str = "") -> None:
    """What a panel shows to the left, a remark in grey to the right."""
    panel.set_title(text, loc="left", fontweight="bold", color=INK)
    panel.set_title(remark, loc="right", fontsize="small", color=GREY)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour a name, again from the first where there are more names than colours."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(dict.fromkeys(names))}
