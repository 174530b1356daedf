"""Trained parameters by learning rate, weight decay and sharding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from llm2clip_search.training.runtime.sharding import is_sharded


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters with a common learning rate."""

    parameters: Mapping[str, nn.Parameter]
    scale: float = 1.0
    """Factor on the recipe's learning rate."""
    complete: bool = False
    """Whether every rank computes the complete gradient, as for the temperature of the gathered loss."""

    @property
    def is_decayed(self) -> bool:
        """Whether weight decay applies: to matrices, but not to biases, norms and temperatures."""
        return next(iter(self.parameters.values())).ndim > 1


def split_by_kind(groups: Sequence[ParameterGroup]) -> list[ParameterGroup]:
    """Split groups so that each has one weight decay and does not mix sharded with full tensors."""
    out = []
    for group in groups:
        parts: dict[tuple[bool, bool], dict[str, nn.Parameter]] = {}
        for name, parameter in group.parameters.items():
            parts.setdefault((parameter.ndim > 1, is_sharded(parameter)), {})[name] = parameter
        out += [replace(group, parameters=part) for part in parts.values()]
    return out
