"""The catalogue of named models: their towers, where they are published, their sizes and reported recalls.

The data are in ``catalogue.json``. Nothing is guessed: what the cited sources do not state is None and shown as
unknown. Reading the catalogue imports no library and fetches nothing.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Citation:
    """Where entries or figures come from."""

    title: str
    url: str
    note: str
    """Applies to all figures from this source; may be empty."""


@dataclass(frozen=True, kw_only=True)
class CatalogueLLM:
    """A decoder LLM that an adaptor was trained on; the adaptor fits no LLM of another width."""

    repo: str
    parameters: int
    """Without a language-model head, which text towers do not have."""
    hidden: int
    """Width of its hidden states."""
    bytes: int
    """Approximate size of the published tensors."""
    licence: str | None = None
    gated: bool = False
    """Whether the hub asks for a login and an accepted licence."""


@dataclass(frozen=True, kw_only=True)
class ReportedRecalls:
    """What a published table reports for a model."""

    source: str
    """A key of `citations`."""
    row: str
    """The model's name in that table."""
    recalls: Mapping[str, tuple[float, float]]
    """R@1 in percent by data set: image to text, then text to image."""


@dataclass(frozen=True, kw_only=True)
class CatalogueModel:
    """A model that can be loaded by name."""

    name: str
    """As `load_encoder` takes it."""
    what: str
    """Its towers in a few words."""
    source: str
    """A key of `citations`: where the facts of this entry come from."""
    repo: str | None = None
    """Repository on the Hugging Face hub; None for a model that is part of this package."""
    revision: str | None = None
    """Pinned commit, if one is known to have been measured."""
    files: tuple[str, ...] = ()
    """Patterns of the files fetched from ``repo``; a bar separates alternatives. Empty if open_clip fetches them."""
    layout: Literal["openai", "eva02", "siglip2"] | None = None
    """Layout of a checkpoint that is converted to a model folder; None for models that are used as they are."""
    llm: CatalogueLLM | None = None
    vision_parameters: int
    text_parameters: int
    """Everything that a text query needs: LLM and adaptor, or CLIP's text tower."""
    bytes: int | None = None
    """Size of ``files``, without the LLM; None if unknown."""
    licence: str | None = None
    image_size: int
    """Pixels per side."""
    max_tokens: int
    dim: int
    """Width of the shared space."""
    languages: str | None = None
    training_data: tuple[str, ...] = ()
    recalls: tuple[ReportedRecalls, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def download_bytes(self) -> int:
        """Approximate size of what `pull` fetches: the LLM and the files, as float16 if their size is unknown."""
        adaptor = self.text_parameters - (self.llm.parameters if self.llm else 0)
        return (self.bytes or 2 * (self.vision_parameters + adaptor)) + (self.llm.bytes if self.llm else 0)

    def to_dict(self) -> dict[str, Any]:
        """The fields that a program can filter by, for JSON."""
        keys = ("name", "what", "repo", "revision", "licence", "image_size", "max_tokens", "dim", "languages")
        return {key: getattr(self, key) for key in (*keys, "vision_parameters", "text_parameters")}


@cache
def catalogue_models() -> Mapping[str, CatalogueModel]:
    """Every model of the catalogue by name, in the order of the file."""
    raw = _read()
    llms = {key: CatalogueLLM(**llm) for key, llm in raw["llms"].items()}
    return {entry["name"]: _model(entry, llms) for entry in raw["models"]}


@cache
def citations() -> Mapping[str, Citation]:
    """Citations by the keys that entries use."""
    return {key: Citation(**raw) for key, raw in _read()["sources"].items()}


def convertible_model(name: str) -> CatalogueModel | None:
    """The LLM2CLIP checkpoint of a name, regardless of case; None if the name is not one."""
    model = catalogue_models().get(name.lower())
    return model if model is not None and model.layout else None


def model_of_repository(repo: str) -> CatalogueModel | None:
    """The LLM2CLIP checkpoint in a repository of the hub; None if it holds none of the catalogue's."""
    found = (model for model in catalogue_models().values() if model.layout and model.repo)
    return next((model for model in found if str(model.repo).lower() == repo.lower()), None)


def similar_names(name: str) -> list[str]:
    """Up to three names of the catalogue that resemble a name, most similar first."""
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
