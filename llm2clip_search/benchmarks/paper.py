"""Figures published in papers, each with its source, for comparison with measured results.

The data is in ``paper.json``: recalls in percent as printed in the source, under CLIP_benchmark's keys. Averages over
data sets, and figures that appear only on aggregator sites, are not included.
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
    """A publication that reports figures."""

    title: str
    url: str
    note: str
    """Remarks on all its figures, such as protocol and units; may be empty."""


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """What one source reports for one model on one data set in one language."""

    model: str
    """Name used by the source, with the resolution if needed to tell models apart."""
    dataset: str
    """Name in `datasets.registry`."""
    split: str
    language: str
    """``mean of N`` if only the mean over N languages is reported."""
    resolution: int | None
    """Image resolution in pixels, if stated."""
    recalls: Mapping[str, float]
    """Percent as printed; those of ``image_retrieval_recall@k`` and ``text_retrieval_recall@k`` that are reported."""
    source: str
    """A key of `paper_sources`."""
    location: str
    """Table, figure or file in the source; empty if unknown."""
    remark: str
    """What distinguishes this figure from others of the source; may be empty."""
    headline: bool
    """Whether the figure is shown if there is room for only a few."""

    def printed(self, way: str) -> str:
        """Recall@1, 5 and 10 of ``image_retrieval`` or ``text_retrieval``; a dash for what is not reported."""
        found = [self.recalls.get(f"{way}_recall@{k}") for k in KS]
        return " / ".join("-" if value is None else f"{value:.1f}" for value in found)


def figures_of(dataset: str, language: str) -> list[PaperFigure]:
    """All figures of a data set in a language, in the order of the file; empty if there are none."""
    return [figure for figure in all_figures() if (figure.dataset, figure.language) == (dataset, language)]


def comparable_figures(result: RetrievalResult) -> list[PaperFigure]:
    """Figures for the data set, split and language of a result.

    Published figures use all captions of an image one by one, or its first five. They are not comparable with results
    on joined captions or on fewer captions, for which nothing is returned.
    """
    if result.captions_per_image not in ("all", "5"):
        return []
    return [figure for figure in figures_of(result.dataset, result.language) if figure.split == result.split]


def headline_figures(result: RetrievalResult) -> list[PaperFigure]:
    """A selection of `comparable_figures` to print below a result."""
    return [figure for figure in comparable_figures(result) if figure.headline]


@cache
def all_figures() -> tuple[PaperFigure, ...]:
    """All figures in the file."""
    return tuple(_figure(raw) for raw in _read()["figures"])


@cache
def paper_sources() -> Mapping[str, PaperSource]:
    """Sources by the keys that `PaperFigure.source` uses."""
    return {key: PaperSource(**raw) for key, raw in _read()["sources"].items()}


def _figure(raw: dict[str, Any]) -> PaperFigure:
    recalls = {key: value for key, value in raw.items() if "_recall@" in key}
    defaults = {"resolution": None, "place": "", "remark": "", "headline": False}
    rest = defaults | {key: value for key, value in raw.items() if key not in recalls}
    return PaperFigure(location=rest.pop("place"), recalls=recalls, **rest)


def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files("llm2clip_search.benchmarks").joinpath("paper.json").read_text("utf-8"))
    return found
