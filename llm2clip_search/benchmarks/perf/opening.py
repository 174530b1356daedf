"""Memory needed to open a model: the peak of a fresh process compared with the size of what it opens.

The peak is the kernel's figure (`base.memory.peak_bytes`) and includes mapped pages of files. What the interpreter and
the libraries hold is subtracted; it is measured in the same process after all imports and before anything is loaded.
Every tensor is read once before the peak is taken, because a mapped file takes no memory until it is read.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llm2clip_search.base.memory import peak_bytes, resident_bytes
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.placement import TowerName
from llm2clip_search.encoders.registry import fetch_model, resolve
from llm2clip_search.encoders.sources import fetch
from llm2clip_search.encoders.towers import build_module
from llm2clip_search.encoders.weights import weight_files
from llm2clip_search.errors import ModelError

TOWERS: tuple[TowerName, ...] = ("vision", "text")
_CHILD = (
    "import json, sys; from llm2clip_search.benchmarks.perf.opening import measure_here; "
    "print(json.dumps(measure_here(*sys.argv[1:])))"
)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Memory needed to open one tower in float32 on the CPU, in bytes."""

    tower: TowerName
    stored: int
    """Size on disk: its tensors in the model folder plus the complete files of its base weights."""
    size: int
    """Size in memory; twice ``stored`` if the tensors are stored as float16."""
    libraries: int
    """Memory of the process before anything is loaded; not part of ``peak``."""
    peak: int
    """Largest amount that opening added at any moment."""

    @property
    def ratio(self) -> float:
        """``peak / size``; 1 means one copy of every parameter and nothing else."""
        return self.peak / self.size

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


def measure_opening(name: str, towers: Sequence[TowerName] = TOWERS) -> list[Opening]:
    """Open each tower of a model in its own process; base weights are fetched first.

    Raises:
        ModelError: there is no such model, or a tower cannot be opened.
    """
    model = fetch_model(name)
    return [_in_fresh_process(model, tower) for tower in towers]


def _in_fresh_process(model: Model, tower: TowerName) -> Opening:
    _stored(model, tower)  # fetches base weights, so that the child does not
    command = [sys.executable, "-c", _CHILD, model.reference, tower]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"its process ended with exit code {done.returncode}"]
        raise ModelError(f"The {tower} tower of {model.reference} cannot be opened: {reason[0]}")
    return Opening(tower=tower, **json.loads(done.stdout.splitlines()[-1]))


def measure_here(reference: str, tower: TowerName) -> dict[str, int]:
    """Open a tower in this process, which must be fresh; returns the fields of an `Opening` except ``tower``."""
    model = resolve(reference)
    _import_libraries(model, tower)
    libraries = resident_bytes()
    module = build_module(model, tower)
    tensors = [*module.parameters(), *module.buffers()]
    for tensor in tensors:
        tensor.detach().sum()
    return {
        "stored": _stored(model, tower),
        "size": sum(tensor.nbytes for tensor in tensors),
        "libraries": libraries,
        "peak": peak_bytes() - libraries,
    }


def _import_libraries(model: Model, tower: TowerName) -> None:
    """Import everything that the tower needs, including the transformers module of its family; read no weights."""
    import torch

    from llm2clip_search.encoders import text, vision  # noqa: F401
    from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    config = model.config.vision if tower == "vision" else model.config.text
    if config.library == "timm":
        import timm  # noqa: F401
    elif config.library == "open_clip":
        import open_clip  # noqa: F401
    else:
        import transformers

        path = fetch(config.weights, relative_to=model.folder).path if config.weights else None
        family: Any = transformers.CLIPVisionConfig() if tower == "vision" else transformers.LlamaConfig()
        if path is not None and path.is_dir():
            family = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        with torch.device("meta"):
            transformers.AutoModel.from_config(family)


def _stored(model: Model, tower: TowerName) -> int:
    config = model.config.vision if tower == "vision" else model.config.text
    own = sum(tensor.nbytes for tensor in model.tensors(tower).values())
    if config.weights is None or config.library == "open_clip":
        return own
    path = fetch(config.weights, relative_to=model.folder).path
    files = weight_files(path) if path.is_dir() else [path]
    return own + sum(file.stat().st_size for file in files)
