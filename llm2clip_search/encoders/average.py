"""The average of models that were trained from the same initial weights.

Wortsman et al. (Model soups, ICML 2022, arXiv 2203.05482) found that the average of the weights of several runs, which
differ in hyperparameters or random draws, is often better than the best of them. It costs no more than one of them.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.folders import copy_terms, output_folder, refuse_existing
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.placement import TowerName
from llm2clip_search.encoders.querybank import QuerybankNorm
from llm2clip_search.encoders.sources import find
from llm2clip_search.errors import ModelError

LEAST_ALIKE = 0.5
"""Least cosine of two models' values of a matrix. Runs from the same initial weights have 0.7 and more after a thousand
steps; matrices that were drawn independently have about 0."""
_TOWERS: tuple[TowerName, ...] = ("vision", "text")


def average_models(models: Sequence[Model], destination: Path, *, name: str = "") -> ModelConfig:
    """Write the average of models to a model folder, with the configuration of the first.

    The querybanks of the models are of the same images and captions, so their vectors are averaged too, and the
    normalisation is fitted to these again. The average has no calibration.

    Args:
        models: two or more of the same architecture, with the same LLM.
        destination: the model folder to write.
        name: of the model; empty takes the destination's.

    Raises:
        ModelError: the destination exists or cannot be written; or the models differ in more than their weights, have
            low-rank updates of the LLM that differ, or were not trained from the same initial weights.
    """
    refuse_existing(destination)
    if len(models) < 2:
        raise ModelError(f"An average is of two or more models, not of {len(models)}.")
    for model in models[1:]:
        _require_same_configuration(models[0], model)
    tensors = [_tensors(model) for model in models]
    for model, each in zip(models[1:], tensors[1:], strict=True):
        _require_alike(models[0], tensors[0], model, each)
    config = replace(
        _anchored(models[0]),
        name=name or destination.name,
        licence="; ".join(dict.fromkeys(model.config.licence for model in models)),
        training_data=tuple(dict.fromkeys(line for model in models for line in model.config.training_data)),
        calibration=None,
    )
    averaged = {key: _mean([each[key] for each in tensors]) for key in tensors[0] if ".querybank." not in key}
    if config.querybank:
        averaged |= _querybanks(config.querybank, tensors)
    with output_folder(destination) as folder:
        _write(folder, config, averaged, models)
    return config


def _tensors(model: Model) -> dict[str, torch.Tensor]:
    found = {f"{tower}.{name}": tensor for tower in _TOWERS for name, tensor in model.tensors(tower).items()}
    if model.folder is None or not found:
        raise ModelError(f"{model.reference} has no tensors of its own to be averaged.")
    return found


def _anchored(model: Model) -> ModelConfig:
    """The configuration of a model, with base weights that lie beside it named by their complete paths."""

    def complete(source: str | None) -> str | None:
        if source is None or not source.startswith("dir:"):
            return source
        found = find(source, relative_to=model.folder)
        return f"dir:{found.path.resolve()}" if found else source

    config = model.config
    return replace(
        config,
        vision=replace(config.vision, weights=complete(config.vision.weights)),
        text=replace(config.text, weights=complete(config.text.weights)),
    )


def _require_same_configuration(first: Model, other: Model) -> None:
    ours, theirs = _flat(_anchored(first)), _flat(_anchored(other))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise ModelError(
                f"{first.reference} and {other.reference} differ in {key}: {ours.get(key)} and {theirs.get(key)}. Only"
                " models that differ in nothing but their weights have an average."
            )


def _flat(config: ModelConfig) -> dict[str, Any]:
    """What decides the embeddings, by the names of the configuration file: ``vision.preprocess.height``."""
    out: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, each in value.items():
                add(f"{prefix}.{key}" if prefix else key, each)
        else:
            out[prefix] = value

    add("", {key: asdict(config)[key] for key in ("dim", "querybank", "vision", "text")})
    return out


def _require_alike(
    first: Model, ours: Mapping[str, torch.Tensor], other: Model, theirs: Mapping[str, torch.Tensor]
) -> None:
    names = f"{first.reference} and {other.reference}"
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in ours or key not in theirs or ours[key].shape != theirs[key].shape:
            shapes = [str(list(each[key].shape)) if key in each else "missing" for each in (ours, theirs)]
            raise ModelError(f"Tensor {key} of {names} is {shapes[0]} and {shapes[1]}; an average needs equal shapes.")
        if torch.equal(ours[key], theirs[key]):
            continue
        if key.startswith(("text.lora.", "text.states.")):
            # The average of two products is not the product of the factors' averages.
            raise ModelError(f"{names} have different LLMs (tensor {key}); only runs on the same LLM have an average.")
        if ours[key].ndim > 1:
            cosine = float(F.cosine_similarity(ours[key].float().flatten(), theirs[key].float().flatten(), dim=0))
            if cosine < LEAST_ALIKE:
                what = "have querybanks of different images" if key.endswith(".bank") else "were trained apart"
                raise ModelError(
                    f"{names} {what}: the cosine of their values of {key} is {cosine:.2f}. Only runs from the same"
                    " initial weights have an average; the seed of a recipe decides those."
                )


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean, computed in float32, in the type of the first; integers, such as counters, are the first's."""
    first = tensors[0]
    if not first.is_floating_point():
        return first
    return torch.stack([tensor.float() for tensor in tensors]).mean(dim=0).to(first.dtype)


def _querybanks(strength: float, tensors: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    # The vision tower's bank is of captions, the text tower's of images.
    captions, images = (
        F.normalize(torch.stack([each[f"{tower}.querybank.bank"].float() for each in tensors]).mean(dim=0), dim=1)
        for tower in _TOWERS
    )
    # Training learns the logarithm of the scale.
    scale = float(torch.stack([each["vision.querybank.scale"] for each in tensors]).log().mean().exp())
    norms = (
        QuerybankNorm.fit("vision", strength, own=images, bank=captions, scale=scale),
        QuerybankNorm.fit("text", strength, own=captions, bank=images, scale=scale),
    )
    return {name: tensor for norm in norms for name, tensor in norm.tensors().items()}


def _write(folder: Path, config: ModelConfig, tensors: Mapping[str, torch.Tensor], models: Sequence[Model]) -> None:
    from safetensors.torch import save_file

    folders = [model.folder for model in models if model.folder is not None]  # all of them: their tensors were read
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(folders[0] / "tokenizer.json", folder / "tokenizer.json")
    for each in folders:
        copy_terms(each, folder)
    lines = [
        f"# {config.name}",
        "",
        "The average of the weights of these models (Wortsman et al., Model soups, arXiv 2203.05482):",
        "",
        "| model | fingerprint |",
        "|---|---|",
        *(f"| {model.reference} | {model.identity.fingerprint} |" for model in models),
        "",
        f"Licence: {config.licence}.",
        "",
        *(f"- {line}." for line in config.training_data),
    ]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
