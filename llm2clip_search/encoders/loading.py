"""Weights into torch modules without a second copy: parameters are assigned, and every key is accounted for."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from llm2clip_search.errors import ModelError


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """What ``build`` makes, its parameters without memory until `load_exactly` assigns them.

    A module that computes buffers from its parameters, or cannot be made without their numbers, is made as usual.
    """
    try:
        with _skeleton():
            module = build()
    except (RuntimeError, NotImplementedError):  # what torch raises where a number is asked of the meta device
        return build()
    return build() if any(buffer.is_meta for buffer in module.buffers()) else module


@contextlib.contextmanager
def _skeleton() -> Iterator[None]:
    """Parameters registered inside lie on torch's meta device.

    Unlike a whole module on that device, this leaves tables that a constructor computes, such as those of
    rotary positions, which no checkpoint holds.
    """
    thread = threading.get_ident()  # the hook is torch's, for every thread; modules of others are none of ours

    def empty(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != thread:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(cast(Callable[..., None], empty))  # its stub is too narrow
    try:
        yield
    finally:
        handle.remove()


def load_exactly(module: nn.Module, tensors: Mapping[str, torch.Tensor], what: str, *, device: str = "cpu") -> None:
    """Make tensors a module's own, with every key accounted for.

    They are not copied, but for those of another dtype than the module's or not yet on ``device``.

    Raises:
        ModelError: a missing or unexpected key, or another shape; each is named.
    """
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise ModelError(f"Weights of the {what} do not fit: missing {missing[:5]}, unexpected {extra[:5]}.")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ModelError(
                f"Weight {name} of the {what} is {list(tensor.shape)}, but {list(wanted[name].shape)} is needed."
            )
    own = {name: tensor.to(device, wanted[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(own, assign=True)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file or of a pickle read with ``weights_only``: no code runs."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
