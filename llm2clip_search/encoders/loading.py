"""Load weights into torch modules without a second copy, accounting for every key."""

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
    """Call ``build`` so that the module's parameters have no memory until `load_exactly` assigns them.

    A module that computes buffers from its parameters, or that needs their values, is built as usual.
    """
    try:
        with _skeleton():
            module = build()
    except (RuntimeError, NotImplementedError):  # torch's errors for reading a value on the meta device
        return build()
    return build() if any(buffer.is_meta for buffer in module.buffers()) else module


@contextlib.contextmanager
def _skeleton() -> Iterator[None]:
    """Put parameters that are registered inside on torch's meta device.

    Unlike building the whole module on that device, this keeps tables that a constructor computes and no checkpoint
    holds, such as those of rotary positions.
    """
    thread = threading.get_ident()  # torch calls the hook in every thread; other threads' modules are left alone

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
    """Assign tensors to a module's parameters and buffers, accounting for every key.

    Only tensors whose dtype differs from the module's, or that are not on ``device``, are copied.

    Args:
        what: names the module in errors.

    Raises:
        ModelError: a key is missing or unexpected, or a shape differs; each is named.
    """
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise ModelError(f"Weights of the {what} do not fit: missing {missing[:5]}, unexpected {extra[:5]}.")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ModelError(
                f"Weight {name} of the {what} has shape {list(tensor.shape)}, but {list(wanted[name].shape)} is needed."
            )
    own = {name: tensor.to(device, wanted[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(own, assign=True)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, or of a pickle, which is read with ``weights_only`` and runs no code."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
