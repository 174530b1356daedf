"""Checks of the values of a recipe, all with the same sentence."""

from collections.abc import Mapping


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
