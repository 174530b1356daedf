"""What fits this machine: the memory of its GPU and of the machine itself, against a tower's weights."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llm2clip_search.encoders.catalogue import CatalogueModel
from llm2clip_search.encoders.placement import BYTES_PER_PARAMETER, HEADROOM, pick_device

Fit = Literal["yes", "images", "no"]
"""``images``: the vision tower alone fits, so images can be indexed here and asked for elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One place where a tower can lie."""

    device: str
    """One of torch's device names."""
    bytes: int
    """All there is, whether free or not."""
    bytes_per_parameter: float
    """Of the precision that towers have there unless told otherwise: halves on a GPU, float32 on the CPU."""

    def needed(self, weights: int) -> int:
        """Bytes that a tower's weights take here."""
        return round(self.bytes_per_parameter * weights)

    def fits(self, weights: int) -> bool:
        """Whether a tower fits, with the room that its activations need."""
        return HEADROOM * self.needed(weights) <= self.bytes


def machine_memory() -> tuple[Memory, ...]:
    """The places of this machine, the one that ``--device auto`` tries first in front.

    Either tower is placed by itself, so a model fits where each of its towers fits somewhere.
    """
    device = pick_device("auto")
    cpu = Memory(device="cpu", bytes=_ram(), bytes_per_parameter=4.0)
    if device == "cpu":
        return (cpu,)
    if device == "mps":  # one memory for both
        return (Memory(device=device, bytes=cpu.bytes, bytes_per_parameter=BYTES_PER_PARAMETER["none"]),)
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    return (Memory(device=device, bytes=total, bytes_per_parameter=BYTES_PER_PARAMETER["none"]), cpu)


def place_of(weights: int, places: Sequence[Memory]) -> Memory | None:
    """The first place where a tower fits; None where it fits nowhere."""
    return next((place for place in places if place.fits(weights)), None)


def fit(model: CatalogueModel, places: Sequence[Memory]) -> Fit:
    """What of a model can be done here."""
    if place_of(model.vision_parameters, places) is None:
        return "no"
    return "images" if place_of(model.text_parameters, places) is None else "yes"


def _ram() -> int:
    """Bytes of physical memory; on a system that does not tell, none are counted on."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
