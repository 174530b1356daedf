"""Published figures, each with its source, to put beside one's own.

They are data, in ``paper.json``: recalls in percent as printed there, keys as CLIP_benchmark writes them.
What papers print as an average over data sets, and what only aggregators list, is not in it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from llm2clip_search.benchmarks.results import RetrievalResult
from llm2clip_search.evaluation.metrics import KS


@dataclass(frozen=True, kw_only=True)
class PaperSource:
    """Where figures were printed."""

    title: str
    url: str
    note: str
    """What holds for all figures of it: protocol, units; may be empty."""


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """What one source prints of one model on one data set in one language."""

    model: str
    """As the source names it, with its resolution where that tells models apart."""
    dataset: str
    """As `datasets.registry` names it."""
    split: str
    language: str
    """``mean of N`` where only the mean over N languages was printed."""
    resolution: int | None
    """Of images in pixels, where it is told."""
    recalls: Mapping[str, float]
    """Percent, as printed; those of ``image_retrieval_recall@k`` and ``text_retrieval_recall@k`` that were."""
    source: str
    """A key of `paper_sources`."""
    place: str
    """Table, figure or file in the source; empty where it is not known."""
    remark: str
    """What sets this figure apart from others of the source; may be empty."""
    headline: bool
    """Whether it is shown where there is room for a few."""

    def printed(self, way: str) -> str:
        """Recall@1, 5 and 10 of ``image_retrieval`` or ``text_retrieval``; a dash for what was not printed."""
        found = [self.recalls.get(f"{way}_recall@{k}") for k in KS]
        return " / ".join("-" if value is None else f"{value:.1f}" for value in found)


def figures_of(dataset: str, language: str) -> list[PaperFigure]:
    """All figures of a data set in a language, in the order of the file; none is no error."""
    return [figure for figure in all_figures() if (figure.dataset, figure.language) == (dataset, language)]


def comparable_figures(result: RetrievalResult) -> list[PaperFigure]:
    """Figures of the data set, split and language of a result.

    They were measured with every caption by itself, or with the first five of an image: none is comparable with
    captions joined, or with fewer of them.
    """
    if result.captions_per_image not in ("all", "5"):
        return []
    return [figure for figure in figures_of(result.dataset, result.language) if figure.split == result.split]


def headline_figures(result: RetrievalResult) -> list[PaperFigure]:
    """The headlines among the `comparable_figures` figures: some rows to print below one's own."""
    return [figure for figure in comparable_figures(result) if figure.headline]


@cache
def all_figures() -> tuple[PaperFigure, ...]:
    """Every figure of the file."""
    return tuple(_figure(raw) for raw in _read()["figures"])


@cache
def paper_sources() -> Mapping[str, PaperSource]:
    """By the keys that figures name."""
    return {key: PaperSource(**raw) for key, raw in _read()["sources"].items()}


def _figure(raw: dict[str, Any]) -> PaperFigure:
    recalls = {key: value for key, value in raw.items() if "_recall@" in key}
    defaults = {"resolution": None, "place": "", "remark": "", "headline": False}
    rest = {key: value for key, value in raw.items() if key not in recalls}
    return PaperFigure(**(defaults | rest), recalls=recalls)


def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files("llm2clip_search.benchmarks").joinpath("paper.json").read_text("utf-8"))
    return found
