"""Where a tower runs and in which precision; decided from file headers, before weights are read.

Each tower is placed when it is first used: on the GPU if it fits in the memory that is free there, on the CPU
otherwise. A small vision tower and an LLM share a GPU if both fit; an LLM that does not fit runs on the CPU while the
vision tower stays on the GPU.
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
from llm2clip_search.encoders.gguf_header import gguf_parameters
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
"""On a GPU, by quantisation; unquantised weights have half precision there."""
HEADROOM = 1.2
"""Memory that a tower needs, activations and the libraries' own memory included, as a multiple of its weights."""
QUANTIZERS = ("bitsandbytes", "torchao")
"""Packages that quantise an LLM while transformers loads it, in order of preference."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device and precision of a tower's weights; the defaults are those of training and export."""

    device: str = "cpu"
    """One of torch's device names, not ``auto``."""
    precision: Precision = "float32"
    quantize: Quantize = "none"
    """Quantisation of an LLM's linear layers; everything else keeps ``precision``."""

    @property
    def dtype(self) -> "torch.dtype":
        """``precision`` as a torch dtype."""
        import torch

        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype


def place_tower(model: "Model", name: TowerName, *, device: str = "auto", quantize: Quantize = "none") -> Placement:
    """Decide where a tower runs; a warning is logged if it does not fit on the GPU that ``auto`` would prefer.

    Raises:
        ModelError: a text tower that is not an LLM is to be quantised, or no package for it is installed.
    """
    if name == "vision":
        quantize = "none"  # vision towers are small compared with their LLMs, and lose more
    elif quantize != "none":
        if model.config.text.library != "llm":
            raise ModelError(
                f"Only an LLM can be quantised to {quantize}, but the text tower of {model.reference} is not one.",
                hint="Omit --quantize.",
            )
        quantizer(quantize)
    picked = pick_device(device)
    if device == "auto" and picked == "cuda":
        import torch

        parameters, (free, _) = tower_parameters(model, name), torch.cuda.mem_get_info()
        picked = choose_device(parameters=parameters, free=free, quantize=quantize)
        if picked == "cpu" and parameters is not None:
            logger.warning(
                "The %s tower of %s runs on the CPU: its %.1f billion parameters do not fit in the %.1f GB that are"
                " free on the GPU; device 'cuda' would put it there all the same.",
                name,
                model.reference,
                parameters / 1e9,
                free / 1e9,
            )
    return Placement(device=picked, precision=default_precision(picked), quantize=quantize)


def choose_device(*, parameters: int | None, free: int, quantize: Quantize = "none") -> Literal["cuda", "cpu"]:
    """The device for a tower, given the free memory of the GPU in bytes.

    A tower of unknown size is assumed to fit: only open_clip's dual encoders, which are small, have unknown sizes.
    """
    required = 0.0 if parameters is None else HEADROOM * BYTES_PER_PARAMETER[quantize] * parameters
    return "cuda" if required <= free else "cpu"


def default_precision(device: str) -> Precision:
    """float32 on the CPU; on a GPU bfloat16 if it computes in it, else float16."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "float16" if kind == "mps" else "float32"


def quantizer(quantize: Quantize) -> str:
    """The installed package that quantises an LLM.

    Raises:
        ModelError: no such package is installed.
    """
    for package in QUANTIZERS:
        if importlib.util.find_spec(package) is not None:
            return package
    raise ModelError(
        f"Quantisation to {quantize} needs bitsandbytes or torchao, and neither is installed.",
        hint="Install one: pip install bitsandbytes.",
    )


def pick_device(device: str) -> str:
    """Resolve ``auto``: a CUDA GPU or Apple's if torch sees one, else the CPU.

    torch, whose import takes seconds, is imported only if the machine may have a GPU.
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
    """Whether the machine may have an NVIDIA GPU; nothing is imported to find out."""
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def tower_parameters(model: "Model", name: TowerName) -> int | None:
    """Parameter count of a tower, read from file headers; None if unknown, as for open_clip's towers.

    Base weights that are not on this machine are fetched, as they are when the tower is loaded.
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
        return gguf_parameters(path)
    if path.is_file() and path.suffix != ".safetensors":
        return path.stat().st_size // 4  # a pickle of float32 tensors
    files = [path] if path.is_file() else weight_files(path)
    shapes = {key: shape for file in files for key, shape in tensor_shapes(file).items()}
    other = ("text_model.", "text_projection.") if name == "vision" else ("vision_model.", "visual_projection.")
    return sum(math.prod(shape) for key, shape in shapes.items() if not key.startswith(other))
