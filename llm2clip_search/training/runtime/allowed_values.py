"""Checks of the values of a recipe, all with the same sentence."""

import math
from collections.abc import Mapping
from typing import Protocol


class Contrastive(Protocol):
    """What the recipes of both stages have."""

    @property
    def batch_size(self) -> int: ...
    @property
    def micro_batch(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def lang_weights(self) -> Mapping[str, float]: ...


def contrastive_values(recipe: Contrastive) -> dict[str, tuple[bool, str]]:
    """Rules of `require_values` for the fields of a contrastive stage."""
    return {
        "batch_size": (recipe.batch_size >= 2, "at least 2"),
        "micro_batch": (recipe.micro_batch >= 1, "at least 1"),
        "temperature": (0.0 < recipe.temperature < math.inf, "greater than 0"),
        "lang_weights": (all(weight >= 0.0 for weight in recipe.lang_weights.values()), "0 or more for each"),
    }


def require_values(config: object, rules: Mapping[str, tuple[bool, str]]) -> None:
    """Check fields of a configuration.

    Args:
        rules: by field, whether its value is allowed, and which values are: "at least 1".

    Raises:
        ValueError: a value is not allowed; the message has the field, the value and what is allowed.
    """
    for name, (is_allowed, allowed) in rules.items():
        if not is_allowed:
            raise ValueError(f"{name} is {getattr(config, name)}, but it has to be {allowed}")
