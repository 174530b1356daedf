"""Resolve the name of a model: ``nano``, another name of the catalogue, ``open_clip:ARCH/TAG``,
``hf:owner/repo[@revision]`` or ``dir:PATH``.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from llm2clip_search.base.files import open_regular
from llm2clip_search.encoders.checkpoints.pull import converted_folder, is_pulled, pull
from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.dual import open_clip_model, transformers_model
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.plugins import ENCODER_PLUGINS
from llm2clip_search.encoders.sources import fetch, find, is_here, pin_is_known
from llm2clip_search.encoders.stated_sizes import LARGEST_CONFIG
from llm2clip_search.encoders.weights import refuse_pickle
from llm2clip_search.errors import ModelError

if TYPE_CHECKING:
    from llm2clip_search.encoders.catalogue import CatalogueModel

DEFAULT_MODEL = "nano"
PACKAGED = ("nano",)
"""Models whose folder is part of this package, under ``encoders/models``."""
SCHEMES = ("open_clip", "hf", "dir")
"""What a name may start with, before a colon; other packages may provide more, see `plugins`."""


def resolve(name: str) -> Model:
    """Find the model of a name on this machine. Nothing is downloaded or converted; see `fetch_model`.

    Raises:
        ModelError: the name stands for no model, its model is not on this machine, or its folder cannot be read.
    """
    scheme, separator, rest = name.partition(":")
    if not separator:
        if name in PACKAGED:
            return _from_folder(Path(__file__).parent / "models" / name, name)
        if checkpoint := _convertible_model(name):
            if not is_pulled(checkpoint):
                raise _not_here(checkpoint.name, f"about {checkpoint.download_bytes / 1e9:.1f} GB")
            return _from_folder(converted_folder(checkpoint), checkpoint.name)
        raise _no_such_model(name)
    if scheme == "open_clip":
        return Model(name, open_clip_model(rest), None)
    if scheme == "dir":
        found = find(name)
        assert found is not None, "a folder is there, or find raises"
        return _from_folder(found.path.absolute(), f"dir:{found.path.absolute()}")
    if scheme == "hf":
        if checkpoint := _model_of_repository(rest):
            raise ModelError(
                f"{name} is a checkpoint in LLM2CLIP's own layout, which must be converted.",
                hint=f"Name it {checkpoint.name}, and it is converted.",
            )
        if (found := find(name)) is None:
            raise _not_here(name)
        return _from_folder(found.path, name)
    raise _unknown_scheme(name, scheme)


def fetch_model(name: str) -> Model:
    """Fetch, and for a checkpoint of the catalogue convert, what `resolve` and a model's identity need; then resolve.

    Base weights that are pinned are left to the tower that loads them first.

    Raises:
        ModelError: as `resolve`; or the hub cannot be reached, the disk is full, or the checkpoint is damaged.
    """
    if checkpoint := _convertible_model(name):
        pull(checkpoint)
    elif name.startswith("hf:") and not _model_of_repository(name.removeprefix("hf:")):
        fetch(name)
    model = resolve(name)
    for source in model.base_weights:
        if not pin_is_known(source):
            fetch(source)
    return model


def own_folder(name: str) -> Path:
    """The model folder of a name, for commands that change it.

    Raises:
        ModelError: as `resolve`, or the name is of a published model, whose files must stay as they are.
    """
    model = resolve(name)
    if model.folder is None or not (name in PACKAGED or name.startswith("dir:")):
        raise ModelError(
            f"{name} is a published model, whose files are not changed.",
            hint="Copy its folder, which 'llm2clip-search models show' names, and give the copy as dir:PATH.",
        )
    return model.folder


def is_at_hand(name: str) -> bool:
    """Whether `resolve` needs no `fetch_model` first."""
    checkpoint = _convertible_model(name)
    return is_pulled(checkpoint) if checkpoint else is_here(name)


def _convertible_model(name: str) -> "CatalogueModel | None":
    """As of `catalogue`, which queries of other models than its own need not import."""
    if name in PACKAGED or ":" in name:
        return None
    from llm2clip_search.encoders.catalogue import convertible_model

    return convertible_model(name)


def _model_of_repository(reference: str) -> "CatalogueModel | None":
    """As of `catalogue`, for ``owner/repo[@revision]``."""
    from llm2clip_search.encoders.catalogue import model_of_repository

    return model_of_repository(reference.partition("@")[0])


def _not_here(name: str, size: str = "") -> ModelError:
    return ModelError(
        f"{name} is not on this machine.",
        hint=f"'llm2clip-search models pull {name}' fetches it{f' ({size})' if size else ''}.",
    )


def _unknown_scheme(name: str, scheme: str) -> ModelError:
    if provider := ENCODER_PLUGINS.distribution(scheme):
        return ModelError(f"{name!r} is an encoder of the package {provider} and has no model folder.")
    provided = [each for each in ENCODER_PLUGINS.schemes() if each not in SCHEMES]
    known = ", ".join(f"{each}:" for each in (*SCHEMES, *provided))
    return ModelError(f"{name!r} names no model: {scheme!r} is not a known scheme; those are {known}.")


def _no_such_model(name: str) -> ModelError:
    from llm2clip_search.encoders.catalogue import similar_names

    if Path(name).is_dir():
        hint = f"To name the folder, use dir:{name}."
    elif similar := similar_names(name):
        hint = f"Did you mean {' or '.join(similar)}?"
    else:
        others = "open_clip:ARCH/TAG, hf:OWNER/REPO and dir:PATH"
        hint = f"'llm2clip-search models list' lists the named ones; other forms are {others}."
    return ModelError(f"There is no model {name!r}.", hint=hint)


def _from_folder(folder: Path, name: str) -> Model:
    path = folder / "config.json"
    try:
        with open_regular(path) as config:
            raw = json.loads(config.read(LARGEST_CONFIG))
        for weights in folder.glob("*.safetensors"):
            refuse_pickle(weights)
    except OSError as error:
        what = "config.json" if error.filename is None or Path(error.filename).name == path.name else error.filename
        raise ModelError(f"{folder} is not a model folder: it has no readable {what}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path} is not a configuration of a model: it holds a {type(raw).__name__}.")
    if "model_type" in raw:
        _need_safetensors(folder)
        # transformers loads the tensors; the folder is named as the source of both towers.
        return Model(name, transformers_model(folder, source=name), None)
    return Model(name, ModelConfig.read(path), folder)


def _need_safetensors(folder: Path) -> None:
    pickles = sorted(path.name for suffix in ("bin", "pt", "pth") for path in folder.glob(f"*.{suffix}"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), and unpickling runs code; transformers'"
            " save_pretrained(..., safe_serialization=True) writes safetensors on a machine that trusts it.",
            hint="If it is a state dict of LLM2CLIP's training repository, convert it to a model folder with"
            " 'llm2clip-search models convert', which reads nothing but tensors from it.",
        )
