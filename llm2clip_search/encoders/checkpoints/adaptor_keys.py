"""Names of the adaptor's tensors: from the published ones to this project's and back.

The published names of block N are ``<container>.N.fn.0`` and ``.fn.3`` (its two linear layers, with GELU and dropout
between them) and ``.N.ln``; the LayerNorm and linear layer after the blocks are numbered like blocks.

The container is ``text_adapter.adaptor`` in the Hugging Face layout. In the training repository it names the class of
the text tower, whatever the vision tower is: ``text.text_adaptor`` is the adaptor alone, trained on embeddings computed
before (``use_embedding``) and L2-normalised; ``text.text_proj.text_adaptor`` follows the LLM, whose states it takes as
they are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.checkpoints.layouts import LayoutName, check_keys, listed, need, shapes_of
from llm2clip_search.encoders.config import AdaptorConfig
from llm2clip_search.errors import ModelError

_KEY = re.compile(r"(?P<container>(?:(?:text|text_proj|text_projection|(?:text_)?adapt[eo]r)\.)+)(?P<rest>\d+\..+)")
_BLOCK_KEY = re.compile(
    r"(?P<block>\d+)\.(?P<layer>(?:fn|net|mlp|ff)\.(?P<number>\d)|ln|norm|layer_norm)\.(?P<part>weight|bias)"
)
_END_KEY = re.compile(r"(?P<index>\d+)\.(?P<part>weight|bias)")
_AFTER_LLM = ("text_proj", "text_projection")
"""Parts of a container's name that only an adaptor after the LLM has."""
_FIRST, _SECOND = ("fn.0", "fn.3")
_OURS = {_FIRST: "expand", _SECOND: "contract", "ln": "norm"}


@dataclass(frozen=True, kw_only=True)
class AdaptorPart:
    """A converted adaptor."""

    config: AdaptorConfig
    hidden: int
    """Width of its input, the LLM's state."""
    dim: int
    """Width of its embeddings."""
    tensors: Mapping[str, torch.Tensor]
    """By the names of `adaptor.Adaptor`."""
    used: frozenset[str]
    """Published keys that are accounted for."""
    notes: tuple[str, ...] = ()


def container_of(layout: LayoutName, *, normalises: bool) -> str:
    """Prefix of the adaptor's keys in a layout, for an adaptor that L2-normalises its input or does not."""
    if layout == "openai":
        return "text_adapter.adaptor"
    return "text.text_adaptor" if normalises else "text.text_proj.text_adaptor"


def convert_adaptor(tensors: Mapping[str, torch.Tensor], layout: LayoutName) -> AdaptorPart:
    """Find the adaptor among a checkpoint's tensors, under any plausible spelling of its keys, and rename it.

    Raises:
        ModelError: there is no adaptor, keys are missing or unexpected, or shapes do not fit.
    """
    matches = {name: match for name in tensors if (match := _KEY.fullmatch(name))}
    if not matches:
        raise ModelError(
            f"The checkpoint has no adaptor: no key starts with {container_of(layout, normalises=True)}.0."
        )
    containers = sorted({match["container"].rstrip(".") for match in matches.values()})
    if len(containers) > 1:
        raise ModelError(f"The checkpoint has {len(containers)} adaptors: {', '.join(containers)}.")
    published = {match["rest"]: tensors[name] for name, match in matches.items()}
    spelled = _spelled(published)
    last = max(int(name.partition(".")[0]) for name in spelled)
    found = {_our_name(name, last - 1): tensor for name, tensor in spelled.items()}
    norm, weight, expand = (need(found, f"{n}.weight") for n in ("norm", "projection", "blocks.0.expand"))
    hidden, dim = norm.shape[0], weight.shape[0]
    if expand.shape[0] % hidden:
        raise ModelError(f"The adaptor's inner width {expand.shape[0]} is not a multiple of its width {hidden}.")
    # Weights do not show whether the input is L2-normalised.
    normalises = not any(part in _AFTER_LLM for part in containers[0].split("."))
    config = AdaptorConfig(blocks=last - 1, expansion=expand.shape[0] // hidden, normalises=normalises)
    with torch.device("meta"):
        wanted = shapes_of(Adaptor(hidden, dim, config))
    check_keys(f"adaptor {containers[0]}", wanted, found)
    return AdaptorPart(
        config=config,
        hidden=hidden,
        dim=dim,
        tensors=found,
        used=frozenset(matches),
        notes=_notes(container_of(layout, normalises=normalises), containers[0], set(published) - set(spelled)),
    )


def adaptor_to_checkpoint(tensors: Mapping[str, torch.Tensor], container: str) -> dict[str, torch.Tensor]:
    """Rename an adaptor's tensors to those of a `container_of` a layout; the inverse of `convert_adaptor`."""
    theirs = {ours: name for name, ours in _OURS.items()}
    blocks = 1 + max((int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")), default=-1)
    ends = {"norm": str(blocks), "projection": str(blocks + 1)}
    published = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if layer in ends:
            layer = ends[layer]
        else:
            _, number, layer = layer.split(".")
            layer = f"{number}.{theirs[layer]}"
        published[f"{container}.{layer}.{part}"] = tensor
    return published


def _spelled(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keys inside the container in the training repository's spelling; unknown keys are kept as they are.

    The second linear layer is number 3, or 2 in a checkpoint written without the dropout layer, which has no weights.
    """
    spelled = {}
    for name, tensor in published.items():
        if match := _BLOCK_KEY.fullmatch(name):
            layer, number = match["layer"], match["number"]
            layer = {None: "ln", "0": _FIRST, "2": _SECOND, "3": _SECOND}.get(number, layer)
            name = f"{match['block']}.{layer}.{match['part']}"  # noqa: PLW2901 - the same key, respelled
        if name in spelled:
            raise ModelError(f"Two keys of the adaptor both mean {name}: {listed(published)}.")
        spelled[name] = tensor
    return spelled


def _our_name(name: str, norm: int) -> str:
    """This project's name; ``norm`` is the number of the LayerNorm after the blocks. Unknown names are kept, so that
    `check_keys` lists them."""
    if match := _END_KEY.fullmatch(name):
        layer = {norm: "norm", norm + 1: "projection"}.get(int(match["index"]))
        return f"{layer}.{match['part']}" if layer else name
    if match := _BLOCK_KEY.fullmatch(name):
        layer = _OURS.get(match["layer"])
        return f"blocks.{match['block']}.{layer}.{match['part']}" if layer else name
    return name


def _notes(expected: str, container: str, renamed: set[str]) -> tuple[str, ...]:
    notes = []
    if container != expected:
        notes.append(f"The adaptor's keys start with {container}; {expected} was expected.")
    if renamed:
        notes.append(f"The adaptor has keys other than fn.0, fn.3 and ln: {listed(renamed)}.")
    return tuple(notes)
