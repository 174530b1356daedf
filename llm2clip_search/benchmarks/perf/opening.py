"""What opening a model costs in memory: the peak of a fresh process against the size of what it opens.

The peak is the kernel's own (``getrusage``), mapped pages of files included. What interpreter and libraries hold is
taken off: it is measured in the same process when all is imported and nothing loaded. Every number is read
once before the peak is: a mapped file costs no memory until then.
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


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The memory of opening one tower in float32 on the CPU; sizes in bytes."""

    tower: TowerName
    stored: int
    """What it is on disk: its tensors in the model folder and the whole files of its base weights."""
    size: int
    """What it is in memory: twice ``stored`` where numbers are stored as halves."""
    libraries: int
    """Held by the process before anything was loaded; not in ``peak``."""
    peak: int
    """The most that opening added at any moment."""

    @property
    def ratio(self) -> float:
        """Peak to size: 1 is one copy of every number and nothing beside."""
        return self.peak / self.size

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


def measure_opening(name: str, towers: Sequence[TowerName] = TOWERS) -> list[Opening]:
    """Open each tower of a model in a process of its own; base weights are fetched before.

    Raises:
        ModelError: a name of no model, or a tower that cannot be opened.
    """
    model = fetch_model(name)
    return [_in_fresh_process(model, tower) for tower in towers]


def _in_fresh_process(model: Model, tower: TowerName) -> Opening:
    _stored(model, tower)  # fetches
    code = "import sys; from llm2clip_search.benchmarks.perf.opening import report; report(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, model.reference, tower], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"its process ended with {done.returncode}"]
        raise ModelError(f"The {tower} tower of {model.reference} cannot be opened: {reason[0]}")
    return Opening(tower=tower, **json.loads(done.stdout.splitlines()[-1]))


def report(reference: str, tower: TowerName) -> None:
    """Open a tower in this process, which should be fresh, and print the sizes of an `Opening` as JSON."""
    model = resolve(reference)
    _import_libraries(model, tower)
    libraries = resident_bytes()
    module = build_module(model, tower)
    tensors = [*module.parameters(), *module.buffers()]
    for tensor in tensors:
        tensor.detach().sum()
    sizes = {
        "stored": _stored(model, tower),
        "size": sum(tensor.nbytes for tensor in tensors),
        "libraries": libraries,
        "peak": peak_bytes() - libraries,
    }
    print(json.dumps(sizes))


def _import_libraries(model: Model, tower: TowerName) -> None:
    """What the tower will import, transformers' module of its own family included; its weights stay unread."""
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
