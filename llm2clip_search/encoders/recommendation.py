"""Which published model suits: by memory, languages, length of captions and licence, ordered by published recalls."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from llm2clip_search.encoders.catalogue import CatalogueModel
from llm2clip_search.encoders.memory_fit import DeviceMemory, model_fit

SHORT = ("flickr30k", "mscoco_captions")
"""Data sets with captions of a sentence."""
LONG = ("sharegpt4v-1k", "urban1k", "docci")
"""Data sets with captions of a paragraph."""
FREE_LICENCES = ("apache-2.0", "mit")
"""Licences without conditions on what a model is used for."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a model has to be capable of; nothing is needed by default."""

    languages: tuple[str, ...] = ()
    """Codes of the languages of captions, such as zh. A model of which no languages are known counts as English."""
    tokens: int = 0
    """Length of captions."""
    free: bool = False
    """Weights and LLM under one of `FREE_LICENCES`."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A model that does what is needed, with its published recalls."""

    model: CatalogueModel
    short: float | None
    """Image R@1 in percent, the mean over `SHORT`; None if it is not published."""
    long: float | None
    """Likewise over `LONG`."""


def recommend(models: Iterable[CatalogueModel], needs: Needs, devices: Sequence[DeviceMemory]) -> list[Recommendation]:
    """Models both of whose towers fit and that do what is needed, best first.

    The order is that of the mean image R@1 over all sets; models without published figures follow, the largest first.
    Where a publication has several rows for a model, the lowest counts: it does not say which weights were published.
    """
    found = [_recommendation(model) for model in models if model_fit(model, devices) == "yes" and _does(model, needs)]
    return sorted(found, key=_rank)


def _does(model: CatalogueModel, needs: Needs) -> bool:
    licences = [model.licence, *([model.llm.licence] if model.llm else [])]
    return (
        model.max_tokens >= needs.tokens
        and all(_reads(model, language) for language in needs.languages)
        and (not needs.free or all(licence in FREE_LICENCES for licence in licences))
    )


def _reads(model: CatalogueModel, language: str) -> bool:
    if model.languages == "multilingual":
        return True
    if model.languages is None or model.languages.startswith("English"):
        return language.lower() == "en"
    return language.lower() in model.languages.split(", ")


def _recommendation(model: CatalogueModel) -> Recommendation:
    def published(sets: Sequence[str]) -> float | None:
        rows = [[row.recalls[name][1] for name in sets if name in row.recalls] for row in model.recalls]
        return min((mean(row) for row in rows if len(row) == len(sets)), default=None)

    return Recommendation(model=model, short=published(SHORT), long=published(LONG))


def _rank(each: Recommendation) -> tuple[float, int]:
    figures = (each.short, each.long)
    total = -sum(len(sets) * value for sets, value in zip((SHORT, LONG), figures, strict=True) if value is not None)
    return total, -(each.model.vision_parameters + each.model.text_parameters)
