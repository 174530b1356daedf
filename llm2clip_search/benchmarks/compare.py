"""Comparison of two retrieval runs on the same data: recall differences with intervals and a paired test."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm2clip_search.benchmarks.results import RetrievalResult
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import NEVER, RetrievalRanks
from llm2clip_search.evaluation.statistics import paired_differences

Subset = tuple[str, str, str]
"""Data set, split and language."""


@dataclass(frozen=True, kw_only=True)
class RecallDifference:
    """One recall of two encoders on one data set, split and language."""

    dataset: str
    split: str
    language: str
    metric: str
    """A key of `metrics.RetrievalRanks.recalls`."""
    model_a: str
    model_b: str
    a: float
    b: float
    """Recalls in [0, 1]."""
    difference: float
    """``b - a``; positive if the second encoder is better."""
    low: float
    high: float
    """95 % interval of the difference."""
    p: float
    """p-value of the paired test; not corrected for multiple comparisons."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """The recall differences of two runs, and what only one of them measured."""

    differences: Sequence[RecallDifference]
    """In the order of the first run's results, then by metric."""
    only_a: Sequence[Subset]
    only_b: Sequence[Subset]


def compare_runs(a: Sequence[RetrievalResult], b: Sequence[RetrievalResult]) -> RunComparison:
    """Compare two runs that have at most one result per data set, split and language.

    Raises:
        CorpusError: two results are of different images or captions, a run has two results of the same subset, a
            result has no ranks, or the runs have nothing in common.
    """
    first, second = _by_subset(a), _by_subset(b)
    common = [subset for subset in first if subset in second]
    if not common:
        raise CorpusError(
            f"The two runs have no data set, split and language in common: {_named(first)} against {_named(second)}."
        )
    return RunComparison(
        differences=[row for subset in common for row in _differences(first[subset], second[subset])],
        only_a=[subset for subset in first if subset not in second],
        only_b=[subset for subset in second if subset not in first],
    )


def stored_ranks(result: RetrievalResult) -> RetrievalRanks:
    """The ranks in a result as they were measured, with `metrics.NEVER` for -1.

    Raises:
        CorpusError: there are no ranks, their number does not match that of captions and images, or captions are of
            images that the result does not have.
    """
    lengths = {"image_retrieval": result.captions, "text_retrieval": result.images, "image_of": result.captions}
    for key, expected in lengths.items():
        if (found := len(result.ranks.get(key, ()))) != expected:
            raise CorpusError(
                f"The result of {result.model} on {subset_name(subset_of(result))} has {found:,} ranks of {key}, not "
                f"{expected:,}.",
                hint="Measure it again with bench retrieval --out.",
            )
    if not all(0 <= image < result.images for image in result.ranks["image_of"]):
        raise CorpusError(
            f"The result of {result.model} on {subset_name(subset_of(result))} has captions of images beyond its "
            f"{result.images:,}: its file is damaged.",
            hint="Measure it again with bench retrieval --out.",
        )
    ways = (np.array(result.ranks[key], dtype=np.int64) for key in ("image_retrieval", "text_retrieval"))
    image, text = (np.where(rank < 0, NEVER, rank) for rank in ways)
    return RetrievalRanks(image_retrieval=image, text_retrieval=text)


def subset_of(result: RetrievalResult) -> Subset:
    """What a result was measured on."""
    return result.dataset, result.split, result.language


def subset_name(subset: Subset) -> str:
    """A readable name such as ``flickr8k dev in en``."""
    dataset, split, language = subset
    return f"{dataset} {split} in {language}"


def _by_subset(results: Sequence[RetrievalResult]) -> dict[Subset, RetrievalResult]:
    found: dict[Subset, RetrievalResult] = {}
    for result in results:
        subset = subset_of(result)
        if subset in found:
            raise CorpusError(
                f"{subset_name(subset)} is in one run twice, by {found[subset].model} and {result.model}.",
                hint="bench compare takes two files, each with one result per data set, split and language.",
            )
        found[subset] = result
    return found


def _differences(a: RetrievalResult, b: RetrievalResult) -> list[RecallDifference]:
    if a.data != b.data:
        raise CorpusError(
            f"{subset_name(subset_of(a))} was measured on different images or captions: {a.model} on {a.data}"
            f" ({a.captions:,} captions, {a.images:,} images), {b.model} on {b.data} ({b.captions:,} captions,"
            f" {b.images:,} images).",
            hint="Measure both with the same --root and --captions-per-image.",
        )
    ranks_a, ranks_b = stored_ranks(a), stored_ranks(b)
    recalls_a, recalls_b = ranks_a.recalls(), ranks_b.recalls()
    return [
        RecallDifference(
            dataset=a.dataset,
            split=a.split,
            language=a.language,
            metric=metric,
            model_a=a.model,
            model_b=b.model,
            a=recalls_a[metric],
            b=recalls_b[metric],
            difference=found.difference,
            low=found.low,
            high=found.high,
            p=found.p,
        )
        for metric, found in paired_differences(ranks_a, ranks_b, np.array(a.ranks["image_of"], dtype=np.int64)).items()
    ]


def _named(subsets: Iterable[Subset]) -> str:
    return ", ".join(map(subset_name, subsets)) or "nothing"
