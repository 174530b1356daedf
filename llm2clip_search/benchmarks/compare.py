"""Two retrieval runs on the same data: differences of recall, with intervals and a paired test."""

from collections.abc import Sequence
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
    """One recall of two encoders on one data set in one language."""

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
    """``b - a``: positive where the second encoder is better."""
    low: float
    high: float
    """Its 95 % interval."""
    p: float
    """Of the paired test that nothing differs; not corrected for the number of rows."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """What two runs have in common, and what they do not."""

    differences: Sequence[RecallDifference]
    """By data set and language in the order of the first run, then by metric."""
    only_a: Sequence[Subset]
    only_b: Sequence[Subset]


def compare_runs(a: Sequence[RetrievalResult], b: Sequence[RetrievalResult]) -> RunComparison:
    """Compare two runs, each with one result of a data set, split and language.

    Raises:
        CorpusError: results of different images or captions, one part twice in a run, a result without ranks,
            or nothing in common.
    """
    first, second = _by_part(a), _by_part(b)
    common = [part for part in first if part in second]
    if not common:
        raise CorpusError(
            f"The two runs have no data set, split and language in common: {_named(first)} against {_named(second)}."
        )
    return RunComparison(
        differences=[row for part in common for row in _differences(first[part], second[part])],
        only_a=[part for part in first if part not in second],
        only_b=[part for part in second if part not in first],
    )


def stored_ranks(result: RetrievalResult) -> RetrievalRanks:
    """The ranks that a result holds, as they were measured: int64, `metrics.NEVER` where a file has -1.

    Raises:
        CorpusError: a result without ranks, with another number of them than of captions and images, or with
            captions of images that it does not have.
    """
    lengths = {"image_retrieval": result.captions, "text_retrieval": result.images, "image_of": result.captions}
    for key, expected in lengths.items():
        if (found := len(result.ranks.get(key, ()))) != expected:
            raise CorpusError(
                f"The result of {result.model} on {subset_name(subset_of(result))} has {found:,} ranks of {key}, not "
                f"{expected:,}; measure it again with bench retrieval --out."
            )
    if not all(0 <= image < result.images for image in result.ranks["image_of"]):
        raise CorpusError(
            f"The result of {result.model} on {subset_name(subset_of(result))} has captions of images beyond its "
            f"{result.images:,}: its file is damaged; measure it again with bench retrieval --out."
        )
    ways = (np.array(result.ranks[key], dtype=np.int64) for key in ("image_retrieval", "text_retrieval"))
    image, text = (np.where(rank < 0, NEVER, rank) for rank in ways)
    return RetrievalRanks(image_retrieval=image, text_retrieval=text)


def subset_of(result: RetrievalResult) -> Subset:
    return result.dataset, result.split, result.language


def subset_name(part: Subset) -> str:
    """For people: ``flickr8k dev in en``."""
    dataset, split, language = part
    return f"{dataset} {split} in {language}"


def _by_part(results: Sequence[RetrievalResult]) -> dict[Subset, RetrievalResult]:
    found: dict[Subset, RetrievalResult] = {}
    for result in results:
        part = subset_of(result)
        if part in found:
            raise CorpusError(
                f"{subset_name(part)} is in one run twice, by {found[part].model} and {result.model}; compare takes two"
                " files that hold it once each."
            )
        found[part] = result
    return found


def _differences(a: RetrievalResult, b: RetrievalResult) -> list[RecallDifference]:
    if a.data != b.data:
        raise CorpusError(
            f"{subset_name(subset_of(a))} was measured on other images or captions: {a.model} on {a.data}"
            f" ({a.captions:,} captions, {a.images:,} images), {b.model} on {b.data} ({b.captions:,} captions,"
            f" {b.images:,} images); measure both with the same --root and --captions-per-image."
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


def _named(parts: dict[Subset, RetrievalResult]) -> str:
    return ", ".join(subset_name(part) for part in parts) or "nothing"
