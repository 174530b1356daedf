"""The model that training begins from, instead of a fresh vision tower and fresh heads."""

from dataclasses import replace

import torch
from torch import nn

from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.registry import fetch_model
from llm2clip_search.errors import ModelError
from llm2clip_search.training.tasks.projection_heads import ProjectionHeads


def fetch_start(name: str) -> Model:
    """The model of a name, fetched if necessary, whose training can be continued.

    Raises:
        ModelError: there is no such model, or its text tower is no LLM with an adaptor.
    """
    model = fetch_model(name)
    text = model.config.text
    if model.folder is None or text.library != "llm" or text.adaptor is None:
        raise ModelError(
            f"Training cannot begin from {name}: its text tower is that of {text.library}, and stage 2 trains the"
            " adaptor behind an LLM."
        )
    return model


def fine_tuned(start: Model, name: str, *, licence: str, training_data: tuple[str, ...]) -> ModelConfig:
    """The configuration of a model that begins as another one: a calibration does not outlast training."""
    config = start.config
    return replace(
        config,
        name=name,
        licence=licence or f"{config.licence}; terms of the training data",
        training_data=(*config.training_data, *training_data),
        calibration=None,
        vision=replace(config.vision, weights=_absolute(config.vision.weights, start)),
        text=replace(config.text, weights=_absolute(config.text.weights, start)),
    )


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
