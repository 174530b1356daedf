"""Names to models: ``nano``, LLM2CLIP's published names, ``open_clip:ARCH/TAG``, ``hf:owner/repo[@revision]``,
``dir:PATH``.
"""

import json
from importlib.resources import files
from pathlib import Path

from llm2clip_search.encoders.catalogue import convertible_model, model_of_repository, similar_names
from llm2clip_search.encoders.checkpoints.pull import converted_folder, is_pulled, pull
from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.dual import open_clip_model, transformers_model
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.plugins import plugin_distribution, plugin_schemes
from llm2clip_search.encoders.sources import fetch, find, is_here, pin_is_known
from llm2clip_search.encoders.weights import refuse_pickle
from llm2clip_search.errors import ModelError

DEFAULT_MODEL = "nano"
PACKAGED = ("nano",)
"""Models whose folder lies in this package, under ``encoders/models``."""
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
            return _from_folder(Path(str(files("llm2clip_search.encoders"))) / "models" / name, name)
        if published := convertible_model(name):
            if not is_pulled(published):
                raise _not_here(published.name, f"about {published.download_bytes / 1e9:.1f} GB")
            return _from_folder(converted_folder(published), published.name)
        raise ModelError(_no_such_model(name))
    if scheme == "open_clip":
        return Model(name, open_clip_model(rest), None)
    if scheme == "dir":
        found = find(name)
        assert found is not None, "a folder is there, or find raises"
        return _from_folder(found.path.absolute(), f"dir:{found.path.absolute()}")
    if scheme == "hf":
        if published := model_of_repository(rest.partition("@")[0]):
            raise ModelError(f"{name} is in a layout of its own; name it {published.name}, and it is converted.")
        if (found := find(name)) is None:
            raise _not_here(name)
        return _from_folder(found.path, name)
    raise ModelError(_unknown_scheme(name, scheme))


def fetch_model(name: str) -> Model:
    """Fetch, and for a checkpoint of the catalogue convert, what `resolve` and a model's identity need; then resolve.

    Base weights that are pinned are left to the tower that loads them first.

    Raises:
        ModelError: as `resolve`; or the hub cannot be reached, the disk is full, or the checkpoint is damaged.
    """
    if published := convertible_model(name):
        pull(published)
    elif name.startswith("hf:") and not model_of_repository(name.removeprefix("hf:").partition("@")[0]):
        fetch(name)
    model = resolve(name)
    for source in model.base_weights:
        if not pin_is_known(source):
            fetch(source)
    return model


def is_at_hand(name: str) -> bool:
    """Whether `resolve` needs no `fetch_model` first."""
    published = convertible_model(name)
    return is_pulled(published) if published else is_here(name)


def _not_here(name: str, size: str = "") -> ModelError:
    return ModelError(
        f"{name} is not on this machine.",
        hint=f"'llm2clip-search models pull {name}' fetches it{f' ({size})' if size else ''}.",
    )


def _unknown_scheme(name: str, scheme: str) -> str:
    if provider := plugin_distribution(scheme):
        return f"{name!r} is an encoder of the package {provider}; it has no model folder."
    provided = [each for each in plugin_schemes() if each not in SCHEMES]
    known = ", ".join(f"{each}:" for each in (*SCHEMES, *provided))
    return f"{name!r} names no model: its scheme is none of {known}."


def _no_such_model(name: str) -> str:
    near = similar_names(name)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    if Path(name).is_dir():
        hint = f"; for the folder, say dir:{name}."
    return (
        f"There is no model {name!r}; a model is one that 'llm2clip-search models list' names, or open_clip:ARCH/TAG,"
        f" hf:OWNER/REPO or dir:PATH{hint}"
    )


def _from_folder(folder: Path, name: str) -> Model:
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{folder} is no model folder: it has no readable config.json.") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from error
    for file in folder.glob("*.safetensors"):
        refuse_pickle(file)
    if "model_type" in raw:
        _need_safetensors(folder)
        # The tensors are transformers' own; the folder is named as the source of both towers.
        return Model(name, transformers_model(folder, source=name), None)
    return Model(name, ModelConfig.read(path), folder)


def _need_safetensors(folder: Path) -> None:
    pickles = sorted(path.name for suffix in ("bin", "pt", "pth") for path in folder.glob(f"*.{suffix}"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), and unpickling runs code; write them with"
            " save_pretrained(..., safe_serialization=True) where they were made, or turn a state dict of LLM2CLIP's"
            " training repository into a model folder by 'llm2clip-search models convert', which reads tensors alone."
        )
