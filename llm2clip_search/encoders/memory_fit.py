"""Which models fit in this machine's memory: that of its GPU and of the machine, compared with each tower's weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llm2clip_search.base.memory import physical_bytes
from llm2clip_search.encoders.catalogue import CatalogueModel
from llm2clip_search.encoders.placement import BYTES_PER_PARAMETER, HEADROOM, pick_device

Fit = Literal["yes", "images", "no"]
"""``images``: only the vision tower fits, so that images can be indexed here and searched on another machine."""


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """The memory of a device that a tower can be loaded on."""

    device: str
    """One of torch's device names."""
    bytes: int
    """In total, whether free or not."""
    bytes_per_parameter: float
    """At the default precision of the device: 2 on a GPU, 4 (float32) on the CPU."""

    def required(self, parameters: int) -> int:
        """Bytes that a tower's weights take on this device."""
        return round(self.bytes_per_parameter * parameters)

    def fits(self, parameters: int) -> bool:
        """Whether a tower fits, activations included."""
        return HEADROOM * self.required(parameters) <= self.bytes


def machine_memory() -> tuple[DeviceMemory, ...]:
    """The devices of this machine, starting with the one that device ``auto`` tries first.

    Towers are placed separately, so a model fits if each of its towers fits on some device.
    """
    device = pick_device("auto")
    cpu = DeviceMemory(device="cpu", bytes=physical_bytes(), bytes_per_parameter=4.0)
    if device == "cpu":
        return (cpu,)
    if device == "mps":  # the GPU shares the machine's memory
        return (DeviceMemory(device=device, bytes=cpu.bytes, bytes_per_parameter=BYTES_PER_PARAMETER["none"]),)
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    return (DeviceMemory(device=device, bytes=total, bytes_per_parameter=BYTES_PER_PARAMETER["none"]), cpu)


def first_fitting(parameters: int, devices: Sequence[DeviceMemory]) -> DeviceMemory | None:
    """The first device on which a tower fits; None if it fits on none."""
    return next((device for device in devices if device.fits(parameters)), None)


def model_fit(model: CatalogueModel, devices: Sequence[DeviceMemory]) -> Fit:
    """Which of a model's towers fit."""
    if first_fitting(model.vision_parameters, devices) is None:
        return "no"
    return "images" if first_fitting(model.text_parameters, devices) is None else "yes"
