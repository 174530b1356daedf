"""What was found in own data, in figures."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from llm2clip_search.training.data.own_data import OwnImages

SAMPLE = 10_000
"""Captions of a split whose tokens are counted."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """A split in figures."""

    name: str
    images: int
    captions: int
    fewest: int
    """Captions of the image with the fewest."""
    most: int
    langs: Mapping[str, int]
    """Captions by language, the most frequent first."""
    tokens: float
    """Mean number of tokens in a caption, of a sample."""
    longest: int
    """Tokens of the longest caption of the sample."""


def report(name: str, images: OwnImages, count_tokens: Callable[[Sequence[str]], list[int]]) -> SplitReport:
    """Describe a split.

    Args:
        count_tokens: of the model that training begins from.
    """
    per_image = [len(found) for found in images.captions.values()]
    rows = images.rows
    lengths = count_tokens([text for _, _, text in rows[:: max(1, len(rows) // SAMPLE)]])
    return SplitReport(
        name=name,
        images=len(images.places),
        captions=len(rows),
        fewest=min(per_image),
        most=max(per_image),
        langs=dict(Counter(lang for _, lang, _ in rows).most_common()),
        tokens=fmean(lengths),
        longest=max(lengths),
    )
