"""The catalogue of named models: what they are made of, where they lie, how large they are, what is printed of them.

It is data, in ``catalogue.json``. Nothing in it was guessed: what its sources do not state is None, and shown as
unknown. Reading it imports no library, and fetches nothing.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where entries or figures come from."""

    title: str
    url: str
    note: str
    """What holds for all figures of it; may be empty."""


@dataclass(frozen=True, kw_only=True)
class CatalogueLLM:
    """A decoder LLM that an adaptor was trained on; one of another width does not fit it."""

    repo: str
    parameters: int
    """Without a language-model head, which no text tower has."""
    hidden: int
    """Width of its states."""
    bytes: int
    """Of its tensors as published, about."""
    licence: str | None = None
    gated: bool = False
    """Whether the hub asks for a login and an accepted licence."""


@dataclass(frozen=True, kw_only=True)
class ReportedRecalls:
    """What a table prints of a model."""

    source: str
    """A key of `sources`."""
    row: str
    """As the table names it."""
    recalls: Mapping[str, tuple[float, float]]
    """By data set, R@1 in percent: image to text, then text to image."""


@dataclass(frozen=True, kw_only=True)
class CatalogueModel:
    """A model that has a name here."""

    name: str
    """As for ``--model``."""
    what: str
    """Its towers in a few words."""
    source: str
    """A key of `sources`: where this entry's facts are from."""
    repo: str | None = None
    """On the Hugging Face hub; None for a model that comes along."""
    revision: str | None = None
    """Pinned commit, where one is known to have been measured."""
    files: tuple[str, ...] = ()
    """Patterns of what is fetched of ``repo``; a bar separates alternatives. Empty where open_clip fetches."""
    layout: Literal["openai", "eva02", "siglip2"] | None = None
    """The published layout that is converted into a model folder; None for models that are used as they are."""
    llm: CatalogueLLM | None = None
    vision_parameters: int
    text_parameters: int
    """Everything that asking needs: LLM and adaptor, or CLIP's text tower."""
    bytes: int | None = None
    """Of ``files``, without the LLM; None where it is not known."""
    licence: str | None = None
    image_size: int
    """Pixels of both sides."""
    max_tokens: int
    dim: int
    """Width of the shared space."""
    languages: str | None = None
    training_data: tuple[str, ...] = ()
    recalls: tuple[ReportedRecalls, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def download_bytes(self) -> int:
        """About what `pull` fetches: the files, at half precision where their size is not known, and the LLM."""
        adaptor = self.text_parameters - (self.llm.parameters if self.llm else 0)
        return (self.bytes or 2 * (self.vision_parameters + adaptor)) + (self.llm.bytes if self.llm else 0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the fields that a machine can filter by."""
        keys = ("name", "what", "repo", "revision", "licence", "image_size", "max_tokens", "dim", "languages")
        return {key: getattr(self, key) for key in (*keys, "vision_parameters", "text_parameters")}


@cache
def catalogue_models() -> Mapping[str, CatalogueModel]:
    """Every model of the catalogue by name, in the order of the file."""
    raw = _read()
    llms = {key: CatalogueLLM(**llm) for key, llm in raw["llms"].items()}
    return {entry["name"]: _model(entry, llms) for entry in raw["models"]}


@cache
def sources() -> Mapping[str, Source]:
    """By the keys that entries name."""
    return {key: Source(**raw) for key, raw in _read()["sources"].items()}


def convertible_model(name: str) -> CatalogueModel | None:
    """The LLM2CLIP checkpoint of a name, in whatever case it is written; None where it is none."""
    model = catalogue_models().get(name.lower())
    return model if model is not None and model.layout else None


def model_of_repository(repo: str) -> CatalogueModel | None:
    """The LLM2CLIP checkpoint that a repository of the hub holds."""
    found = (model for model in catalogue_models().values() if model.layout and model.repo)
    return next((model for model in found if str(model.repo).lower() == repo.lower()), None)


def similar_names(name: str) -> list[str]:
    """At most three names of the catalogue that look like this one, the nearest first."""
    lowered = {model.lower(): model for model in catalogue_models()}
    return [lowered[near] for near in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]


def _model(raw: Mapping[str, Any], llms: Mapping[str, CatalogueLLM]) -> CatalogueModel:
    lists = {key: tuple(raw.get(key, ())) for key in ("files", "training_data", "notes")}
    recalls = tuple(
        ReportedRecalls(
            source=entry["source"],
            row=entry["row"],
            recalls={name: (to_text, to_image) for name, (to_text, to_image) in entry["recalls"].items()},
        )
        for entry in raw.get("recalls", ())
    )
    llm = llms[raw["llm"]] if "llm" in raw else None
    return CatalogueModel(**{**raw, **lists, "recalls": recalls, "llm": llm})


def _read() -> dict[str, Any]:
    text = files("llm2clip_search.encoders").joinpath("catalogue.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
