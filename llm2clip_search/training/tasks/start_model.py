"""The model that training begins from, instead of a fresh vision tower and fresh heads.

A model with an LLM is continued as a whole. Of a CLIP or SigLIP model of open_clip or transformers, only the vision
tower is taken: the LLM is that of another model, and the adaptor between the two is new.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.registry import fetch_model
from llm2clip_search.errors import ModelError
from llm2clip_search.training.tasks.projection_heads import ProjectionHeads


@dataclass(frozen=True, kw_only=True)
class Start:
    """What training begins from."""

    model: Model
    """The model that was named."""
    llm: Model
    """The model whose LLM reads captions: the same one, unless `is_dual`."""

    @property
    def is_dual(self) -> bool:
        """Whether only the vision tower of the named model is taken."""
        return self.model is not self.llm

    @property
    def llm_folder(self) -> Path:
        """The model folder of the LLM."""
        assert self.llm.folder is not None, "fetch_start takes LLMs from model folders only"
        return self.llm.folder


def fetch_start(name: str, llm: str) -> Start:
    """The model of a name, fetched if necessary.

    Args:
        llm: the model whose LLM is taken if the named one has a text tower of CLIP's or SigLIP's kind.

    Raises:
        ModelError: there is no such model, or training cannot begin from it; the message says why.
    """
    model = fetch_model(name)
    if model.config.text.library == "llm":
        _require_heads(model, f"Training cannot begin from {name}")
        return Start(model=model, llm=model)
    if model.folder is not None:
        raise ModelError(
            f"Training cannot begin from {name}: its text tower is that of {model.config.text.library}, not an LLM, and"
            " its weights are in a model folder; of models without an LLM, those are taken that their library loads."
        )
    other = fetch_model(llm)
    _require_heads(other, f"The LLM of {llm} cannot read captions for {name}")
    return Start(model=model, llm=other)


def _require_heads(model: Model, failed: str) -> None:
    text = model.config.text
    if text.library != "llm":
        raise ModelError(f"{failed}: its text tower is that of {text.library}, not an LLM.")
    if model.folder is None or text.adaptor is None:
        raise ModelError(f"{failed}: it has no adaptor behind its LLM, which is what training goes on with.")


def start_config(start: Start, name: str, *, licence: str, training_data: tuple[str, ...]) -> ModelConfig:
    """The configuration of a model that begins as another one: a calibration does not outlast training.

    With only the vision tower of a dual encoder, the shared space is that of its tower, so that it can be held close to
    what it was.
    """
    config, text = start.model.config, start.llm.config.text
    licences = [config.licence] + [f"{start.llm.config.licence} (LLM)"] * start.is_dual
    seen = (*config.training_data, *(start.llm.config.training_data if start.is_dual else ()))
    common = replace(
        config,
        name=name,
        licence=licence or "; ".join((*licences, "terms of the training data")),
        training_data=(*seen, *training_data),
        calibration=None,
        vision=replace(config.vision, weights=_absolute(config.vision.weights, start.model)),
        text=replace(text, weights=_absolute(text.weights, start.llm)),
    )
    return replace(common, text=replace(common.text, clip=None), querybank=0.0) if start.is_dual else common


def _absolute(source: str | None, start: Model) -> str | None:
    """A source of weights that is not relative to the folder of the start model."""
    if source is None or not source.startswith("dir:") or start.folder is None:
        return source
    return f"dir:{(start.folder / source.removeprefix('dir:')).resolve()}"


def load_heads(heads: ProjectionHeads, start: Model) -> None:
    """Set heads to those of a model; the statistics of the features stay as they are.

    Raises:
        ModelError: shapes differ, or a tensor is missing.
    """
    vision, text = start.tensors("vision", dtype=torch.float32), start.tensors("text", dtype=torch.float32)
    own = {name.removeprefix("adaptor."): tensor for name, tensor in text.items() if name.startswith("adaptor.")}
    try:
        with torch.no_grad():
            heads.adaptor.load_state_dict(own)
            if isinstance(heads.projection, nn.Linear):
                weight = vision["projection.weight"]
                bias = vision.get("projection.bias", torch.zeros(len(weight)))
                # Stored projections take features as they are, that of the heads takes them normalised.
                heads.projection.weight.copy_(weight * heads.std.cpu())
                heads.projection.bias.copy_(bias + weight @ heads.mean.cpu())
            scale = start.querybank("vision").get("scale")
            if scale is not None:
                heads.log_scale.copy_(scale.log())
    except (RuntimeError, KeyError) as error:
        raise ModelError(f"The heads of {start.reference} do not fit its configuration: {error}.") from error


def backbone_tensors(start: Model) -> dict[str, torch.Tensor]:
    """Tensors of its vision backbone that its folder holds, by their names there."""
    return {f"vision.{n}": t for n, t in start.tensors("vision").items() if n.startswith("backbone.")}
