"""Names to models: ``nano``, LLM2CLIP's published names, ``open_clip:ARCH/TAG``, ``hf:owner/repo[@revision]``,
``dir:PATH``.
"""

import json
from importlib.resources import files
from pathlib import Path

from llm2clip_search.encoders.catalogue import convertible, near_names, of_repo
from llm2clip_search.encoders.checkpoints.pull import is_pulled, pull
from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.dual import open_clip_model, transformers_model
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.plugins import plugin_distribution, plugin_schemes
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.weights import refuse_pickle
from llm2clip_search.errors import ModelError

DEFAULT_MODEL = "nano"
PACKAGED = ("nano",)
"""Models whose folder lies in this package, under ``encoders/models``."""
SCHEMES = ("open_clip", "hf", "dir")
"""What a name may start with, before a colon; other packages may provide more, see `plugins`."""


def resolve(name: str) -> Model:
    """Find the model that a name stands for; base weights stay unfetched where possible.

    An LLM2CLIP checkpoint is fetched and converted when it is first resolved (`is_at_hand` tells whether it was).

    Raises:
        ModelError: a name of no model, an unreadable folder, or a hub out of reach.
    """
    scheme, separator, rest = name.partition(":")
    if not separator:
        if name in PACKAGED:
            return _from_folder(Path(str(files("llm2clip_search.encoders"))) / "models" / name, name)
        if published := convertible(name):
            return _from_folder(pull(published), published.name)
        raise ModelError(_no_such_model(name))
    if scheme == "open_clip":
        return Model(name, open_clip_model(rest), None)
    if scheme == "dir":
        folder = fetch(name).path.absolute()
        return _from_folder(folder, f"dir:{folder}")
    if scheme == "hf":
        if published := of_repo(rest.partition("@")[0]):
            raise ModelError(f"{name} is in a layout of its own; name it {published.name}, and it is converted.")
        return _from_folder(fetch(name).path, name)
    raise ModelError(_unknown_scheme(name, scheme))


def is_at_hand(name: str) -> bool:
    """Whether `resolve` answers without fetching a checkpoint."""
    published = convertible(name)
    return published is None or is_pulled(published)


def _unknown_scheme(name: str, scheme: str) -> str:
    if provider := plugin_distribution(scheme):
        return f"{name!r} is an encoder of the package {provider}; it has no model folder."
    provided = [each for each in plugin_schemes() if each not in SCHEMES]
    known = ", ".join(f"{each}:" for each in (*SCHEMES, *provided))
    return f"{name!r} names no model: its scheme is none of {known}."


def _no_such_model(name: str) -> str:
    near = near_names(name)
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
