"""Where a tower runs and how finely: device, precision, quantisation; decided from sizes, before weights are read.

Each tower is placed on its own when it is first used: on the GPU if it fits into the memory that is free there,
on the CPU otherwise. So a small vision tower shares a card with an LLM that fits beside it, and an LLM that does
not fit answers from the CPU while the vision tower keeps the card.
"""

import importlib.util
import logging
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llm2clip_search.encoders.config import TextConfig, VisionConfig
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.weights import tensor_shapes, weight_files
from llm2clip_search.errors import ModelError

if TYPE_CHECKING:
    import torch

    from llm2clip_search.encoders.model import Model

logger = logging.getLogger(__name__)

TowerName = Literal["vision", "text"]
Precision = Literal["float32", "bfloat16", "float16"]
Quantize = Literal["none", "8bit", "4bit"]

BYTES_PER_PARAMETER = {"none": 2.0, "8bit": 1.0, "4bit": 0.5}
"""On a GPU, where weights are halves unless they are quantised."""
HEADROOM = 1.2
"""A tower is placed where its weights fit this many times: activations and the libraries' own memory."""
QUANTIZERS = ("bitsandbytes", "torchao")
"""Packages that quantise an LLM while transformers loads it, the preferred one first."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a tower's weights go and in which form; the default is what training and export start from."""

    device: str = "cpu"
    """One of torch's device names, not ``auto``."""
    precision: Precision = "float32"
    quantize: Quantize = "none"
    """Of an LLM's linear layers; whatever else there is keeps ``precision``."""

    @property
    def dtype(self) -> "torch.dtype":
        """``precision`` as torch names it."""
        import torch

        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype


def place_tower(model: "Model", name: TowerName, *, device: str = "auto", quantize: Quantize = "none") -> Placement:
    """Decide where a tower goes; a warning is logged where ``auto`` passes over a GPU.

    Raises:
        ModelError: quantisation of a tower that is no LLM, or without the package that does it.
    """
    if name == "vision":
        quantize = "none"  # a vision tower is small beside its LLM, and loses more
    elif quantize != "none":
        if model.config.text.library != "llm":
            raise ModelError(
                f"--quantize {quantize} is for LLM towers, but the text tower of {model.reference} is none."
            )
        quantizer(quantize)
    picked = pick_device(device)
    if device == "auto" and picked == "cuda":
        import torch

        weights, (free, _) = tower_parameters(model, name), torch.cuda.mem_get_info()
        picked = choose_device(weights=weights, free=free, quantize=quantize)
        if picked == "cpu" and weights is not None:
            logger.warning(
                "The %s tower of %s runs on the CPU: its %.1f billion parameters do not fit in the %.1f GB that are"
                " free on the GPU; device 'cuda' would put it there all the same.",
                name,
                model.reference,
                weights / 1e9,
                free / 1e9,
            )
    return Placement(device=picked, precision=default_precision(picked), quantize=quantize)


def choose_device(*, weights: int | None, free: int, quantize: Quantize = "none") -> Literal["cuda", "cpu"]:
    """Where a tower of so many weights goes, given the free bytes of the GPU.

    A tower of unknown size counts as small: only published dual encoders of open_clip are.
    """
    needed = 0.0 if weights is None else HEADROOM * BYTES_PER_PARAMETER[quantize] * weights
    return "cuda" if needed <= free else "cpu"


def default_precision(device: str) -> Precision:
    """Halves on a GPU, bfloat16 where it computes with them; float32 on the CPU."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "float16" if kind == "mps" else "float32"


def quantizer(quantize: Quantize) -> str:
    """The installed package that quantises an LLM.

    Raises:
        ModelError: there is none.
    """
    for package in QUANTIZERS:
        if importlib.util.find_spec(package) is not None:
            return package
    raise ModelError(
        f"--quantize {quantize} needs bitsandbytes or torchao, and neither is installed; run pip install bitsandbytes."
    )


def pick_device(device: str) -> str:
    """``auto`` is a CUDA GPU or Apple's where torch sees one, else the CPU.

    torch is asked only where a GPU could be: importing it costs seconds.
    """
    if device != "auto":
        return device
    apple = sys.platform == "darwin"
    if not (apple or has_nvidia_driver()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if apple and torch.backends.mps.is_available() else "cpu"


def has_nvidia_driver() -> bool:
    """Whether an NVIDIA card could be used, told without importing anything."""
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def tower_parameters(model: "Model", name: TowerName) -> int | None:
    """Numbers a tower holds, from the headers of its files; None where only its library knows.

    Base weights that are not on this disk are fetched, as the tower that needs them would.
    """
    own = 0
    if model.folder is not None and (path := model.folder / "model.safetensors").exists():
        own = sum(math.prod(shape) for key, shape in tensor_shapes(path).items() if key.startswith(f"{name}."))
    base = _base_weights(model.config.vision if name == "vision" else model.config.text, model.folder, name)
    return None if base is None else own + base


def _base_weights(config: VisionConfig | TextConfig, folder: Path | None, name: TowerName) -> int | None:
    if config.weights is None:
        return 0
    if config.library == "open_clip":
        return None
    path = fetch(config.weights, relative_to=folder).path
    if path.suffix == ".gguf":
        from gguf import GGUFReader

        return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    if path.is_file() and path.suffix != ".safetensors":
        return path.stat().st_size // 4  # a pickle of float32
    files = [path] if path.is_file() else weight_files(path)
    shapes = {key: shape for file in files for key, shape in tensor_shapes(file).items()}
    other = ("text_model.", "text_projection.") if name == "vision" else ("vision_model.", "visual_projection.")
    return sum(math.prod(shape) for key, shape in shapes.items() if not key.startswith(other))
