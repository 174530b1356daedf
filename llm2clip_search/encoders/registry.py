"""Names to models: ``nano``, LLM2CLIP's published names, ``open_clip:ARCH/TAG``, ``hf:owner/repo[@revision]``,
``dir:PATH``.
"""

import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from llm2clip_search.base.files import file_sha256
from llm2clip_search.base.identity import ModelIdentity, json_sha256
from llm2clip_search.encoders.catalogue import convertible, near_names, of_repo
from llm2clip_search.encoders.checkpoints.pull import is_pulled, pull
from llm2clip_search.encoders.config import ModelConfig, TextConfig
from llm2clip_search.encoders.plugins import plugin_distribution, plugin_schemes
from llm2clip_search.encoders.sources import fetch, refuse_pickle
from llm2clip_search.encoders.tokenization import CaptionTokenizer, caption_tokenizer
from llm2clip_search.encoders.weights import mapped_tensors
from llm2clip_search.errors import ModelError

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "nano"
PACKAGED = ("nano",)
"""Models whose folder lies in this package, under ``encoders/models``."""
SCHEMES = ("open_clip", "hf", "dir")
"""What a name may start with, before a colon; other packages may provide more, see `plugins`."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Model:
    """A resolved model: its configuration, and where its own tensors and tokenizer lie."""

    reference: str
    """The name that finds it again from any folder; an index remembers this one."""
    config: ModelConfig
    folder: Path | None
    """The model folder; None for open_clip, which keeps weights itself."""

    def tensors(self, tower: str, *, dtype: "torch.dtype | None" = None) -> dict[str, "torch.Tensor"]:
        """Tensors of ``model.safetensors`` under ``vision.`` or ``text.``, prefix removed.

        They lie in the mapped file, but for floats of another type than ``dtype``; see `weights.mapped_tensors`.
        """
        path = self._own_tensors
        if path is None:
            return {}
        found = mapped_tensors(path, keep=lambda name: name.startswith(f"{tower}."), dtype=dtype)
        return {name.partition(".")[2]: tensor for name, tensor in found.items()}

    def tokenizer(self) -> CaptionTokenizer:
        """The text tower's tokenizer; an LLM's loads neither torch nor transformers."""
        return caption_tokenizer(self.config.text, self.folder)

    @cached_property
    def identity(self) -> ModelIdentity:
        """Hashes of what decides the embeddings; names, licences and notes are left out.

        Only tensors that lie beside the configuration are read; pinned base weights count by pin.
        """
        raw = self.config.to_dict()
        vision = raw["vision"]
        # Younger than the first release, as in `_text_parts`.
        for key in ("options", "pooled_modules"):
            if not vision[key]:
                del vision[key]
        if vision["preprocess"]["crop_rounding"] == "nearest":
            del vision["preprocess"]["crop_rounding"]
        tokens, text, text_pin = _text_parts(self.config.text, self.folder)
        before = {"preprocess": vision.pop("preprocess"), "text": tokens}
        pins = [_pin(vision.pop("weights"), self.folder), text_pin]
        own = file_sha256(self._own_tensors) if self._own_tensors else ""
        space = {"dim": raw["dim"]} | ({"querybank": raw["querybank"]} if raw["querybank"] else {})
        return ModelIdentity(
            name=self.reference,
            revision=own[:12] or pins[0][:12],
            weights_sha256=json_sha256({"own": own, "pins": pins, "vision": vision, "text": text} | space),
            preprocess_sha256=json_sha256(before),
        )

    @property
    def _own_tensors(self) -> Path | None:
        path = self.folder / "model.safetensors" if self.folder else None
        return path if path is not None and path.exists() else None


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
        from llm2clip_search.encoders.dual import open_clip_model

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
        from llm2clip_search.encoders.dual import transformers_model

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


def text_fingerprint(text: TextConfig, folder: Path | None = None) -> str:
    """16 hex digits of a classic CLIP text tower, equal for two exactly if their embeddings are."""
    return json_sha256(_text_parts(text, folder))[:16]


def _text_parts(text: TextConfig, folder: Path | None) -> tuple[dict[str, object], dict[str, object], str]:
    """Of a text tower: what comes before it, what it is, and the pin of its base weights."""
    rest = asdict(text)
    before = {key: rest.pop(key) for key in ("max_tokens", "instruction", "pooling", "attention")}
    pin = _pin(rest.pop("weights"), folder)
    # Options younger than the first release count where they are set: older models keep their fingerprints.
    if suffix := rest.pop("suffix"):
        before["suffix"] = suffix
    for key in ("standardised", "clip"):
        if not rest[key]:
            del rest[key]
    if text.clip is not None:
        rest["clip"] = _text_parts(text.clip, folder)
    return before, rest, pin


def _pin(source: str | None, folder: Path | None) -> str:
    if source is None:
        return ""
    scheme, _, rest = source.partition(":")
    if scheme == "pypi":
        return rest.partition("#")[2]
    if scheme == "hf":
        # A commit pins its content by itself: images are indexed without the LLM ever being fetched.
        commit = source.partition("@")[2]
        return commit if _COMMIT.fullmatch(commit) else fetch(source).revision
    path = fetch(source, relative_to=folder).path if scheme == "dir" else Path(source)
    if path.is_dir():
        return json_sha256([[f.name, file_sha256(f)] for f in sorted(path.glob("*.safetensors"))])
    return file_sha256(path) if path.is_file() else source
