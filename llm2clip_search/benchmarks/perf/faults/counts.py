"""What all kinds of faults are counted by."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Counts:
    """How many trials there were, and what was wrong in them."""

    trials: int = 0
    crashed: int = 0
    """Processes that died, hung or failed in another way than with a sentence."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Trials by what was done."""
    faults: list[str] = field(default_factory=list)
    """What was wrong, one line for each."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {**vars(self), "kinds": dict(self.kinds)}
